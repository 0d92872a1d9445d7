"""Class posteriors of a network on whole scans, in slabs that fit into memory.

What is computed together follows from the scan alone: batches of slices, layers of windows, blocks of
smoothing. Memory decides only where scores are kept (score_volume.py). So scores, and labels made of them,
are those of the whole scan at once:

- 2.5D networks see whole slices of the whole scan along each axis, because instance norm takes its statistics
  from a slice. Each slice is computed once.
- Smoothing across slices holds one batch back until the next slice is known.
- 3D networks slide over the whole scan, layer after layer (windows_3d.py).
- Posterior smoothing in mm reads the collected scores of its neighbourhood, as far as its Gaussian reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.nn.data.multiplanar import axis_orders
from medssl.nn.devices import autocast
from medssl.nn.models.unet import Network
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors, smooth_slab
from medssl.tasks.inference.score_volume import ScoreVolume
from medssl.tasks.inference.slabs import Work, neighbouring_slices, on_device, reoriented, working_size
from medssl.tasks.inference.threads import in_order
from medssl.tasks.inference.windows_3d import scores_of_windows

MARGIN = 8
"""Border voxels replicated around a slice, so that tissue keeps away from the convolutions' zero padding."""
PIXELS_AT_ONCE, MAX_THREADS = 1 << 18, 8
"""Pixels per batch of slices in 2.5D, and batches at a time on a CPU; each takes about 200 MB."""
TIMES_ON_A_GPU = 8
"""Times as many pixels per batch on a GPU."""
BLOCK_VOXELS, BLOCK_THREADS = 1 << 21, 4
"""Voxels of collected scores that are read, and smoothed in mm, together, and how many such blocks at a time
on a CPU; each takes about 200 MB."""
PIXELS_ACROSS = 1 << 22
"""Pixels of an orientation across the annotated slices whose scores are added to the collected ones together:
each slice touches a few bytes of every page."""


