"""How much of each class there should be among guesses, by the painted slices, and what if less is found.

A network that has seen a structure on few slices is unsure of it on other people, so that a fixed probability
finds next to nothing of a hard class while what is missed becomes background: each round teaches the network
to miss more of it. Class-balanced self-training (Zou et al., ECCV 2018) gives each class a threshold of its
own, by which the same portion of each is labelled. There the portion is one of the voxels that are called the
class; here it is one of what painted slices let expect, since what is missed is not called anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.patches.pool import Pool, complete_slices
from medssl.projects.project import IGNORE
from medssl.results.decide import LEVELS, LOWEST, from_each_level_on, histogram
from medssl.results.predict import Likely


@dataclass(frozen=True)
class Thresholds:
    """In steps of 1 / (LEVELS - 1), by class number; (1 + K,) int16. LEVELS stands for never."""

    found: Tensor
    """From here on a voxel is the class, even if the background is likelier."""
    open: Tensor
    """From here on it is at least not background."""

    def labels(self, likely: Likely, sure: float) -> Tensor:
        """The most probable class where it is `sure`, with more of each class that was found too seldom.

        uint8, IGNORE where nothing can be said.
        """
        best = likely.best.int()
        found, open_ = (each.to(best.device)[best] for each in (self.found, self.open))
        called = torch.where(likely.probability >= likely.background, likely.best, 0)
        certain = torch.maximum(likely.probability, likely.background) >= round(sure * (LEVELS - 1))
        certain &= (called > 0) | (likely.probability < open_)
        labels = torch.where(certain, called, IGNORE)
        return torch.where(likely.probability >= found, likely.best, labels).to(torch.uint8)


def shares(pool: Pool, classes: int) -> Tensor:
    """(1 + classes,) which share of a scan each class takes, by its area from one known slice to the next.

    Only slices of which every voxel is known count; 0 where there are none.
    """
    found = []
    for target, spacing in zip(pool.targets, pool.spacing_mm, strict=True):
        known = complete_slices(target)
        if known:
            slices = target[known].flatten(1).long()
            areas = [(slices == label).sum(1).cpu().numpy() for label in range(1, classes + 1)]
            taken = torch.tensor([_volume(known, area, len(target), spacing) for area in areas])
            found.append(torch.cat([target.numel() - taken.sum(0, keepdim=True), taken]) / target.numel())
    return torch.stack(found).mean(0) if found else torch.zeros(classes + 1, dtype=torch.float64)


def _volume(known: Sequence[int], area: np.ndarray, slices: int, spacing_mm: Sequence[float]) -> float:
    """Voxels of a class that takes `area` (pixels) of the `known` slices.

    Beyond the outermost it ends as a ball would, whose half of radius r is as large as an area that falls
    evenly over 4/3 r. To go on with the last area would expect twice a structure of which only the
    middle is painted, and guesses would be made until that is found.
    """
    ends = 4 / 3 * np.sqrt(area[[0, -1]] * spacing_mm[1] * spacing_mm[2] / np.pi) / spacing_mm[0]
    before, after = np.maximum(ends, 0.5)  # Half a slice at least: places have to rise.
    places = [known[0] - before, *known, known[-1] + after]
    return float(np.interp(np.arange(slices), places, [0, *area, 0]).sum())


def thresholds(
    seen: Iterable[Likely], shares: Tensor, sure: float, portion: float, unclear: float
) -> Thresholds:
    """Thresholds by which `portion` of each class's expected amount is labelled, where `sure` finds less.

    shares: (1 + K,), as `shares` makes it. Of such a class the likeliest voxels are labelled until the
    portion is found; what follows, until `unclear` times what is expected, is not called background.
    """
    classes = len(shares)
    counts, voxels = torch.zeros(classes, LEVELS, dtype=torch.long), 0
    for each in seen:
        counts += histogram(each.best, each.probability, classes)
        voxels += each.best.numel()
    above = from_each_level_on(counts)
    expected = shares * voxels
    limit, lowest = round(sure * (LEVELS - 1)), round(LOWEST * (LEVELS - 1))
    found, open_ = torch.full((2, classes), LEVELS, dtype=torch.int16)
    for label in range(1, classes):
        if above[label, limit] < portion * expected[label]:
            found[label] = max(lowest, _level(above[label], portion * expected[label]))
            open_[label] = max(lowest // 2, _level(above[label], unclear * expected[label]))
    return Thresholds(found, open_)


def _level(above: Tensor, amount: Tensor) -> int:
    """The highest level from which on at least `amount` voxels are found; 0 where all levels have fewer."""
    return int((above >= amount).sum().clamp(min=1)) - 1
