"""Work in a thread, one task at a time; the newest request replaces earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from superqt.utils import GeneratorWorker, create_worker

from napari_medssl.error_handling import catch_errors, report_error
from napari_medssl.model.session import Session

T = TypeVar("T")
Compute = Callable[[], Iterator[Any]]
"""Computes, in a thread, one result after the other."""
OnResult = Callable[[Any], object]
"""Takes one of them in, in the viewer's thread."""


class LatestOnlyWorker:
    """Runs the newest task; a task that is running is cancelled by the next one.

    What is said about a task that failed ends with the next one.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker: GeneratorWorker[Any, None, None] | None = None
        self._next: tuple[Compute, OnResult, Callable[[], object]] | None = None
        self._request = 0

    @property
    def busy(self) -> bool:
        """Whether a task is running."""
        return self._worker is not None

    def submit(
        self,
        compute: Callable[[], Iterator[T]],
        on_result: Callable[[T], object],
        on_finished: Callable[[], object] = lambda: None,
    ) -> None:
        """Run a task in a thread.

        Args:
            compute: Returns an iterator of results; consumed in the thread.
            on_result: Called with each result, in the viewer's thread; errors are reported.
            on_finished: Called after the last result, unless the task was replaced.
        """
        self._session.messages.end(self)
        if self._worker is not None:
            self._next = (compute, on_result, on_finished)
            self._worker.quit()
            return
        self._request += 1
        request = self._request
        self._worker = worker = create_worker(
            _with_error,
            compute,
            _start_thread=False,
            _connect={
                "yielded": lambda result: self._on_result(request, result, on_result),
                "finished": lambda: self._on_finished(request, on_finished),
            },
        )
        worker.start()

    def stop(self) -> None:
        """Drop the results of all tasks so far."""
        self._next = None
        self._request += 1
        if self._worker is not None:
            self._worker.quit()

    def _on_result(self, request: int, result: Any, on_result: OnResult) -> None:
        if self._session.closed and self._worker is not None:
            self._worker.quit()
        if request != self._request or self._next is not None or self._session.closed:
            return
        if isinstance(result, Exception):
            report_error(self._session, result, self)
        else:
            catch_errors(self._session, lambda: on_result(result))

    def _on_finished(self, request: int, on_finished: Callable[[], object]) -> None:
        self._worker = None
        following, self._next = self._next, None
        if self._session.closed:
            return
        if following is not None:
            self.submit(*following)
        elif request == self._request:
            catch_errors(self._session, on_finished)


def _with_error(compute: Compute) -> Generator[Any, None, None]:
    """The results, and the error that ended them as the last one."""
    try:
        yield from compute()
    except Exception as error:
        yield error
