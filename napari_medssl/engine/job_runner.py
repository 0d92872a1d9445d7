"""Runs the session's jobs in an engine process, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import psygnal
from medssl.core import events, jobs
from medssl.core.errors import UserError

from napari_medssl.engine.child_process import COMMAND, EngineProcess, StandbyEngine
from napari_medssl.model.run_host import RunHost
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
        self.host = RunHost()
        """Where trainings and predictions run."""
        self.standby = StandbyEngine(session, command)

    def start(self, job: jobs.Job) -> None:
        """Start a job.

        Raises:
            UserError: Another job is running ("busy"), the project is read-only, the disk refuses the job
                file, or the run to resume cannot be read.
        """
        if self._session.job.running:
            raise UserError("A job is still running; stop it first.", code="busy")
        project = self._session.need_project()
        project.need_writable()
        host = self.host.host_of(job, project)
        path = project.root / "job.json"
        jobs.write_job(path, job)
        ready = None if host else self.standby.take()
        self._child = child = ready or EngineProcess(goes_on=bool(host))
        child.event_received.connect(self._session.handle_event)
        child.event_received.connect(self.event_received.emit)
        child.ended.connect(self._end)
        self._session.begin(jobs.kind_of(job), host)
        child.run(project.root, path, (*self._command, "--on", host) if host else self._command)
        self.started.emit()

    def warm_up(self) -> None:
        """Start an engine ahead of the next job, unless that runs on another computer."""
        if not self.host.chosen:
            self.standby.warm_up()

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
        """End the job within 8 s, unless it runs on another computer: the window is closed."""
        self.standby.cancel()
        if self._child is not None:
            self._child.stop(patient=False)

    def process_id(self) -> int:
        """Process id of the running job, 0 without one."""
        return 0 if self._child is None else self._child.process_id()

    def _end(self, outcome: str, text: str) -> None:
        self._child = None
        self._session.end(outcome, text)
