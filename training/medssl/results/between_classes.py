"""Which of several classes a voxel is: its neighbours are asked, too.

Where a structure ends a voxel shows, but the border between two parts of it, such as head and body of the
hippocampus, hardly. After a few painted slices a network finds the whole of it and calls a tenth of it by the
wrong name, here and there. So background stays as probable as it is, and the rest is shared out among the
classes as in the neighbourhood (a Gaussian). How wide that may be painted slices say: no wider than
leaves their own labels as they are, so that a thin class beside a thick one stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.devices import full_precision
from medssl.patches.pool import Pool, complete_slices

Slice = tuple[Tensor, Sequence[float]]
"""Labels (rows, columns) of a complete slice, and the steps between its rows and columns in mm."""

KEPT = 0.98
"""Least Dice of every class between the painted slices and what becomes of them."""
WIDEST = 0.5
"""Of the narrowest class's radius: classes that never adjoin on a slice would take any width."""
TRIED = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32, 0.25)
"""Shares of that width, the first that keeps the labels is taken."""


def width_mm(pool: Pool, classes: int) -> float:
    """The neighbourhood's sigma by the complete slices of scans in work order; 0 where it helps nothing."""
    painted = [
        (target[index].cpu(), spacing[1:])
        for target, spacing in zip(pool.targets, pool.spacing_mm, strict=True)
        for index in complete_slices(target)
    ]
    radii = [each for each in _radii_mm(painted, classes) if each]
    if len(radii) < 2:
        return 0.0
    widths = (WIDEST * share * min(radii) for share in TRIED)
    return next((width for width in widths if _keeps(painted, width, classes)), 0.0)


@full_precision
def shared_out(scores: Tensor, sigma_mm: float, spacing_mm: Sequence[float]) -> Tensor:
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


def _keeps(painted: Sequence[Slice], sigma_mm: float, classes: int) -> bool:
    """Whether every class stays where it is on its slices, each seen by itself."""
    both, sizes = torch.zeros(2, classes)
    for truth, step in painted:
        found = _renamed(truth, sigma_mm, step)
        both += _counted(torch.where(truth == found, truth, 0), classes)
        sizes += _counted(truth, classes) + _counted(found, classes)
    return bool((2 * both >= KEPT * sizes).all())


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
