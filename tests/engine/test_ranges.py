"""Slices in sentences: long lists as ranges."""

from __future__ import annotations

import pytest
from medssl.core.labels.relabel import describe
from medssl.core.ranges import describe_ranges, ranges_of


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([4], "4"),
        ([4, 6], "4, 6"),
        ([3, 4], "3, 4"),
        (range(66, 112), "66-111"),
        ([9, 3, 8, 7, 3], "3, 7-9"),
    ],
)
def test_consecutive_numbers_are_a_range(numbers, text):
    assert describe_ranges(numbers) == text
    assert {n for first, last in ranges_of(numbers) for n in range(first, last + 1)} == set(numbers)


def test_what_is_not_named_is_counted():
    assert describe_ranges([1, *range(5, 10), 20, 30, 31], most=2) == "1, 5-9 and 3 more"


def test_the_slices_of_a_class_are_ranges(small_project):
    assert describe(small_project, {"scan": list(range(66, 112))}) == "scan (axial slices 66-111)"
    assert describe(small_project, {"scan": [4]}) == "scan (axial slice 4)"
