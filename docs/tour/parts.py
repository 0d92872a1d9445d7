"""The parts of the tour, in their order, and which of them go on from others."""

from __future__ import annotations

from collections.abc import Iterable

PARTS = {"start": (), "sample": ("start",), "project": ("start", "sample"), "pictures": ()}
"""{part: the parts before it whose projects it finds in the list of recent ones}."""


def with_needed(names: Iterable[str]) -> tuple[str, ...]:
    """Some parts and those that they need, in the order of the tour.

    Args:
        names: Names of parts.

    Raises:
        ValueError: One of them is unknown.
    """
    chosen = list(names)
    if unknown := [name for name in chosen if name not in PARTS]:
        raise ValueError(f"{' and '.join(unknown)} is not one of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in chosen or any(part in PARTS[name] for name in chosen))
