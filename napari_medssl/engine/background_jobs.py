"""Jobs in an engine process of their own, beside the session's job: estimates, features of the open scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from medssl.core import events, jobs
from medssl.core.errors import UserError

from napari_medssl.engine.child_process import COMMAND, EngineProcess, StandbyEngine
from napari_medssl.model.session import Session

End = Callable[[str, str], object]
"""Called with ("done" | "stopped" | "failed", message) when a job has ended."""


class BackgroundJobs:
    """Runs one background job at a time, in the order of their start.

    A job of the session cancels all of them, and so does opening another project or a read-only one. Their
    events do not reach the session.
    """

    def __init__(self, session: Session, standby: StandbyEngine, command: Sequence[str] = COMMAND) -> None:
        self._session, self._standby, self._command = session, standby, command
        self._child: EngineProcess | None = None
        self._running: tuple[str, End] | None = None
        self._queue: dict[str, tuple[jobs.Job, End]] = {}
        session.job_changed.connect(self._on_job)
        session.lock_changed.connect(self._on_job)
        session.project_changed.connect(self.cancel_all)

    @property
    def child(self) -> EngineProcess | None:
        """The engine process that is running; None for none."""
        return self._child

    def start(self, job: jobs.Job, end: End) -> None:
        """Queue a job; an earlier one of the same kind is cancelled.

        Args:
            job: The job to run.
            end: Called with ("done" | "stopped" | "failed", message) at the end.
        """
        kind = jobs.kind_of(job)
        self.cancel(kind)
        self._queue[kind] = (job, end)
        self._start_next()

    def cancel(self, kind: str) -> None:
        """Cancel the job of a kind; its `end` is not called."""
        self._queue.pop(kind, None)
        if self._running is not None and self._running[0] == kind:
            self._kill()
            self._start_next()

    def cancel_all(self) -> None:
        """Cancel all jobs; each `end` is called with "stopped"."""
        ends = [end for _, end in self._queue.values()]
        if self._running is not None:
            ends.append(self._running[1])
        self._queue.clear()
        self._kill()
        for end in ends:
            end("stopped", "")

    def _on_job(self) -> None:
        if not self._session.idle:
            self.cancel_all()

    def _start_next(self) -> None:
        while self._child is None and self._queue and self._session.idle:
            kind = next(iter(self._queue))
            job, end = self._queue.pop(kind)
            root = self._session.need_project().root
            path = root / f"{kind}.json"
            try:
                jobs.write_job(path, job)
            except UserError as error:
                end("failed", str(error))
                continue
            self._running = (kind, end)
            self._child = self._standby.take() or EngineProcess()
            self._child.event_received.connect(self._on_event)
            self._child.ended.connect(self._on_end)
            self._child.run(root, path, self._command)

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Done) and not event.stopped:
            self._report("done", "")  # the results are saved; ending the process takes another second

    def _on_end(self, outcome: str, text: str) -> None:
        self._child = None
        self._report(outcome, text)
        self._start_next()

    def _report(self, outcome: str, text: str) -> None:
        running, self._running = self._running, None
        if running is not None:
            running[1](outcome, text)

    def _kill(self) -> None:
        child, self._child, self._running = self._child, None, None
        if child is not None:
            with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
                child.event_received.disconnect()
                child.ended.disconnect()
                child.stop()
                child.stop()  # the second request ends it at once: there is nothing to save
