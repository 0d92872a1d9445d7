"""Here: what whoever has started a job on another computer wants; how a relay ends before the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medssl.core.events import SliceInView


class Left(Exception):
    """Whoever has started the relay has gone; the job goes on."""


class Stopped(Exception):
    """The job was stopped before it began."""


@dataclass(frozen=True)
class Watch:
    """What whoever has started the job wants.

    Attributes:
        should_stop: Returns True to stop the job.
        has_left: Returns True when nobody listens any more: the relay ends, and the job goes on.
        in_view: Returns the slice on the screen, None while it is unknown.
        on_log: Called at the end with the engine's error output.
    """

    should_stop: Callable[[], bool]
    has_left: Callable[[], bool] = lambda: False
    in_view: Callable[[], SliceInView | None] = lambda: None
    on_log: Callable[[str], object] = lambda text: None
