"""Spatial smoothing of the class posteriors among the foreground classes.

The outer border of a structure is visible in the image, the border between two of its parts (such as head and
body of the hippocampus) hardly. After a few annotated slices a network segments the whole structure but gives
a tenth of its voxels the wrong class. The background probability is therefore kept, and the remainder is
divided among the classes as in a Gaussian neighbourhood. Its width is limited by the annotated slices, whose
labels must survive the smoothing, so that a thin class beside a thick one is kept. Among the allowed widths
the predictions of the network decide: the fewer of them are wrong, the less there is to gain from smoothing,
which moves every border slightly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.nn.devices import full_precision

Slice = tuple[Tensor, Sequence[float]]
"""Labels (rows, columns) of a complete slice, and its spacing in mm."""

ReadSlices = Callable[[int, int], Tensor]
"""Reads slices first..last - 1 of one class, (last - first, rows, columns) float."""

MIN_DICE = 0.98
"""Minimum Dice of each class between the annotated slices before and after smoothing."""
MAX_SIGMA = 0.5
"""Maximum sigma relative to the radius of the narrowest class; classes that never touch would allow any."""
CANDIDATES = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32, 0.25)
"""Sigmas to try as fractions of the maximum."""
TRUNCATE = 4.0
"""Standard deviations at which the Gaussian ends, as in SciPy."""
BAND, SLICES_AT_ONCE = 64, 16
"""Voxels along a row or column that are filtered together, and slices that are read at a time."""


@dataclass(frozen=True)
class Width:
    """A width that the annotated slices allow."""

    sigma_mm: float
    changed: float
    """Fraction of the annotated foreground voxels that change their class under this smoothing."""


def allowed_widths(dataset: DeviceDataset, classes: int) -> tuple[Width, ...]:
    """Widths that preserve the labels of the complete slices.

    Args:
        dataset: The annotated scans in work order.
        classes: Number of foreground classes.

    Returns:
        The widest first; empty with a single class or if classes are too thin.
    """
    annotated = [
        (target[index].cpu(), spacing[1:])
        for target, spacing in zip(dataset.targets, dataset.spacing_mm, strict=True)
        for index in complete_slices(target)
    ]
    radii = [radius for radius in _radii_mm(annotated, classes) if radius]
    if len(radii) < 2:
        return ()
    allowed = []
    for fraction in CANDIDATES:
        sigma = MAX_SIGMA * fraction * min(radii)
        min_dice, unchanged = _preserved(annotated, sigma, classes)
        if min_dice >= MIN_DICE:
            allowed.append(Width(sigma, 1 - unchanged))
    return tuple(allowed)


def best(allowed: Sequence[Width], changed: Sequence[float]) -> float:
    """The sigma with the largest expected gain.

    Each width changes the class of a fraction f of the predicted foreground. Were the predictions as correct
    as annotations, it would change the fraction b that it changes of these, all of it harm. The excess is
    taken for corrected errors, so that the benefit is f - b, the harm b, and the gain f - 2 b.

    Args:
        allowed: Widths with their b.
        changed: The f of each width.

    Returns:
        Sigma in mm; 0 if no width has a gain.
    """
    gains = [fraction - 2 * width.changed for width, fraction in zip(allowed, changed, strict=True)]
    index = max(range(len(gains)), key=gains.__getitem__)
    return allowed[index].sigma_mm if gains[index] > 0 else 0.0


def smooth_posteriors(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Smooth the posteriors among the foreground classes; the background probability is kept.

    Args:
        scores: Softmax scores of adjacent slices, (n, 1 + K, rows, columns) float, background first.
        sigma_mm: Standard deviation of the Gaussian; 0 for no smoothing.
        spacing_mm: Voxel spacing in work order.

    Returns:
        Smoothed scores, same shape.
    """
    readers = [partial(_slices, scores[:, label]) for label in range(1, scores.shape[1])]
    return smooth_slab(scores, 0, len(scores), readers, sigma_mm, spacing_mm)


@full_precision
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
    blurred = torch.stack([_blurred(read, inside, slices, sigma_mm, spacing_mm) for read in foreground], 1)
    blurred /= blurred.sum(1, keepdim=True).clamp(min=torch.finfo(blurred.dtype).tiny)
    smoothed = blurred.to(scores.dtype).mul_(scores[:, 1:].sum(1, keepdim=True))
    return torch.cat([scores[:, :1], smoothed], 1)


def _slices(volume: Tensor, first: int, last: int) -> Tensor:
    """Slices first..last - 1 of a volume (slices, ...)."""
    return volume[first:last]


def _blurred(
    read: ReadSlices, inside: range, slices: int, sigma_mm: float, spacing_mm: Sequence[float]
) -> Tensor:
    """Gaussian filter of some slices of a volume without normalization at the borders, (n, rows, columns).

    Implemented as products with band matrices, which take a tenth of the time of a convolution on a CPU. In
    float64, so that labels do not depend on the parts in which a scan is filtered.
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


def _radii_mm(annotated: Sequence[Slice], classes: int) -> list[float]:
    """Per class: radius of a disc with its mean area on the slices with that class; 0 if there are none."""
    if not annotated:
        return []
    areas = torch.stack([_counts(truth, classes) * math.prod(step) for truth, step in annotated])
    n_slices = (areas > 0).sum(0).clamp(min=1)
    return (areas.sum(0) / n_slices / math.pi).sqrt().tolist()


def _preserved(annotated: Sequence[Slice], sigma_mm: float, classes: int) -> tuple[float, float]:
    """How well the labels of single slices survive the smoothing.

    Minimum Dice over the classes, and the fraction of foreground voxels that keep their class.
    """
    overlap, sizes = torch.zeros(2, classes)
    for truth, step in annotated:
        smoothed = _smoothed_labels(truth, sigma_mm, step)
        overlap += _counts(torch.where(truth == smoothed, truth, 0), classes)
        sizes += _counts(truth, classes) + _counts(smoothed, classes)
    dice = torch.where(sizes > 0, 2 * overlap / sizes, 1.0)
    return float(dice.min()), float(2 * overlap.sum() / sizes.sum())


def _smoothed_labels(truth: Tensor, sigma_mm: float, step_mm: Sequence[float]) -> Tensor:
    """Labels of a slice (rows, columns) after smoothing."""
    present = truth.unique()
    present = present[present > 0]
    if len(present) < 2:
        return truth
    masks = [partial(_slices, (truth == label).float()[None]) for label in present]
    blurred = torch.cat([_blurred(mask, range(1), 1, sigma_mm, (1.0, *step_mm)) for mask in masks])
    return torch.where(truth > 0, present[blurred.argmax(0)], 0)


def _counts(labels: Tensor, classes: int) -> Tensor:
    """(K,) number of voxels per class."""
    return torch.bincount(labels.flatten().long(), minlength=classes + 1)[1:]
