"""Widths of the posterior smoothing (inference/posterior_smoothing.py) that the annotated slices allow.

The labels of annotated slices must survive the smoothing, so that a thin class beside a thick one is kept.
Among the allowed widths the predictions of the network decide: the fewer of them are wrong, the less there is
to gain from smoothing, which moves every border slightly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.tasks.inference.posterior_smoothing import gaussian_filter, slices_of

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
    masks = [partial(slices_of, (truth == label).float()[None]) for label in present]
    blurred = torch.cat([gaussian_filter(mask, range(1), 1, sigma_mm, (1.0, *step_mm)) for mask in masks])
    return torch.where(truth > 0, present[blurred.argmax(0)], 0)


def _counts(labels: Tensor, classes: int) -> Tensor:
    """(K,) number of voxels per class."""
    return torch.bincount(labels.flatten().long(), minlength=classes + 1)[1:]
