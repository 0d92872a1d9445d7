"""Sliding windows of a 3D network over a whole scan, in the memory of one layer of windows.

Positions, overlap and weights are those of MONAI's `sliding_window_inference` on the whole scan, which would
keep the scores of the scan in memory. Here windows are taken layer by layer across slices, and slices that no
later layer reaches are passed on. Resampling to the plan's spacing and back is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.tasks.inference.slabs import Work, slab_of, working_size

OVERLAP = 0.25
"""Fraction of a window that the next one covers again."""


def scores_of_windows(
    predict: Callable[[Tensor], Tensor],
    plan: Plan,
    work: Work,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Predict a scan by sliding windows with Gaussian weights.

    Args:
        predict: Softmax scores (B, 1 + K, D, H, W) of windows (B, C, D, H, W).
        plan: Plan of the network.
        work: Channels of the normalized scan in work order, each (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Yields:
        Scores of consecutive slabs, float32 (n, 1 + K, rows, columns).
    """
    shape = tuple(work[0].shape)
    size = working_size(shape, spacing, plan.spacing_mm)
    slabs = _layers(predict, plan, work, size, device)
    for scores in _interpolated(slabs, size[0], shape[0]):
        if size[1:] != shape[1:]:
            scores = F.interpolate(scores, shape[1:], mode="bilinear")
        yield scores


def _layers(
    predict: Callable[[Tensor], Tensor], plan: Plan, work: Work, size: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """Scores of consecutive slabs of the scan resampled to `size`, (n, 1 + K, *size[1:])."""
    patch = plan.patch_vox
    missing = [max(0, window - length) for window, length in zip(patch, size, strict=True)]
    before = [length // 2 for length in missing]
    depths, rows, columns = (
        _starts(length + more, window) for length, more, window in zip(size, missing, patch, strict=True)
    )
    weight = _importance(patch, device)
    total: Tensor | None = None
    count = torch.zeros(())
    for number, depth in enumerate(depths):
        layer = _resampled(work, range(depth - before[0], depth - before[0] + patch[0]), size, device)
        layer = F.pad(layer, _around(missing, before), mode="replicate")
        if total is not None:  # what the next layer covers again stays
            done = depth - depths[number - 1]
            total, count = (F.pad(part[:, done:], (0, 0, 0, 0, 0, done)) for part in (total, count))
        positions = list(product(rows, columns))
        for start in range(0, len(positions), plan.batch):
            inside = [
                (..., slice(row, row + patch[1]), slice(column, column + patch[2]))
                for row, column in positions[start : start + plan.batch]
            ]
            scores = predict(torch.stack([layer[window] for window in inside]))
            if total is None:
                total, count = (layer.new_zeros(each, *layer.shape[1:]) for each in (scores.shape[1], 1))
            for window, each in zip(inside, scores, strict=True):
                total[window] += each * weight
                count[window] += weight
        assert total is not None
        # Slices until the next layer begins, without those that were added around the scan.
        low = max(0, before[0] - depth)
        end = depths[number + 1] if number + 1 < len(depths) else size[0] + before[0]
        inner = (
            slice(None),
            slice(low, end - depth),
            slice(before[1], before[1] + size[1]),
            slice(before[2], before[2] + size[2]),
        )
        yield (total[inner] / count[inner]).movedim(0, 1)


def _starts(length: int, window: int) -> list[int]:
    """First voxels of the windows along one axis."""
    from monai.data.utils import dense_patch_slices  # four seconds that 2.5D networks need not wait

    interval = max(1, int(window * (1 - OVERLAP)))
    return [int(part[0].start) for part in dense_patch_slices((length,), (window,), (interval,))]


def _importance(patch: Sequence[int], device: torch.device) -> Tensor:
    """Gaussian weights of the voxels of a window, as MONAI's inferer has them."""
    from monai.data.utils import compute_importance_map

    weight = compute_importance_map(tuple(patch), mode="gaussian", sigma_scale=0.125, device=device).float()
    return weight.clamp(min=max(float(weight[weight != 0].min()), 1e-3))


def _around(missing: Sequence[int], before: Sequence[int]) -> tuple[int, int, int, int]:
    """Padding of rows and columns of a scan smaller than a window, for `F.pad` of (C, D, H, W)."""
    return before[2], missing[2] - before[2], before[1], missing[1] - before[1]


def _resampled(work: Work, slices: range, size: Sequence[int], device: torch.device) -> Tensor:
    """Slices of the scan on a grid of `size`, (C, len(slices), *size[1:]); those outside repeat its ends."""
    low, high, fraction = _neighbours(len(work[0]), size[0])
    index = torch.tensor(slices).clamp(0, size[0] - 1)
    first, last = int(low[index].min()), int(high[index].max()) + 1
    slab = slab_of(work, first, last, device)
    if tuple(size[1:]) != tuple(slab.shape[2:]):
        slab = F.interpolate(slab, tuple(size[1:]), mode="bilinear")
    if len(work[0]) == size[0]:
        return slab[:, index - first]
    between = fraction[index].to(device)[:, None, None]
    return torch.lerp(slab[:, low[index] - first], slab[:, high[index] - first], between)


def _neighbours(length: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `wanted` slices the two of `length` slices beside it, and its position between them."""
    position = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * (length / wanted) - 0.5).clamp(
        0, length - 1
    )
    low = position.floor().long()
    return low, (low + 1).clamp(max=length - 1), (position - low).float()


def _interpolated(slabs: Iterator[Tensor], length: int, wanted: int) -> Iterator[Tensor]:
    """Consecutive slabs (n, ...) of `length` slices in all as slabs of `wanted` slices."""
    if length == wanted:
        yield from slabs
        return
    low, high, fraction = _neighbours(length, wanted)
    held: Tensor | None = None
    first = done = 0
    for slab in slabs:
        held = slab if held is None else torch.cat([held, slab])
        ready = int((high < first + len(held)).sum())
        if ready > done:
            below, above = (held[index[done:ready].to(held.device) - first] for index in (low, high))
            yield torch.lerp(below, above, fraction[done:ready].to(held.device)[:, None, None, None])
            done = ready
        unneeded = min(int(low[min(done, wanted - 1)]) - first, len(held))
        held, first = held[unneeded:], first + unneeded
