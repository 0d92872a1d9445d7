"""Engines beside the session's job, for what nobody has to wait for: estimates, features of the open scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from medssl.core import events, jobs
from medssl.core.errors import UserError

from napari_medssl.engine.child_process import COMMAND, Ahead, Child
from napari_medssl.model.session import Session

End = Callable[[str, str], object]
"""Takes ("done" | "stopped" | "failed", sentence) when a side job is over."""


class SideJobs:
    """Runs one side job at a time, in the order in which they were asked for.

    Every job of the session ends all of them at once; so does another project, and one that may only be
    read. Nothing of them reaches the session.
    """

    def __init__(self, session: Session, ahead: Ahead, command: Sequence[str] = COMMAND) -> None:
        self._session, self._ahead, self._command = session, ahead, command
        self._child: Child | None = None
        self._running: tuple[str, End] | None = None
        self._waiting: dict[str, tuple[jobs.Job, End]] = {}
        session.job_changed.connect(self._give_way)
        session.project_held.connect(self._give_way)
        session.project_changed.connect(self.cancel_all)

    @property
    def child(self) -> Child | None:
        """The running engine."""
        return self._child

    def start(self, job: jobs.Job, end: End) -> None:
        """Run a job once nothing else runs, in place of an earlier one of its kind."""
        kind = jobs.kind_of(job)
        self.cancel(kind)
        self._waiting[kind] = (job, end)
        self._start_next()

    def cancel(self, kind: str) -> None:
        """End the side job of a kind; its `end` is not called."""
        self._waiting.pop(kind, None)
        if self._running is not None and self._running[0] == kind:
            self._kill()
            self._start_next()

    def cancel_all(self) -> None:
        """End all side jobs; each `end` hears "stopped"."""
        ends = [end for _, end in self._waiting.values()]
        if self._running is not None:
            ends.append(self._running[1])
        self._waiting.clear()
        self._kill()
        for end in ends:
            end("stopped", "")

    def _give_way(self) -> None:
        if not self._session.idle:
            self.cancel_all()

    def _start_next(self) -> None:
        while self._child is None and self._waiting and self._session.idle:
            kind = next(iter(self._waiting))
            job, end = self._waiting.pop(kind)
            root = self._session.need_project().root
            path = root / f"{kind}.json"
            try:
                jobs.write_job(path, job)
            except UserError as error:
                end("failed", str(error))
                continue
            self._running = (kind, end)
            self._child = self._ahead.take() or Child(root)
            self._child.heard.connect(self._hear)
            self._child.ended.connect(self._on_end)
            self._child.run(root, path, self._command)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.Done) and not event.stopped:
            self._tell("done", "")  # the results are there; that the process ends takes a second more

    def _on_end(self, outcome: str, text: str) -> None:
        self._child = None
        self._tell(outcome, text)
        self._start_next()

    def _tell(self, outcome: str, text: str) -> None:
        running, self._running = self._running, None
        if running is not None:
            running[1](outcome, text)

    def _kill(self) -> None:
        child, self._child, self._running = self._child, None, None
        if child is not None:
            with suppress(RuntimeError):  # at the end of the program Qt may have taken it down already
                child.heard.disconnect()
                child.ended.disconnect()
                child.stop()
                child.stop()  # the second time ends it at once: there is nothing to save
