"""Which of several classes a voxel is: its neighbours are asked, too.

Where a structure ends a voxel shows, but the border between two parts of it, such as head and body of the
hippocampus, hardly. After a few painted slices a network finds the whole of it and calls a tenth of it by the
wrong name, here and there. So background stays as probable as it is, and the rest is shared out among the
classes as in the neighbourhood (a Gaussian). How wide that may be painted slices say: no wider than
leaves their own labels as they are, so that a thin class beside a thick one stays. How wide it is, of these,
the network's own names say: the fewer of them are wrong, the less there is to gain from neighbours, which
move every border a little.
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
"""Labels (rows, columns) of a complete slice, and the steps between its rows and columns in mm."""

KEPT = 0.98
"""Least Dice of every class between the painted slices and what becomes of them."""
WIDEST = 0.5
"""Of the narrowest class's radius: classes that never adjoin on a slice would take any width."""
TRIED = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32, 0.25)
"""Shares of that width."""


@dataclass(frozen=True)
class Width:
    """A neighbourhood that may be asked."""

    sigma_mm: float
    renamed: float
    """To which share of the painted voxels of all classes it gives another name."""


def allowed_widths(dataset: DeviceDataset, classes: int) -> tuple[Width, ...]:
    """Those that leave the complete slices of scans in work order as they are, the widest first.

    None with a single class, or where classes are too thin.
    """
    painted = [
        (target[index].cpu(), spacing[1:])
        for target, spacing in zip(dataset.targets, dataset.spacing_mm, strict=True)
        for index in complete_slices(target)
    ]
    radii = [each for each in _radii_mm(painted, classes) if each]
    if len(radii) < 2:
        return ()
    found = []
    for part in TRIED:
        sigma = WIDEST * part * min(radii)
        least, share = _kept(painted, sigma, classes)
        if least >= KEPT:
            found.append(Width(sigma, 1 - share))
    return tuple(found)


def best(allowed: Sequence[Width], renamed: Sequence[float]) -> float:
    """The sigma that does most good, 0 where none does any.

    renamed: to which share f of what a network calls a class each gives another name. Were its names as true
    as painted ones, that would be the share b of these, all of it harm. What goes beyond is taken for
    wrong names put right, so that f - b is good, b harm, and f - 2 b what is gained.
    """
    gains = [share - 2 * width.renamed for width, share in zip(allowed, renamed, strict=True)]
    most = max(range(len(gains)), key=gains.__getitem__)
    return allowed[most].sigma_mm if gains[most] > 0 else 0.0


@full_precision
def smooth_posteriors(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Softmax scores (n, 1 + K, rows, columns) of neighbouring slices, the background's as they are."""
    if not sigma_mm or scores.shape[1] < 3:
        return scores
    around = _blurred(scores[:, 1:], sigma_mm, spacing_mm)
    around = around / around.sum(1, keepdim=True).clamp(min=torch.finfo(around.dtype).tiny)
    return torch.cat([scores[:, :1], scores[:, 1:].sum(1, keepdim=True) * around], 1)


def _blurred(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """A Gaussian over axes 0, 2 and 3, cut off at the ends, for all classes alike.

    As products with whole matrices, which on a CPU takes a tenth of a convolution's time.
    """
    for axis, step in zip((0, 2, 3), spacing_mm, strict=True):
        places = torch.arange(scores.shape[axis], device=scores.device) * (step / sigma_mm)
        weights = torch.exp(-0.5 * (places[:, None] - places).square())
        scores = (scores.movedim(axis, -1) @ weights).movedim(-1, axis)
    return scores


def _radii_mm(painted: Sequence[Slice], classes: int) -> list[float]:
    """For each class that of a disc as large as it is on the slices that show it; 0 where none does."""
    if not painted:
        return []
    areas = torch.stack([_counted(truth, classes) * math.prod(step) for truth, step in painted])
    shown = (areas > 0).sum(0).clamp(min=1)
    return (areas.sum(0) / shown / math.pi).sqrt().tolist()


def _kept(painted: Sequence[Slice], sigma_mm: float, classes: int) -> tuple[float, float]:
    """How well classes stay where they are on their slices, each seen by itself.

    Dice of the class that fares worst, and the share of all classes' voxels that keep their name.
    """
    both, sizes = torch.zeros(2, classes)
    for truth, step in painted:
        found = _renamed(truth, sigma_mm, step)
        both += _counted(torch.where(truth == found, truth, 0), classes)
        sizes += _counted(truth, classes) + _counted(found, classes)
    dice = torch.where(sizes > 0, 2 * both / sizes, 1.0)
    return float(dice.min()), float(2 * both.sum() / sizes.sum())


def _renamed(truth: Tensor, sigma_mm: float, step_mm: Sequence[float]) -> Tensor:
    """What becomes of a slice's labels (rows, columns)."""
    present = truth.unique()
    present = present[present > 0]
    if len(present) < 2:
        return truth
    around = _blurred((truth == present.view(1, -1, 1, 1)).float(), sigma_mm, (1.0, *step_mm))
    return torch.where(truth > 0, present[around[0].argmax(0)], 0)


def _counted(labels: Tensor, classes: int) -> Tensor:
    """(K,) voxels of the classes."""
    return torch.bincount(labels.flatten().long(), minlength=classes + 1)[1:]
