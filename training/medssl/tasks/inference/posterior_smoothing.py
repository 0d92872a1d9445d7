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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.nn.devices import full_precision

Slice = tuple[Tensor, Sequence[float]]
"""Labels (rows, columns) of a complete slice, and its spacing in mm."""

MIN_DICE = 0.98
"""Minimum Dice of each class between the annotated slices before and after smoothing."""
MAX_SIGMA = 0.5
"""Maximum sigma relative to the radius of the narrowest class; classes that never touch would allow any."""
CANDIDATES = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32, 0.25)
"""Sigmas to try as fractions of the maximum."""


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


@full_precision
def smooth_posteriors(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Smooth the posteriors among the foreground classes; the background probability is kept.

    Args:
        scores: Softmax scores of adjacent slices, (n, 1 + K, rows, columns) float, background first.
        sigma_mm: Standard deviation of the Gaussian; 0 for no smoothing.
        spacing_mm: Voxel spacing in work order.

    Returns:
        Smoothed scores, same shape.
    """
    if not sigma_mm or scores.shape[1] < 3:
        return scores
    weights = _blurred(scores[:, 1:], sigma_mm, spacing_mm)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return torch.cat([scores[:, :1], scores[:, 1:].sum(1, keepdim=True) * weights], 1)


def _blurred(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Gaussian filter over axes 0, 2 and 3 without normalization at the borders.

    Implemented as matrix products, which take a tenth of the time of a convolution on a CPU.
    """
    for axis, step in zip((0, 2, 3), spacing_mm, strict=True):
        position = torch.arange(scores.shape[axis], device=scores.device) * (step / sigma_mm)
        weights = torch.exp(-0.5 * (position[:, None] - position).square())
        scores = (scores.movedim(axis, -1) @ weights).movedim(-1, axis)
    return scores


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
    blurred = _blurred((truth == present.view(1, -1, 1, 1)).float(), sigma_mm, (1.0, *step_mm))
    return torch.where(truth > 0, present[blurred[0].argmax(0)], 0)


def _counts(labels: Tensor, classes: int) -> Tensor:
    """(K,) number of voxels per class."""
    return torch.bincount(labels.flatten().long(), minlength=classes + 1)[1:]
