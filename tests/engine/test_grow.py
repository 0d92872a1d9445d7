"""A slice is filled from seeds up to the edges in it."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.labels.grow import grow
from medssl.core.labels.metrics import dice


def discs(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy slice with a bright and a grey disc, its labels, and seeds: a line in each and a frame."""
    rows, columns = np.mgrid[:side, :side] / side
    truth = np.zeros((side, side), np.uint8)
    truth[np.hypot(rows - 0.4, columns - 0.4) < 0.15] = 3
    truth[np.hypot(rows - 0.65, columns - 0.6) < 0.1] = 7
    image = np.select([truth == 3, truth == 7], [1.0, 0.5]) + np.random.default_rng(0).normal(
        0, 0.05, truth.shape
    )
    seeds = np.zeros_like(truth)
    third, seventh = round(0.4 * side), round(0.65 * side)
    seeds[third, third - side // 12 : third + side // 12] = 3
    seeds[seventh, seventh - side // 12 : seventh - side // 24] = 7
    low, high = side // 6, side - side // 6
    seeds[low, low:high] = seeds[high, low:high] = seeds[low:high, low] = seeds[low:high, high] = 255
    return image.astype(np.float32), truth, seeds


@pytest.mark.parametrize("side", [64, 512])
def test_classes_grow_to_their_edges(side: int) -> None:
    image, truth, seeds = discs(side)
    grown = grow(image, seeds)
    found = dice(np.where(grown == 255, 0, grown), truth, [3, 7])
    assert min(found.values()) > 0.93
    assert np.array_equal(grown[seeds > 0], seeds[seeds > 0])


def test_nothing_grows_far_from_the_seeds() -> None:
    image, _, seeds = discs(512)
    seeds[:, 300:] = 0
    assert not grow(image, seeds)[:, 320:].any()


def test_seeds_of_one_label_are_not_enough() -> None:
    image, _, seeds = discs(64)
    with pytest.raises(UserError, match=r"sure background \(Q\)"):
        grow(image, np.where(seeds == 3, seeds, 0))
