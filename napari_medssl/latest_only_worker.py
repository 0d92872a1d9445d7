"""Work beside the viewer's thread, one thing at a time; the newest request wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from superqt.utils import create_worker

from napari_medssl.error_handling import guarded, tell
from napari_medssl.model.session import Session

Steps = Callable[[], Iterator[Any]]
"""Computes, in a thread, one result after the other."""
Show = Callable[[Any], object]
"""Takes one of them in, in the viewer's thread."""


class Background:
    """A thread for one purpose. What is asked for meanwhile takes the place of what runs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker: Any = None
        self._waiting: tuple[Steps, Show, Callable[[], object]] | None = None
        self._number = 0

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return self._worker is not None

    def ask(self, steps: Steps, show: Show, end: Callable[[], object] = lambda: None) -> None:
        """Run `steps` and show each result; `end` is called after the last, unless it was replaced."""
        if self._worker is not None:
            self._waiting = (steps, show, end)
            self._worker.quit()
            return
        self._number += 1
        number = self._number
        self._worker = create_worker(
            _caught,
            steps,
            _start_thread=False,
            _connect={
                "yielded": lambda result: self._on_result(number, result, show),
                "finished": lambda: self._on_end(number, end),
            },
        )
        self._worker.start()

    def stop(self) -> None:
        """Show nothing of what was asked for so far."""
        self._waiting = None
        self._number += 1
        if self._worker is not None:
            self._worker.quit()

    def _on_result(self, number: int, result: Any, show: Show) -> None:
        if self._session.closed and self._worker is not None:
            self._worker.quit()
        if number != self._number or self._waiting is not None or self._session.closed:
            return
        if isinstance(result, Exception):
            tell(self._session, result)
        else:
            guarded(self._session, lambda: show(result))

    def _on_end(self, number: int, end: Callable[[], object]) -> None:
        self._worker = None
        waiting, self._waiting = self._waiting, None
        if self._session.closed:
            return
        if waiting is not None:
            self.ask(*waiting)
        elif number == self._number:
            guarded(self._session, end)


def _caught(steps: Steps) -> Iterator[Any]:
    """The results, and the error that ended them as the last one."""
    try:
        yield from steps()
    except Exception as error:
        yield error
