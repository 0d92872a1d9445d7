"""benchmarks/review_queue.py: the two figures by which orders of the queue are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from review_queue import MEASURES, ranking, true_dice


def lines(dice: list[float], expected: list[float]) -> list[dict[str, Any]]:
    """Predictions of one class with a Dice and the Dice that the network expects."""
    return [
        {"dice": {"1": truth}, "expected": {"1": value}, "voxels": {"1": 100}}
        for truth, value in zip(dice, expected, strict=True)
    ]


def by_expected(*of: list[float]) -> tuple[float, float]:
    return ranking(lines(*of), MEASURES["expected Dice, mean of the classes"])


TRUTH = np.linspace(0.1, 0.9, 20).tolist()
"""Of 20 scans: the worst tenth are two, the first fifth of the queue four."""


def test_the_right_order_and_its_reverse_are_the_extremes() -> None:
    assert by_expected(TRUTH, [value**3 for value in TRUTH]) == (pytest.approx(1.0), 1.0)
    assert by_expected(TRUTH, [-value for value in TRUTH]) == (pytest.approx(-1.0), 0.0)


def test_the_rank_correlation_is_spearmans() -> None:
    ranks = [2, 1, 4, 3, 5]
    squares = sum((rank - place) ** 2 for place, rank in enumerate(ranks, 1))
    rho, _ = by_expected(TRUTH[:5], [float(rank) for rank in ranks])
    assert rho == pytest.approx(1 - 6 * squares / (5 * (25 - 1)))


@pytest.mark.parametrize(("places", "share"), [((0, 3), 1.0), ((3, 4), 0.5), ((4, 19), 0.0)])
def test_the_share_counts_the_worst_tenth_in_the_first_fifth(places: tuple[int, int], share: float) -> None:
    """The two worst scans come at these places of the queue."""
    order = list(range(2, 20))
    for scan, place in enumerate(places):
        order.insert(place, scan)
    expected = np.empty(20)
    expected[order] = np.arange(20)
    assert by_expected(TRUTH, expected.tolist())[1] == share


@pytest.mark.parametrize(("count", "worst", "first"), [(4, 1, 1), (11, 2, 3), (18, 2, 4)])
def test_parts_of_few_scans_are_rounded_up(count: int, worst: int, first: int) -> None:
    truth = np.arange(count, dtype=float)
    for place in (first - 1, first):
        expected = truth.copy()
        expected[worst - 1] = place + 0.5  # comes after the scans 0 .. place
        share = by_expected(truth.tolist(), expected.tolist())[1]
        assert share == (1.0 if place + 0.5 < first else (worst - 1) / worst)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    line = {"dice": {"1": 0.4, "2": None, "3": 0.8}}
    assert true_dice(line) == pytest.approx(0.6)


def test_a_volume_unlike_that_of_the_other_scans_is_suspicious() -> None:
    values = lines([0.9, 0.8, 0.1], [1.0, 1.0, 1.0])
    values[2]["voxels"] = {"1": 20}
    measure = MEASURES["volume beside that of the other scans"]
    assert [measure(line, {"1": 100.0}) for line in values] == [1.0, 1.0, 0.2]
    values[2]["voxels"] = {"1": 500}
    assert measure(values[2], {"1": 100.0}) == 0.2
