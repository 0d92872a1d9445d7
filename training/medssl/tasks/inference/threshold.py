"""From probabilities to labels: the decision that is expected to give the best Dice.

The most probable class is the best guess for a voxel, not for a structure. Where a network is unsure, as it
is after few painted slices, a structure to which every voxel belongs with a probability of 0.4 is called
background everywhere, a Dice of 0. The best threshold is half of the best Dice that can be reached (Lipton,
Elkan and Naryanaswamy, ECML 2014). It is found without labels, from the probabilities p of the structure:
among the n voxels above a threshold the expected overlap is the sum of their p, so Dice is about
2 * overlap / (n + sum of all p).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.tasks.inference.location_prior import LocationPrior

LEVELS = 256
LOWEST = 0.2
"""No threshold is lower: of a structure that is not in the scan, the least improbable voxels are no part."""


class DiceOptimalLabels:
    """Labels of one scan, whose softmax scores come slab by slab; two bytes a voxel are remembered.

    Every class has a threshold of its own in every scan. A voxel gets its most probable class, background
    aside, where this is at least as probable as the threshold.
    """

    def __init__(self) -> None:
        self._best: list[Tensor] = []
        self._level: list[Tensor] = []
        self._counts: Tensor | None = None
        self._expected_size: Tensor | None = None

    def add(self, scores: Tensor) -> None:
        """The next slices: (n, 1 + K, rows, columns), the background's first."""
        probability, best = scores[:, 1:].max(1)
        level = (probability * (LEVELS - 1)).round()
        classes = scores.shape[1] - 1
        counts = _histogram(best, level, classes)
        expected_size = scores[:, 1:].sum((0, 2, 3)).cpu().double()  # not every accelerator has doubles
        self._counts = counts if self._counts is None else self._counts + counts
        self._expected_size = (
            expected_size if self._expected_size is None else self._expected_size + expected_size
        )
        self._best.append((best + 1).to(torch.uint8))
        self._level.append(level.to(torch.uint8))

    def place(self, location_prior: LocationPrior, spacing_mm: Sequence[float]) -> None:
        """Make classes less probable where they do not belong; all slices have been added."""
        best, level = torch.cat(self._best), torch.cat(self._level)
        apply = location_prior.apply(best, level, spacing_mm)
        counts = _histogram(best - 1, apply, len(location_prior.maps))
        assert self._counts is not None
        assert self._expected_size is not None
        lost = ((self._counts - counts) * torch.arange(LEVELS)).sum(1)
        self._counts, self._expected_size = counts, self._expected_size - lost / (LEVELS - 1)
        self._best, self._level = [best], [apply]

    def labels(self) -> Tensor:
        """Class numbers 0..K, uint8 (slices, rows, columns), on the scores' device."""
        if self._counts is None or self._expected_size is None:
            raise ValueError("No scores were added.")
        least = torch.cat(
            [torch.zeros_like(self._expected_size[:1]), _thresholds(self._counts, self._expected_size)]
        )
        least = (least * (LEVELS - 1)).round().to(self._best[0].device, torch.uint8)
        parts = []
        while self._best:  # Emptied on the way, so that there never are two of everything.
            best, level = self._best.pop(0), self._level.pop(0)
            parts.append(torch.where(level >= least[best.long()], best, 0))
        return torch.cat(parts)


def _histogram(kind: Tensor, level: Tensor, kinds: int) -> Tensor:
    """(kinds, LEVELS) how many voxels are of which kind and have which probability, in LEVELS; on the CPU."""
    both = (kind.int() * LEVELS + level.int()).flatten()
    return torch.bincount(both, minlength=kinds * LEVELS).view(kinds, LEVELS).cpu()


def _reverse_cumsum(histogram: Tensor) -> Tensor:
    """Sums of (kinds, LEVELS) over each level and all above it."""
    return histogram.flip(1).cumsum(1).flip(1)


def _thresholds(counts: Tensor, expected_size: Tensor) -> Tensor:
    """(K,) probabilities of the best expected Dice.

    found: (K, LEVELS) how many voxels have which probability; size: (K,) sum of all probabilities.
    """
    level = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    overlap, voxels = _reverse_cumsum(counts * level), _reverse_cumsum(counts)
    dice = 2 * overlap / (voxels + expected_size[:, None]).clamp(min=1e-9)
    return level[dice.argmax(1)].clamp(LOWEST, 0.5)
