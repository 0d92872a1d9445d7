"""Scalars of a run, from the event log in its folder.

A long training logs a hundred thousand events: only the lines that are asked for are parsed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from medssl.core import events
from medssl.core.errors import UserError

MAX_POINTS = 1200
"""Most points of a curve; longer ones are thinned out."""


def curves_of(folder: Path, *names: str) -> list[list[tuple[float, float]]]:
    """Logged scalars of a run.

    Args:
        folder: Folder of the run.
        names: Names of the scalars, such as "loss".

    Returns:
        For each name the points (step, value).
    """
    lines = [line for line in _lines(folder) if '"event":"metric"' in line]
    return [_curve([line for line in lines if f'"{name}":' in line], name) for name in names]


def _curve(lines: list[str], name: str) -> list[tuple[float, float]]:
    thinned = lines[:: max(1, len(lines) // MAX_POINTS)]
    parsed = [event for line in thinned for event in _event(line)]
    metrics = [event for event in parsed if isinstance(event, events.Metric)]
    return [(event.step, event.values[name]) for event in metrics if name in event.values]


def _lines(folder: Path) -> list[str]:
    try:
        return (folder / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _event(line: str) -> list[events.Event]:
    """The event of a line; empty if a crash cut it off."""
    with suppress(UserError):
        return [events.from_line(line)]
    return []
