"""What a run has said so far, from the events that the engine keeps in the run's folder."""

from __future__ import annotations

from pathlib import Path

from medssl import events


def losses_of(folder: Path) -> list[tuple[float, float]]:
    """(step, loss) of a run, for the curve."""
    return [
        (event.step, event.values["loss"])
        for event in events.read_log(folder / "events.jsonl")
        if isinstance(event, events.Metric) and "loss" in event.values
    ]


def came_to_its_end(folder: Path) -> bool:
    """Whether a run ended by itself; a stopped or killed one did not."""
    ends = [event for event in events.read_log(folder / "events.jsonl") if isinstance(event, events.Done)]
    return bool(ends) and not ends[-1].stopped
