"""Class posteriors of a network on whole scans, slab by slab: single slices in 2.5D, thick slabs in 3D."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.nn.data.multiplanar import axis_orders
from medssl.nn.models.unet import Network
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors
from medssl.tasks.inference.slabs import Work, neighbouring_slices, slab_of, working_size
from medssl.tasks.loop import autocast

MARGIN = 8
"""Border voxels replicated around a slice, so that tissue keeps away from the convolutions' zero padding."""
PIXELS_AT_ONCE = 1 << 19
"""Pixels per batch of slices in 2.5D."""
VOXELS_AT_ONCE = 1 << 21
"""Voxels per slab of a scan that is predicted in several orientations."""
HALO = 16
"""Additional slices on both sides of such a slab, whose cut is a border in the other orientations."""


def scores_of_slabs(
    network: Network,
    plan: Plan,
    work: Work,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Predict a scan slab by slab, averaged over the orientations of the plan.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Channels of the normalized scan in work order, each (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Yields:
        Softmax scores of consecutive slabs, float32 (n, 1 + K, rows, columns).
    """
    predict_slabs = _slices_2d if plan.dims == 2 else _slabs_3d
    orders = axis_orders(plan, spacing)
    if len(orders) == 1:
        yield from predict_slabs(network, plan, work, spacing, device)
        return
    slices, rows, columns = work[0].shape
    thickness = max(MARGIN, VOXELS_AT_ONCE // (rows * columns))
    for first in range(0, slices, thickness):
        last = min(first + thickness, slices)
        low, high = max(0, first - HALO), min(slices, last + HALO)
        slab = slab_of(work, low, high, device)
        total: Tensor | None = None
        for order in orders:
            reoriented = [channel.permute(order) for channel in slab]
            slabs = predict_slabs(network, plan, reoriented, [spacing[axis] for axis in order], device)
            scores = torch.cat(list(slabs)).movedim(1, -1)
            back = scores.permute(*(order.index(axis) for axis in range(3)), 3)[first - low : last - low]
            total = back.clone() if total is None else total.add_(back)
        assert total is not None
        yield (total / len(orders)).movedim(-1, 1)


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
    slabs = scores_of_slabs(network, replace(plan, multiplanar=False), work, spacing, device)
    return smooth_posteriors(torch.cat(list(slabs)), plan.smoothing_sigma_mm, spacing)


def _scores(network: Network, plan: Plan, image: Tensor) -> Tensor:
    """Softmax scores, float32."""
    with autocast(image.device, plan.precision):
        scores = network(image)
    return scores.float().softmax(1)


def _smoothed(scores: Tensor, spacing: Sequence[float]) -> Tensor:
    """Scores (n, K, rows, columns) smoothed across slices.

    A 2.5D network decides each slice separately; adjacent slices add information where tissue hardly changes
    between them. Sigma is 0.7 pixels of the plane, so thick slices remain unchanged.
    """
    sigma = 0.7 * min(spacing[1:]) / spacing[0]
    weight = math.exp(-0.5 / sigma**2)
    before = torch.cat([scores[:1], scores[:-1]])
    after = torch.cat([scores[1:], scores[-1:]])
    return (scores + weight * (before + after)) / (1 + 2 * weight)


def _slices_2d(
    network: Network,
    plan: Plan,
    work: Work,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Softmax scores (n, K, rows, columns) of a few slices at a time."""
    rows, columns = work[0].shape[1:]
    size = working_size((rows, columns), spacing[1:], plan.spacing_mm[1:])
    at_once = max(4, PIXELS_AT_ONCE // (size[0] * size[1]))
    for first in range(0, len(work[0]), at_once):
        last = min(first + at_once, len(work[0]))
        low, high = max(0, first - 1), min(len(work[0]), last + 1)  # one more on each side for smoothing
        image = neighbouring_slices(work, low, high, plan.patch_vox[0], device)
        if size != (rows, columns):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        scores = _scores(network, plan, F.pad(image, (MARGIN,) * 4, mode="replicate"))
        scores = _smoothed(scores[..., MARGIN:-MARGIN, MARGIN:-MARGIN], spacing)[first - low : last - low]
        if size != (rows, columns):
            scores = F.interpolate(scores, (rows, columns), mode="bilinear", align_corners=False)
        yield scores


def _slabs_3d(
    network: Network,
    plan: Plan,
    work: Work,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Softmax scores (n, K, rows, columns) of slabs, predicted with half a patch more on both sides."""
    ratio = spacing[0] / plan.spacing_mm[0]
    thickness = max(1, round(plan.patch_vox[0] / ratio))
    halo = max(1, thickness // 2)
    for first in range(0, len(work[0]), thickness):
        last = min(first + thickness, len(work[0]))
        low, high = max(0, first - halo), min(len(work[0]), last + halo)
        slab = slab_of(work, low, high, device)[None]
        size = working_size(slab.shape[2:], spacing, plan.spacing_mm)
        resampled = slab if size == slab.shape[2:] else F.interpolate(slab, size, mode="trilinear")
        scores = sliding_window_inference(
            resampled,
            plan.patch_vox,
            plan.batch,
            lambda window: _scores(network, plan, window),
            overlap=0.25,
            mode="gaussian",
            padding_mode="replicate",
        )
        assert isinstance(scores, Tensor)
        if size != slab.shape[2:]:
            scores = F.interpolate(scores, slab.shape[2:], mode="trilinear")
        yield scores[0, :, first - low : last - low].movedim(1, 0)
