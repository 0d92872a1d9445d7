"""Choosing few slices that stand for many: doubtful ones that differ from each other and from painted ones.

As in Suggestive Annotation (Yang et al., MICCAI 2017) slices are taken one after the other, each for its own
doubt and for how much doubt elsewhere it relieves:

    gain(s) = doubt_s * sum_i doubt_i * max(0, alike(i, s) - max_(p painted or chosen) alike(i, p))

A slice relieves the doubt about slices that look like it, as far as nothing painted or chosen does already.
So a neighbour of a painted slice gains nothing, and an odd slice that nothing else looks like gains little.
There the most doubtful ones are shortlisted first; here no line is drawn, because a list that is cut off at
a doubt may hold one depth of all scans and nothing else.

Without a network every slice counts alike. What is left is coverage, as in core-sets (Sener & Savarese,
ICLR 2018), of the mean instead of the worst slice, since the worst is an odd one. That sum is submodular:
taking the best one each time reaches 1 - 1/e of what the best set would (Nemhauser et al. 1978; Wei et al.,
ICML 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SURE = 1e-3
"""Of the largest doubt: what a slice weighs of which the network is quite sure."""


@dataclass(frozen=True)
class Choice:
    """A slice by its number, and how new it is: 1 where nothing painted looks like it."""

    number: int
    novelty: float


SAME_SCAN = 0.3
"""How much any slice says about any other of its scan: the person and the scanner are the same."""


def similarity(
    vectors: np.ndarray, scans: Sequence[str], position_mm: np.ndarray, reach_mm: np.ndarray
) -> np.ndarray:
    """(n, n) float32 in 0..1: how much one slice says about another, by looks, or by lying in the same scan.

    vectors: (n, F); place_mm, reach_mm: (n,), along the axis across slices. Looks are compared by a Gaussian
    whose width is half the median distance: two slices drawn by chance say little about each other.
    """
    centred = vectors - vectors.mean(0)
    square = (centred**2).sum(1)
    distance = np.clip(square[:, None] + square[None] - 2 * centred @ centred.T, 0, None)
    different = distance[np.triu_indices(len(distance), 1)]
    typical = float(np.median(different)) if different.size else 0.0
    looks = np.exp(-2 * distance / max(typical, 1e-12))
    gap = (position_mm[:, None] - position_mm[None]) / np.maximum(reach_mm[:, None], 1e-6)
    names = np.asarray(scans)
    near = np.where(names[:, None] == names[None], np.maximum(np.exp(-0.5 * gap**2), SAME_SCAN), 0)
    result: np.ndarray = np.maximum(looks, near).astype(np.float32)
    np.fill_diagonal(result, 1)
    return result


def choose(
    similarity: np.ndarray, doubt: np.ndarray, painted: np.ndarray, free: np.ndarray, count: int
) -> list[Choice]:
    """At most `count` of the `free` slices, the one that is worth most first.

    alike: (n, n); doubt: (n,) at least 0; painted, free: (n,) bool.
    """
    covered = similarity[:, painted].max(1, initial=0)
    novelty = 1 - covered
    weight = doubt + SURE * max(float(doubt.max(initial=0)), SURE)
    chosen: list[Choice] = []
    free = free.copy()
    while len(chosen) < count and free.any():
        numbers = np.flatnonzero(free)
        relieved = np.clip(similarity[:, numbers] - covered[:, None], 0, None)
        gains = weight[numbers] * (weight @ relieved)
        best = int(numbers[gains.argmax()])
        chosen.append(Choice(best, float(novelty[best])))
        free[best] = False
        covered = np.maximum(covered, similarity[:, best])
    return chosen
