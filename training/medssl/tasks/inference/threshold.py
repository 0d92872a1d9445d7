"""Dice-optimal decision: from probabilities to the labels with the highest expected Dice.

The most probable class is optimal for a voxel but not for a structure. For an uncertain network, as after few
annotated slices, a structure to which each voxel belongs with a probability of 0.4 would become background
everywhere, a Dice of 0. The best threshold is half of the best achievable Dice (Lipton, Elkan and
Naryanaswamy, ECML 2014). It is computed without labels, from the probabilities p of the structure: among the
n voxels above a threshold the expected overlap is the sum of their p, so Dice is about
2 * overlap / (n + sum of all p).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.tasks.inference.location_prior import LocationPrior

LEVELS = 256
"""Number of levels that probabilities are quantized to."""
MIN_THRESHOLD = 0.2
"""Minimum threshold, so that the least improbable voxels of an absent structure are not labelled."""


class DiceOptimalLabels:
    """Collects the softmax scores of a scan slab by slab, in two bytes per voxel, and decides its labels.

    Each class has its own threshold in each scan. A voxel gets its most probable foreground class if its
    probability reaches the threshold.

    Args:
        slices: Number of slices of the scan. Its volumes are allocated at once: joined later, small slabs
            would stay in the process as freed memory (core/allocator.py).
    """

    def __init__(self, slices: int) -> None:
        self._slices, self._added = slices, 0
        self._best = self._level = torch.empty(0, dtype=torch.uint8)
        self._counts: Tensor | None = None
        self._expected_size: Tensor | None = None

    def add(self, scores: Tensor) -> None:
        """Add the next slices.

        Args:
            scores: Softmax scores, (n, 1 + K, rows, columns) float, background first.
        """
        probability, best = scores[:, 1:].max(1)
        level = (probability * (LEVELS - 1)).round()
        classes = scores.shape[1] - 1
        counts = _histogram(best, level, classes)
        # Sums of slices, so that it makes no difference how many are added at a time; on the CPU, because not
        # every accelerator has float64.
        expected_size = scores[:, 1:].sum((2, 3)).cpu().double().sum(0)
        self._counts = counts if self._counts is None else self._counts + counts
        self._expected_size = (
            expected_size if self._expected_size is None else self._expected_size + expected_size
        )
        if not self._added:
            self._best, self._level = (
                torch.empty((self._slices, *best.shape[1:]), dtype=torch.uint8, device=best.device)
                for _ in range(2)
            )
        inside = slice(self._added, self._added + len(best))
        self._best[inside], self._level[inside] = best + 1, level
        self._added = inside.stop

    def apply_prior(self, location_prior: LocationPrior, spacing_mm: Sequence[float]) -> None:
        """Apply the location prior to all slices, after the last one was added.

        Args:
            location_prior: Prior of the network's classes.
            spacing_mm: Voxel spacing in work order.
        """
        self._level = location_prior.apply(self._best, self._level, spacing_mm, out=self._level)
        assert self._counts is not None
        assert self._expected_size is not None
        counts = torch.zeros_like(self._counts)
        for label, probability in zip(self._best, self._level, strict=True):  # by slice, to limit the memory
            counts += _histogram(label - 1, probability, len(counts))
        lost = ((self._counts - counts) * torch.arange(LEVELS)).sum(1)
        self._counts, self._expected_size = counts, self._expected_size - lost / (LEVELS - 1)

    @torch.inference_mode()
    def labels(self) -> Tensor:
        """Decide the labels; can be called once.

        Returns:
            Class numbers 0..K, uint8 (slices, rows, columns), on the device of the scores.
        """
        found = self._levels()
        thresholds = torch.cat([torch.zeros_like(found[:1]), found]).to(self._best.device, torch.uint8)
        for label, probability in zip(self._best, self._level, strict=True):  # by slice, in place
            label[probability < thresholds[label.long()]] = 0
        return self._best

    def expected_dice(self) -> list[float]:
        """Expected Dice of the labels of each class 1..K by the probabilities; 0 without a voxel."""
        dice = _expected_dice(*self._collected())
        return dice.gather(1, self._levels()[:, None])[:, 0].clamp(max=1).tolist()

    def _levels(self) -> Tensor:
        """(K,) lowest level of probability that is labelled, long."""
        level = _expected_dice(*self._collected()).argmax(1)
        return level.clamp(round(MIN_THRESHOLD * (LEVELS - 1)), round(0.5 * (LEVELS - 1)))

    def _collected(self) -> tuple[Tensor, Tensor]:
        if self._counts is None or self._expected_size is None:
            raise ValueError("No scores were added.")
        return self._counts, self._expected_size


def _histogram(label: Tensor, level: Tensor, classes: int) -> Tensor:
    """(classes, LEVELS) number of voxels by class 0 .. classes - 1 and level of probability; on the CPU."""
    bins = (label.int() * LEVELS + level.int()).flatten()
    return torch.bincount(bins, minlength=classes * LEVELS).view(classes, LEVELS).cpu()


def _reverse_cumsum(histogram: Tensor) -> Tensor:
    """Sums of (classes, LEVELS) over each level and all above it."""
    return histogram.flip(1).cumsum(1).flip(1)


def _expected_dice(counts: Tensor, expected_size: Tensor) -> Tensor:
    """(K, LEVELS) expected Dice of the labels at each threshold.

    counts: (K, LEVELS) number of voxels by probability; expected_size: (K,) sum of all probabilities.
    """
    level = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    overlap, voxels = _reverse_cumsum(counts * level), _reverse_cumsum(counts)
    return 2 * overlap / (voxels + expected_size[:, None]).clamp(min=1e-9)
