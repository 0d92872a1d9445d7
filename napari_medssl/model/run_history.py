"""What a run has said so far, from the events that the engine keeps in the run's folder.

A night's training says a hundred thousand lines: only those that are asked for are taken apart.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from medssl.core import events
from medssl.core.errors import UserError

MOST = 1200
"""Points of a curve; of a longer one every so many are left out."""


def curves_of(folder: Path, *names: str) -> list[list[tuple[float, float]]]:
    """(step, value) of each of a run's numbers, for the curves."""
    lines = [line for line in _lines(folder) if '"event":"metric"' in line]
    return [_curve([line for line in lines if f'"{name}":' in line], name) for name in names]


def came_to_its_end(folder: Path) -> bool:
    """Whether a run ended by itself; a stopped or killed one did not."""
    ends = [event for line in _lines(folder) if '"event":"done"' in line for event in _event(line)]
    return bool(ends) and isinstance(ends[-1], events.Done) and not ends[-1].stopped


def _curve(lines: list[str], name: str) -> list[tuple[float, float]]:
    thinned = lines[:: max(1, len(lines) // MOST)]
    found = [event for line in thinned for event in _event(line)]
    return [(each.step, each.values[name]) for each in found if isinstance(each, events.Metric)]


def _lines(folder: Path) -> list[str]:
    try:
        return (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _event(line: str) -> list[events.Event]:
    """The event of a line; none where a crash cut it off."""
    with suppress(UserError):
        return [events.from_line(line)]
    return []
