"""The engine as a child process of the viewer: start it, receive its events, stop it.

A process, because its memory is only freed when it ends, because a native crash must not lose the annotation,
and because it must be possible to stop it at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medssl.core import events
from medssl.core.errors import UserError
from medssl.worker import LATER
from qtpy.QtCore import QObject, QProcess, Signal
from qtpy.QtWidgets import QApplication

from napari_medssl.model.session import Session
from napari_medssl.qt import not_none, timer

COMMAND = (sys.executable, "-u", "-m", "medssl", "run")
TERMINATE_MS = 5_000
KILL_MS = 8_000
FAR_PATIENCE = 6
"""How many times as long the answer of another computer may take."""
EXIT_MS = 5_000
"""An engine that has reported its end and still runs after this time is killed: its results are saved."""
MAX_LINE_BYTES = 1 << 20
"""What follows in a longer line is dropped; an event has some kilobytes at most."""
SHUTDOWN_MS = (4_000, 2_000, 2_000)
"""Waiting times of a closing viewer after "stop", terminate and kill: 8 s in all."""
LOG_TAIL_BYTES = 4_000
KILLED_CODES = (9, 137)
"""Exit codes of a killed process: the signal itself, and as a shell reports it."""

_running: set[EngineProcess] = set()
"""Keeps processes alive that outlive their window while they stop."""


class EngineProcess(QObject):
    """One engine process. Both of its pipes are always drained; only `shutdown` blocks."""

    event_received = Signal(object)
    """One medssl event."""
    ended = Signal(str, str)
    """("done" | "stopped" | "failed", message): the process has ended; always the last signal."""

    def __init__(self, goes_on: bool = False) -> None:
        """Args:
        goes_on: Whether the job runs on another computer, and goes on there when this process is told
            nothing any more; it may then be silent for longer.
        """
        super().__init__()
        self._project: Path | None = None
        """None while it waits for a job; there is no log then."""
        self._goes_on = goes_on
        self._log: Path | None = None
        self._line, self._line_too_long = b"", False
        self._errors = b""
        self._result: events.Done | events.Failed | None = None
        self._stop_requested, self._patient = False, True
        self._over = False
        self._process = QProcess(self)
        self._process.readyReadStandardOutput.connect(self._read_events)
        self._process.readyReadStandardError.connect(self._read_errors)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._error)
        patience = FAR_PATIENCE if goes_on else 1
        self._terminate = timer(patience * TERMINATE_MS, self._process.terminate, parent=self)
        self._kill = timer(patience * KILL_MS, self._process.kill, parent=self)
        self._exit = timer(EXIT_MS, self._process.kill, parent=self)

    def wait(self, command: Sequence[str] = COMMAND) -> None:
        """Start the engine, which loads torch and waits for a job.

        Args:
            command: Program and arguments that precede the job.
        """
        self._start(LATER, command)

    def run(self, project: Path, job: Path, command: Sequence[str] = COMMAND) -> None:
        """Run a job: start the engine, or send the job to one that is waiting for it.

        Args:
            project: Root of the project, where the log is written.
            job: The job file.
            command: Program and arguments that precede the job.
        """
        self._project = project
        if self._process.state() == QProcess.ProcessState.NotRunning:
            self._start(job, command)
        else:
            self.send(f"job {job}")

    def _start(self, job: Path, command: Sequence[str]) -> None:
        _running.add(self)
        not_none(QApplication.instance()).aboutToQuit.connect(self.shutdown)
        self._process.start(command[0], [*command[1:], str(job)])

    def send(self, line: str) -> None:
        """Write a line to the engine's standard input."""
        self._process.write(line.encode("utf-8", "surrogateescape") + b"\n")

    def stop(self, patient: bool = True) -> None:
        """Ask the engine to end after the current step; a job that goes on elsewhere is left, if not patient.

        It is terminated after 5 s without an event and killed after 8 s. A second request kills it at once.

        Args:
            patient: Events restart both timers, so that the prediction at the end of a stopped training is
                not cut off.
        """
        if self._stop_requested and patient:
            self._process.kill()
            return
        self._stop_requested, self._patient = True, patient
        if self._goes_on and not patient:
            self._process.closeWriteChannel()
        else:
            self.send("stop")
        self._terminate.start()
        self._kill.start()

    def shutdown(self) -> None:
        """End the process and wait for it, 8 s at most; used when the viewer closes."""
        if self._over:
            return
        self.stop(patient=False)
        self._process.closeWriteChannel()
        escalation = (lambda: None, self._process.terminate, self._process.kill)
        for action, wait_ms in zip(escalation, SHUTDOWN_MS, strict=True):
            action()
            if self._process.waitForFinished(wait_ms):
                return

    def process_id(self) -> int:
        """Process id, 0 while it is not running."""
        return int(self._process.processId() or 0)

    def _read_events(self) -> None:
        *lines, self._line = (self._line + self._take(QProcess.ProcessChannel.StandardOutput)).split(b"\n")
        if lines and self._line_too_long:
            del lines[0]  # the end of the line whose beginning is in the log
            self._line_too_long = False
        for line in filter(None, lines):
            self._take_line(line)
        if self._line_too_long:
            self._line = b""
        elif len(self._line) > MAX_LINE_BYTES:
            self._write_log(self._line + b"\n")
            self._line, self._line_too_long = b"", True

    def _take_line(self, line: bytes) -> None:
        try:
            event = events.from_line(line.decode("utf-8", "replace"))
        except UserError:
            self._write_log(line + b"\n")  # output of a library: it belongs into the log
            return
        if isinstance(event, events.Started) and self._project is not None:
            # A job without weights, such as a suggestion before any training, has no run folder for its log.
            folder = self._project / "runs" / event.run if event.run else self._project
            self._log = folder / "run.log"
            self._append(self._log, self._errors)
        if isinstance(event, events.Done | events.Failed):
            self._result = event
            self._exit.start()
        if self._stop_requested and self._patient:
            self._terminate.start()
            self._kill.start()
        self.event_received.emit(event)

    def _read_errors(self) -> None:
        self._write_log(self._take(QProcess.ProcessChannel.StandardError))

    def _take(self, channel: QProcess.ProcessChannel) -> bytes:
        self._process.setReadChannel(channel)
        return bytes(self._process.readAll().data())

    def _write_log(self, text: bytes) -> None:
        """Append to the run's log; until the run has a name, keep the end of it."""
        if self._log is None:
            self._errors = (self._errors + text)[-LOG_TAIL_BYTES:]
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
            self._end("failed", f"The engine could not be started ({program}); reinstall napari-medssl.")

    def _finished(self, code: int, status: QProcess.ExitStatus) -> None:
        self._read_events()
        self._read_errors()
        if self._line:
            self._take_line(self._line)
        if isinstance(self._result, events.Failed):
            self._end("failed", self._result.text)
        elif isinstance(self._result, events.Done):
            self._end("stopped" if self._result.stopped else "done", "")
        elif self._stop_requested:
            self._end("stopped", "")
        else:
            self._end("failed", self._failure_message(code, status))

    def _failure_message(self, code: int, status: QProcess.ExitStatus) -> str:
        if code in KILLED_CODES:
            return (
                "The system ended the engine, most likely because memory ran out; the annotation is saved. "
                "Close other programs and press Continue to resume from the last checkpoint."
            )
        if self._log is None and self._project is not None:
            self._log = self._project / "engine.log"
            self._append(self._log, self._errors)
        crashed = status == QProcess.ExitStatus.CrashExit
        reason = f"signal {code}" if crashed else f"exit code {code}"
        where = f"; see the end of {self._log}" if self._log else ""
        return f"The engine exited without reporting an error ({reason}){where}."

    def _end(self, outcome: str, text: str) -> None:
        if self._over:
            return
        self._over = True
        self._terminate.stop()
        self._kill.stop()
        self._exit.stop()
        self.ended.emit(outcome, text)
        _running.discard(self)
        self.deleteLater()


class StandbyEngine:
    """At most one engine that is started before there is a job, so that torch is loaded when one comes."""

    on = True
    """Off in tests of other features."""

    def __init__(self, session: Session, command: Sequence[str]) -> None:
        self._session, self._command = session, command
        self._child: EngineProcess | None = None

    def warm_up(self) -> None:
        """Start an engine unless there is one or a job is running."""
        if self.on and self._child is None and self._session.idle:
            self._child = EngineProcess()
            self._child.ended.connect(self._forget)
            self._child.wait(self._command)

    def take(self) -> EngineProcess | None:
        """Hand the engine over to the caller; None if there is none."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(RuntimeError):
                child.ended.disconnect(self._forget)
        return child

    def cancel(self) -> None:
        """End the engine."""
        child = self.take()
        if child is not None:
            with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
                child.stop()
                child.stop()  # the second request ends it at once

    def _forget(self, outcome: str, text: str) -> None:
        self._child = None
