"""Spatial smoothing of the class posteriors among the foreground classes.

The outer border of a structure is visible in the image, the border between two of its parts (such as head and
body of the hippocampus) hardly. After a few annotated slices a network segments the whole structure but gives
a tenth of its voxels the wrong class. The background probability is therefore kept, and the remainder is
divided among the classes as in a Gaussian neighbourhood (its width: segment/smoothing_width.py).

A MONAI bundle gets a copy of this module, which therefore imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

ReadSlices = Callable[[int, int], Tensor]
"""Reads slices first..last - 1 of one class, (last - first, rows, columns) float."""

TRUNCATE = 4.0
"""Standard deviations at which the Gaussian ends, as in SciPy."""
BAND, SLICES_AT_ONCE = 64, 16
"""Voxels along a row or column that are filtered together, and slices that are read at a time."""


def smooth_posteriors(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Smooth the posteriors among the foreground classes; the background probability is kept.

    Args:
        scores: Softmax scores of adjacent slices, (n, 1 + K, rows, columns) float, background first.
        sigma_mm: Standard deviation of the Gaussian; 0 for no smoothing.
        spacing_mm: Voxel spacing in work order.

    Returns:
        Smoothed scores, same shape.
    """
    readers = [partial(slices_of, scores[:, label]) for label in range(1, scores.shape[1])]
    return smooth_slab(scores, 0, len(scores), readers, sigma_mm, spacing_mm)


def smooth_slab(
    scores: Tensor,
    first: int,
    slices: int,
    foreground: Sequence[ReadSlices],
    sigma_mm: float,
    spacing_mm: Sequence[float],
) -> Tensor:
    """Smooth the posteriors of a slab of a scan, with all neighbouring slices that the Gaussian reaches.

    Args:
        scores: Softmax scores of the slab, (n, 1 + K, rows, columns) float, background first.
        first: Number of its first slice.
        slices: Number of slices of the scan.
        foreground: For each class 1 .. K what reads its scores in any slices of the scan.
        sigma_mm: Standard deviation of the Gaussian; 0 for no smoothing.
        spacing_mm: Voxel spacing in work order.

    Returns:
        Smoothed scores, same shape.
    """
    if not sigma_mm or len(foreground) < 2:
        return scores
    inside = range(first, first + len(scores))
    with torch.autocast(scores.device.type, enabled=False):
        blurred = torch.stack(
            [gaussian_filter(read, inside, slices, sigma_mm, spacing_mm) for read in foreground], 1
        )
    blurred /= blurred.sum(1, keepdim=True).clamp(min=torch.finfo(blurred.dtype).tiny)
    smoothed = blurred.to(scores.dtype).mul_(scores[:, 1:].sum(1, keepdim=True))
    return torch.cat([scores[:, :1], smoothed], 1)


def slices_of(volume: Tensor, first: int, last: int) -> Tensor:
    """Slices first..last - 1 of a volume (slices, ...), as `gaussian_filter` reads them."""
    return volume[first:last]


def gaussian_filter(
    read: ReadSlices, inside: range, slices: int, sigma_mm: float, spacing_mm: Sequence[float]
) -> Tensor:
    """Gaussian filter of some slices of a volume, without normalization at the borders.

    Implemented as products with band matrices, which take a tenth of the time of a convolution on a CPU. In
    float64, so that labels do not depend on the parts in which a scan is filtered.

    Args:
        read: Reads slices of the volume.
        inside: Numbers of the slices to filter.
        slices: Number of slices of the volume.
        sigma_mm: Standard deviation.
        spacing_mm: Voxel spacing in work order.

    Returns:
        The filtered slices, (len(inside), rows, columns).
    """
    across, down, along = (step / sigma_mm for step in spacing_mm)
    radius = int(TRUNCATE / across)
    low, high = max(0, inside.start - radius), min(slices, inside.stop + radius)
    blurred: Tensor | None = None
    for start in range(low, high, SLICES_AT_ONCE):
        part = _wide(read(start, min(start + SLICES_AT_ONCE, high)))
        weights = _gaussian(inside, range(start, start + len(part)), across, part)
        product = torch.tensordot(weights, part, 1)
        blurred = product if blurred is None else blurred.add_(product)
    assert blurred is not None
    return _along_rows(_along_rows(blurred, along).mT, down).mT


def _along_rows(volume: Tensor, step: float) -> Tensor:
    """Gaussian filter of (..., length) over its last axis; step: voxels in units of sigma."""
    length, radius = volume.shape[-1], int(TRUNCATE / step)
    bands = []
    for start in range(0, length, BAND):
        wanted = range(start, min(start + BAND, length))
        taken = range(max(0, wanted.start - radius), min(length, wanted.stop + radius))
        weights = _gaussian(taken, wanted, step, volume)
        bands.append(volume[..., taken.start : taken.stop] @ weights)
    return torch.cat(bands, -1)


def _gaussian(rows: range, columns: range, step: float, like: Tensor) -> Tensor:
    """(rows, columns) Gaussian of the distances between voxels, 0 beyond TRUNCATE standard deviations."""
    one, other = (torch.arange(each.start, each.stop, dtype=like.dtype) for each in (rows, columns))
    distance = step * (one[:, None] - other).abs()
    return torch.where(distance <= TRUNCATE, torch.exp(-0.5 * distance.square()), 0).to(like.device)


def _wide(values: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return values.float() if values.device.type == "mps" else values.double()