def posterior_slabs(
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict a scan, averaged over the orientations of the plan, and smooth its posteriors.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Channels of the normalized scan in work order, each (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Yields:
        Softmax scores of consecutive slabs before and after the smoothing in mm, each float32
        (n, 1 + K, rows, columns).

    Raises:
        UserError: "disk-full" or "not-writable" if scores do not fit into memory and there is no other room.
    """
    orders = axis_orders(plan, spacing)
    if len(orders) == 1 and not plan.smoothing_sigma_mm:
        for raw in _one_orientation(network, plan, work, spacing, device):
            yield raw, raw
        return
    with _collected(network, plan, work, spacing, device) as volume:
        slices, scores, rows, columns = volume.shape
        readers = [partial(volume.read_class, label) for label in range(1, scores)]
        thickness = max(1, BLOCK_VOXELS // (rows * columns))

        @torch.inference_mode()
        def block(first: int) -> tuple[Tensor, Tensor]:
            raw = volume.read(first, min(first + thickness, slices))
            return raw, smooth_slab(raw, first, slices, readers, plan.smoothing_sigma_mm, spacing)

        blocks = range(0, slices, thickness)
        yield from in_order(block, blocks, _threads(device, BLOCK_THREADS, len(blocks)))


def scores_of_slabs(
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> Iterator[Tensor]:
    """Predict a scan, averaged over the orientations of the plan, without smoothing in mm.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Channels of the normalized scan in work order, each (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Yields:
        Softmax scores of consecutive slabs, float32 (n, 1 + K, rows, columns).
    """
    for raw, _ in posterior_slabs(network, replace(plan, smoothing_sigma_mm=0.0), work, spacing, device):
        yield raw


@torch.inference_mode()
def scores_of(
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> Tensor:
    """Predict a few slices in the annotated orientation only, all in memory.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Channels of the normalized slices in work order, each (n, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Returns:
        Softmax scores, float32 (n, 1 + K, rows, columns).
    """
    slabs = _one_orientation(network, plan, work, spacing, device)
    return smooth_posteriors(torch.cat(list(slabs)), plan.smoothing_sigma_mm, spacing)


def _collected(
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> ScoreVolume:
    """Scores of all orientations; a 2.5D network sees whole slices of the scan along each axis."""
    volume: ScoreVolume | None = None
    slices, rows, columns = work[0].shape
    orders = axis_orders(plan, spacing)
    work = on_device(work, device)
    for order in orders:
        first = 0
        turned, steps = reoriented(work, order), [spacing[axis] for axis in order]
        slabs = _one_orientation(network, plan, turned, steps, device)
        if order[0] != 0:
            slabs = _in_blocks(slabs, PIXELS_ACROSS // (turned[0].shape[1] * turned[0].shape[2]))
        for scores in slabs:
            if volume is None:
                volume = ScoreVolume((slices, scores.shape[1], rows, columns), len(orders), device)
            volume.add(order, first, scores)
            first += len(scores)
    assert volume is not None
    return volume


def _in_blocks(slabs: Iterator[Tensor], least: int) -> Iterator[Tensor]:
    """Consecutive scores (n, 1 + K, rows, columns) in slabs of at least some slices, the last one aside."""
    waiting: list[Tensor] = []
    for slab in slabs:
        waiting.append(slab)
        if sum(map(len, waiting)) >= least:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def _one_orientation(
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> Iterator[Tensor]:
    """Softmax scores of consecutive slabs in the order of `work`."""
    predict = partial(_scores, network, plan)
    if plan.dims == 3:
        yield from scores_of_windows(predict, plan, work, spacing, device)
        return
    rows, columns = work[0].shape[1:]
    size = working_size((rows, columns), spacing[1:], plan.spacing_mm[1:])
    for scores in _smoothed(_slices_2d(network, plan, work, size, device), spacing):
        if size != (rows, columns):
            scores = F.interpolate(scores, (rows, columns), mode="bilinear", align_corners=False)
        yield scores


def _scores(network: Network, plan: Plan, image: Tensor) -> Tensor:
    """Softmax scores, float32."""
    with autocast(image.device, plan.precision):
        scores = network(image)
    return scores.float().softmax(1)


def _slices_2d(
    network: Network, plan: Plan, work: Work, size: tuple[int, ...], device: torch.device
) -> Iterator[Tensor]:
    """Softmax scores (n, 1 + K, *size) of a few slices at a time, resampled to `size`."""
    pixels = PIXELS_AT_ONCE * (TIMES_ON_A_GPU if device.type == "cuda" else 1)
    at_once = max(1, pixels // (size[0] * size[1]))

    @torch.inference_mode()
    def batch(first: int) -> Tensor:
        last = min(first + at_once, len(work[0]))
        image = neighbouring_slices(work, first, last, plan.patch_vox[0], device)
        if size != tuple(image.shape[2:]):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        scores = _scores(network, plan, F.pad(image, (MARGIN,) * 4, mode="replicate"))
        return scores[..., MARGIN:-MARGIN, MARGIN:-MARGIN]

    batches = range(0, len(work[0]), at_once)
    return in_order(batch, batches, _threads(device, MAX_THREADS, len(batches)))


def _threads(device: torch.device, most: int, items: int) -> int:
    """Number of items to compute at a time; an accelerator gets one after the other."""
    return min(most, torch.get_num_threads(), items) if device.type == "cpu" else 1


def _smoothed(batches: Iterator[Tensor], spacing: Sequence[float]) -> Iterator[Tensor]:
    """Consecutive scores (n, 1 + K, rows, columns) smoothed across slices, in the same batches.

    A 2.5D network decides each slice separately; adjacent slices add information where tissue hardly changes
    between them. Sigma is 0.7 pixels of the plane, so thick slices remain unchanged.
    """
    sigma = 0.7 * min(spacing[1:]) / spacing[0]
    weight = math.exp(-0.5 / sigma**2)

    def mixed(before: Tensor, scores: Tensor, after: Tensor) -> Tensor:
        padded = torch.cat([before, scores, after])
        return (scores + weight * (padded[:-2] + padded[2:])) / (1 + 2 * weight)

    scores = next(batches)
    before = scores[:1]
    for following in batches:
        yield mixed(before, scores, following[:1])
        before, scores = scores[-1:], following
    yield mixed(before, scores, scores[-1:])
