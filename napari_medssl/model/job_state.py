"""State of the job that runs in the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobState:
    """The running job, or the last one. `notices` are messages for the user, the newest last."""

    kind: str = ""
    running: bool = False
    stopping: bool = False
    run: str | None = None
    phase: str = ""
    fraction: float = 0.0
    step: int = 0
    eta_s: float | None = None
    notices: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    """Reasons for the settings of the training."""
