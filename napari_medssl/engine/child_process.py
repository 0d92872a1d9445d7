"""The engine as a child process of the viewer: events in, stop, kill.

A child, because only the end of a process gives its memory back, because a native crash must not take
the annotation with it, and because stopping must always work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psygnal
from medssl.core import events, jobs
from medssl.core.errors import UserError
from medssl.worker import LATER
from qtpy.QtCore import QObject, QProcess, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_medssl.model.session import Session

COMMAND = (sys.executable, "-u", "-m", "medssl", "run")
TERMINATE_MS = 5_000
KILL_MS = 8_000
SHUTDOWN_MS = (4_000, 2_000, 2_000)
"""How long a closing viewer waits after "stop", after terminate, after kill: 8 s in all."""
TAIL = 4_000
KILLED = (9, 137)
"""Exit codes of a process that the system killed, as a signal and as a shell reports it."""

_alive: set[Child] = set()
"""Children outlive the window that started them by the seconds that stopping takes."""


class Child(QObject):
    """One engine process. Both of its pipes are always drained; nothing here ever waits for it."""

    heard = Signal(object)
    """One medssl event."""
    ended = Signal(str, str)
    """("done" | "stopped" | "failed", sentence): the process is gone; always the last signal."""

    def __init__(self, project: Path) -> None:
        super().__init__()
        self._project = project
        self._log: Path | None = None
        self._line = b""
        self._errors = b""
        self._last: events.Done | events.Failed | None = None
        self._asked_to_stop, self._patient = False, True
        self._over = False
        self._process = QProcess(self)
        self._process.readyReadStandardOutput.connect(self._read_events)
        self._process.readyReadStandardError.connect(self._read_errors)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._error)
        self._terminate = self._timer(TERMINATE_MS, self._process.terminate)
        self._kill = self._timer(KILL_MS, self._process.kill)

    def start(self, job: Path, command: Sequence[str] = COMMAND) -> None:
        """Start the engine on a job file, or without one (LATER) ahead of it."""
        _alive.add(self)
        QApplication.instance().aboutToQuit.connect(self.shutdown)
        self._process.start(command[0], [*command[1:], str(job)])

    def run(self, project: Path, job: Path, command: Sequence[str]) -> None:
        """Start the engine on a job file, or name that to an engine that was started ahead."""
        if self._process.state() == QProcess.ProcessState.NotRunning:
            self.start(job, command)
        else:
            self._project = project
            self.tell(f"job {job}")

    def tell(self, line: str) -> None:
        """Send a line down."""
        self._process.write(line.encode("utf-8", "surrogateescape") + b"\n")

    def stop(self, patient: bool = True) -> None:
        """Ask for an end after the running step; terminate after 5 s without a sign, kill after 8 s.

        patient: events count as signs, so that a prediction that a stopped training still makes is not
        cut off. Asked a second time, the engine is ended at once.
        """
        if self._asked_to_stop and patient:
            self._process.kill()
            return
        self._asked_to_stop, self._patient = True, patient
        self.tell("stop")
        self._terminate.start()
        self._kill.start()

    def shutdown(self) -> None:
        """End the process now, waiting for it: for the moment when the viewer closes."""
        if self._over:
            return
        self.stop(patient=False)
        self._process.closeWriteChannel()
        ways_out = (lambda: None, self._process.terminate, self._process.kill)
        for way_out, patience in zip(ways_out, SHUTDOWN_MS, strict=True):
            way_out()
            if self._process.waitForFinished(patience):
                return

    def process_id(self) -> int:
        """The child's process id, 0 when it does not run."""
        return int(self._process.processId() or 0)

    def _timer(self, milliseconds: int, action) -> QTimer:
        timer = QTimer(self, interval=milliseconds, singleShot=True)
        timer.timeout.connect(action)
        return timer

    def _read_events(self) -> None:
        *lines, self._line = (self._line + self._take(QProcess.ProcessChannel.StandardOutput)).split(b"\n")
        for line in filter(None, lines):
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        try:
            event = events.from_line(line.decode("utf-8", "replace"))
        except UserError:
            self._write_log(line + b"\n")  # something printed: it belongs to the log
            return
        if isinstance(event, events.Started):
            # A job without weights, as a suggestion before any training, has no run to keep a log in.
            folder = self._project / "runs" / event.run if event.run else self._project
            self._log = folder / "run.log"
            self._append(self._log, self._errors)
        if isinstance(event, events.Done | events.Failed):
            self._last = event
        if self._asked_to_stop and self._patient:
            self._terminate.start()
            self._kill.start()
        self.heard.emit(event)

    def _read_errors(self) -> None:
        self._write_log(self._take(QProcess.ProcessChannel.StandardError))

    def _take(self, channel: QProcess.ProcessChannel) -> bytes:
        self._process.setReadChannel(channel)
        return bytes(self._process.readAll().data())

    def _write_log(self, text: bytes) -> None:
        """Append to the run's log; until the run has a name, keep the end of it."""
        if self._log is None:
            self._errors = (self._errors + text)[-TAIL:]
        else:
            self._append(self._log, text)

    def _append(self, log: Path, text: bytes) -> None:
        try:
            with log.open("ab") as file:
                file.write(text)
        except OSError:
            pass  # a log that cannot be written must not stop a training

    def _error(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            program = self._process.program()
            self._end("failed", f"The engine could not be started ({program}); install napari-medssl again.")

    def _finished(self, code: int, status: QProcess.ExitStatus) -> None:
        self._read_events()
        self._read_errors()
        if self._line:
            self._take_line(self._line)
        if isinstance(self._last, events.Failed):
            self._end("failed", self._last.text)
        elif isinstance(self._last, events.Done):
            self._end("stopped" if self._last.stopped else "done", "")
        elif self._asked_to_stop:
            self._end("stopped", "")
        else:
            self._end("failed", self._obituary(code, status))

    def _obituary(self, code: int, status: QProcess.ExitStatus) -> str:
        if code in KILLED:
            return (
                "The engine was ended by the system, most likely because memory ran out; what was painted "
                "is saved. Close other programs and press Continue: a training goes on from its last "
                "checkpoint."
            )
        log = self._log or self._project / "engine.log"
        if self._log is None:
            self._append(log, self._errors)
        crashed = status == QProcess.ExitStatus.CrashExit
        how = f"signal {code}" if crashed else f"exit code {code}"
        return f"The engine ended without a word ({how}); {log} has its last output."

    def _end(self, outcome: str, text: str) -> None:
        if self._over:
            return
        self._over = True
        self._terminate.stop()
        self._kill.stop()
        self.ended.emit(outcome, text)
        _alive.discard(self)
        self.deleteLater()


class Ahead:
    """An engine that is started before there is a job for it, at most one: it loads torch meanwhile."""

    on = True
    """Tests of other things switch it off."""

    def __init__(self, session: Session, command: Sequence[str]) -> None:
        self._session, self._command = session, command
        self._child: Child | None = None
        session.project_changed.connect(self.cancel)

    def warm_up(self) -> None:
        """Start it, where there is none and no job runs."""
        if self.on and self._child is None and self._session.idle and self._session.project is not None:
            self._child = Child(self._session.project.root)
            self._child.ended.connect(self._lose)
            self._child.start(LATER, self._command)

    def take(self) -> Child | None:
        """The engine, which is now somebody else's; None if there is none."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(RuntimeError):
                child.ended.disconnect(self._lose)
        return child

    def cancel(self) -> None:
        """End it: nothing was asked of it."""
        child = self.take()
        if child is not None:
            with suppress(RuntimeError):  # at the end of the program Qt may have taken it down already
                child.stop()
                child.stop()  # the second time ends it at once

    def _lose(self, outcome: str, text: str) -> None:
        self._child = None


class Jobs:
    """Starts the session's jobs, one at a time, and tells the session what comes of them."""

    started = psygnal.Signal()
    """A job was started: it can be told something."""
    heard = psygnal.Signal(object)
    """One medssl event of it; the session has heard it before."""

    def __init__(self, session: Session, command: Sequence[str] = COMMAND) -> None:
        self._session = session
        self._command = command
        self._child: Child | None = None
        self.ahead = Ahead(session, command)

    def start(self, job: jobs.Job) -> None:
        """Start a job. Raises UserError ("busy") while another one runs, or if the disk refuses."""
        if self._session.job.running:
            raise UserError("A job is still running; stop it first.", code="busy")
        project = self._session.need_project()
        project.need_writable()
        path = project.root / "job.json"
        jobs.write_job(path, job)
        self._child = child = self.ahead.take() or Child(project.root)
        child.heard.connect(self._session.hear)
        child.heard.connect(self.heard.emit)
        child.ended.connect(self._end)
        self._session.begin(jobs.kind_of(job))
        child.run(project.root, path, self._command)
        self.started.emit()

    def show(self, place: events.SliceInView) -> None:
        """Tell the running job which slice is on the screen."""
        if self._child is not None:
            self._child.tell(place.to_line())

    def stop(self) -> None:
        """Ask the running job to end with a checkpoint; asked again, end it at once."""
        if self._child is not None:
            self._session.stopping()
            self._child.stop()

    def leave(self) -> None:
        """The window is gone: the job ends within 8 s, whatever it says."""
        self.ahead.cancel()
        if self._child is not None:
            self._child.stop(patient=False)

    def process_id(self) -> int:
        """The running engine's process id, 0 without one."""
        return 0 if self._child is None else self._child.process_id()

    def _end(self, outcome: str, text: str) -> None:
        self._child = None
        self._session.end(outcome, text)
