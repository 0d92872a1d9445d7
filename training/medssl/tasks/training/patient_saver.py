"""Saves a training whose project may vanish for a while: moved by its user, or with a network drive."""

from __future__ import annotations

import time
from collections.abc import Callable

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.project.folder import GONE

WAIT_S = 600.0
"""How long a training that has ended waits for a project that is no longer there."""
RETRY_S = 0.5


class PatientSaver:
    """Repeats saving until the project is there again.

    Args:
        save: Writes a checkpoint.
        emit: Receives a Notice when the project has vanished.
        should_stop: Ends the waiting.
    """

    def __init__(self, save: Callable[[], None], emit: Emit, should_stop: Callable[[], bool]) -> None:
        self._save, self._emit, self._should_stop = save, emit, should_stop
        self._told = False

    def save(self, wait: bool = True) -> None:
        """Save; without the project say so, once, and wait for it or go on."""
        until = time.monotonic() + WAIT_S
        while True:
            try:
                self._save()
            except UserError as error:
                if error.code not in ("no-folder", GONE):
                    raise
                if wait and (self._should_stop() or time.monotonic() > until):
                    raise
                if not self._told:
                    self._emit(Notice(f"{error} Until then the training is not saved."))
                self._told = True
                if not wait:
                    return
                time.sleep(RETRY_S)
            else:
                self._told = False
                return
