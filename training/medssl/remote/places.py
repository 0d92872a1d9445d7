"""Here: paths in what the engine of another computer says."""

from __future__ import annotations

import msgspec

from medssl.core import events
from medssl.core.events import Event


def as_here(event: Event, there: str, here: str, host: str) -> Event:
    """An event whose files are those of this computer, and whose sentences say on which one others are.

    Args:
        event: The event.
        there: The project's path there.
        here: The project's path here.
        host: The other computer.
    """
    if isinstance(event, events.Checkpoint | events.Preview):
        return msgspec.structs.replace(event, path=event.path.replace(there, here, 1))
    if isinstance(event, events.Notice | events.Failed):
        log_is_here = isinstance(event, events.Failed) and event.code == "defect"
        place = here if log_is_here else f"{host}:{there}"
        return msgspec.structs.replace(event, text=event.text.replace(there, place))
    return event
