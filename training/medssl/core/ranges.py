"""Numbers of slices as text: "3, 66-111"."""

from __future__ import annotations

from collections.abc import Iterable

SHORTEST_RANGE = 3
"""Fewer numbers in a row are listed one by one."""


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Split numbers into ranges without gaps.

    Args:
        numbers: The numbers, in any order.

    Returns:
        First and last number of each range, ascending; twice the same for a single number.
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges: list[tuple[int, int]] = []
    for run in runs:
        long = len(run) >= SHORTEST_RANGE
        ranges += [(run[0], run[-1])] if long else [(number, number) for number in run]
    return ranges


def describe_ranges(numbers: Iterable[int], most: int | None = None) -> str:
    """List numbers, consecutive ones as ranges: "3, 66-111".

    Args:
        numbers: The numbers, in any order.
        most: How many ranges are named; the numbers of the others are counted. None names all.
    """
    numbers = set(numbers)
    named = ranges_of(numbers)[:most]
    more = len(numbers) - sum(last - first + 1 for first, last in named)
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in named)
    return f"{text} and {more} more" if more else text
