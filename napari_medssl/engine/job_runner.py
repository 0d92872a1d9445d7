"""Runs the session's jobs in an engine process, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import psygnal
from medssl.core import events, jobs
from medssl.core.errors import UserError

from napari_medssl.engine.child_process import COMMAND, EngineProcess, StandbyEngine
from napari_medssl.model.session import Session


class JobRunner:
    """Runs the session's jobs, one at a time, and passes their events to the session."""

    started = psygnal.Signal()
    """A job was started; lines can be sent to it."""
    event_received = psygnal.Signal(object)
    """One medssl event, after the session has handled it."""

    def __init__(self, session: Session, command: Sequence[str] = COMMAND) -> None:
        self._session = session
        self._command = command
        self._child: EngineProcess | None = None
        self.standby = StandbyEngine(session, command)

    def start(self, job: jobs.Job) -> None:
        """Start a job.

        Raises:
            UserError: Another job is running ("busy"), the project is read-only, or the disk refuses the job
                file.
        """
        if self._session.job.running:
            raise UserError("A job is still running; stop it first.", code="busy")
        project = self._session.need_project()
        project.need_writable()
        path = project.root / "job.json"
        jobs.write_job(path, job)
        self._child = child = self.standby.take() or EngineProcess(project.root)
        child.event_received.connect(self._session.handle_event)
        child.event_received.connect(self.event_received.emit)
        child.ended.connect(self._end)
        self._session.begin(jobs.kind_of(job))
        child.run(project.root, path, self._command)
        self.started.emit()

    def show(self, view: events.SliceInView) -> None:
        """Tell the running job which slice is on the screen."""
        if self._child is not None:
            self._child.send(view.to_line())

    def stop(self) -> None:
        """Ask the running job to end with a checkpoint; a second request ends it at once."""
        if self._child is not None:
            self._session.stopping()
            self._child.stop()

    def leave(self) -> None:
        """End the job within 8 s: the window is closed."""
        self.standby.cancel()
        if self._child is not None:
            self._child.stop(patient=False)

    def process_id(self) -> int:
        """Process id of the running job, 0 without one."""
        return 0 if self._child is None else self._child.process_id()

    def _end(self, outcome: str, text: str) -> None:
        self._child = None
        self._session.end(outcome, text)
