"""What a run has said so far, from the events that the engine keeps in the run's folder."""

from __future__ import annotations

from pathlib import Path

from medssl import events
from medssl.errors import UserError


def history_of(folder: Path) -> list[events.Event]:
    """What a run has said so far; lines that a crash cut off are left out."""
    try:
        lines = (Path(folder) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [event for event in map(_event, lines) if event is not None]


def _event(line: str) -> events.Event | None:
    try:
        return events.from_line(line)
    except UserError:
        return None


def losses_of(folder: Path) -> list[tuple[float, float]]:
    """(step, loss) of a run, for the curve."""
    return [
        (event.step, event.values["loss"])
        for event in history_of(folder)
        if isinstance(event, events.Metric) and "loss" in event.values
    ]


def came_to_its_end(folder: Path) -> bool:
    """Whether a run ended by itself; a stopped or killed one did not."""
    ends = [event for event in history_of(folder) if isinstance(event, events.Done)]
    return bool(ends) and not ends[-1].stopped
