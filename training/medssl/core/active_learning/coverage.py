"""Greedy selection of slices: uncertain ones that differ from each other and from annotated ones.

As in Suggestive Annotation (Yang et al., MICCAI 2017) slices are selected one after the other, by their own
uncertainty u and by how much of the uncertainty of other slices they cover:

    gain(s) = u_s * sum_i u_i * max(0, similarity(i, s) - max_(p annotated or selected) similarity(i, p))

A slice covers similar slices, as far as no annotated or selected slice does. So the neighbour of an annotated
slice gains nothing, and an outlier that resembles no other slice gains little. Yang et al. first shortlist
the most uncertain slices; that step is omitted, because such a shortlist may hold a single depth of all
scans.

Without a network all slices are equally uncertain. What remains is coverage, as in core-sets (Sener &
Savarese, ICLR 2018), but of the mean instead of the worst slice, since the worst one is an outlier. That sum
is submodular: greedy selection reaches 1 - 1/e of the optimum (Nemhauser et al. 1978; Wei et al., ICML 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_WEIGHT = 1e-3
"""Weight of a slice without uncertainty, as a fraction of the largest uncertainty."""


@dataclass(frozen=True)
class Choice:
    """Index of a selected slice and its novelty: 1 if it resembles no annotated slice, 0 if it equals one."""

    number: int
    novelty: float


SAME_SCAN = 0.3
"""Minimum similarity of two slices of one scan, because person and scanner are the same."""


def similarity(
    vectors: np.ndarray, scans: Sequence[str], position_mm: np.ndarray, reach_mm: np.ndarray
) -> np.ndarray:
    """Similarity of slices: the larger of that of their features and that of their positions in a scan.

    Features are compared by a Gaussian whose width is half the median distance, so that two random slices are
    hardly similar. Positions are compared by a Gaussian of width `reach_mm`.

    Args:
        vectors: Features of the slices, float32 (n, F).
        scans: Scan of each slice.
        position_mm: Position along the axis across the slices, (n,).
        reach_mm: Distance within which slices of a scan are similar, (n,).

    Returns:
        float32 (n, n) in 0..1.
    """
    centred = vectors - vectors.mean(0)
    square = (centred**2).sum(1)
    distance = np.clip(square[:, None] + square[None] - 2 * centred @ centred.T, 0, None)
    pairs = distance[np.triu_indices(len(distance), 1)]
    median = float(np.median(pairs)) if pairs.size else 0.0
    by_features = np.exp(-2 * distance / max(median, 1e-12))
    gap = (position_mm[:, None] - position_mm[None]) / np.maximum(reach_mm[:, None], 1e-6)
    names = np.asarray(scans)
    by_position = np.where(names[:, None] == names[None], np.maximum(np.exp(-0.5 * gap**2), SAME_SCAN), 0)
    result: np.ndarray = np.maximum(by_features, by_position).astype(np.float32)
    np.fill_diagonal(result, 1)
    return result


def choose(
    similarity: np.ndarray,
    uncertainty: np.ndarray,
    annotated: np.ndarray,
    candidates: np.ndarray,
    count: int,
) -> list[Choice]:
    """Select slices greedily by their gain.

    Args:
        similarity: Similarity of the slices, (n, n), see `similarity`.
        uncertainty: Uncertainty of each slice, (n,), at least 0.
        annotated: Slices that are annotated, bool (n,).
        candidates: Slices that may be selected, bool (n,).
        count: Largest number of slices to select.

    Returns:
        Selected slices, that of the largest gain first.
    """
    covered = similarity[:, annotated].max(1, initial=0)
    novelty = 1 - covered
    weight = uncertainty + MIN_WEIGHT * max(float(uncertainty.max(initial=0)), MIN_WEIGHT)
    chosen: list[Choice] = []
    candidates = candidates.copy()
    while len(chosen) < count and candidates.any():
        numbers = np.flatnonzero(candidates)
        newly_covered = np.clip(similarity[:, numbers] - covered[:, None], 0, None)
        gains = weight[numbers] * (weight @ newly_covered)
        best = int(numbers[gains.argmax()])
        chosen.append(Choice(best, float(novelty[best])))
        candidates[best] = False
        covered = np.maximum(covered, similarity[:, best])
    return chosen
