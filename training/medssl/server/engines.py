"""Engine processes of the server: `medssl run -` (medssl.worker), one of them started ahead.

As in the viewer, a process runs one job: its memory comes back when it ends, and a crash costs that job. The
next process loads torch while nobody waits for it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread, Timer
from typing import Any

from medssl.core.errors import UserError
from medssl.core.events import Done, Event, Failed, from_line
from medssl.core.files import cannot_write
from medssl.core.jobs import Job, write_job
from medssl.core.temporary_files import private_folder, temporary_file
from medssl.server.errors import BUSY, ENGINE
from medssl.worker import LATER

COMMAND = (sys.executable, "-u", "-m", "medssl", "run", str(LATER))
LOG = "engine.log"
"""Output for people of all engines, in the project folder."""
EXIT_S = 8.0
"""An engine that was asked to end and still runs after this time is killed."""
JOB_S = 3600.0
"""A prediction or suggestion that takes longer is ended."""
WAIT_S = 600.0
"""How long a request waits for the jobs of others."""
MAX_WAITING = 8
"""Requests that have a job or wait for their turn; more are refused, so that other requests get through."""


class EngineProcess:
    """One engine process, which loads torch and waits for its job."""

    def __init__(self, log: Path, command: Sequence[str] = COMMAND) -> None:
        """Start it.

        Args:
            log: File to which its output for people is appended.
            command: Program and arguments.

        Raises:
            UserError: "disk-full", "no-folder", "not-writable" if there can be no log.
        """
        try:
            with log.open("ab") as errors:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
        except OSError as error:
            raise cannot_write(log, error) from error

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    @property
    def process_id(self) -> int:
        """Process id."""
        return self._process.pid

    def events(self, job: Path) -> Iterator[Event]:
        """Run a job file; yields its events, Done or Failed last.

        Raises:
            UserError: ENGINE if the process ends without one of them.
        """
        self._send(f"job {job}")
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(UserError):  # a line that is no event, of a library
                event = from_line(line)
                yield event
                if isinstance(event, Done | Failed):
                    return
        code = self._process.wait()
        raise UserError(
            f"The engine exited without reporting an error (exit code {code}); see the end of {LOG} in the "
            "project's folder.",
            code=ENGINE,
        )

    def stop(self) -> None:
        """Ask for the end after the current step, with a checkpoint."""
        self._send("stop")

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def end(self) -> None:
        """Ask for the end, and wait for it; after 8 s the process is killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._process.stdout.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended, which `events` says
            self._process.stdin.write(line.encode("utf-8", "surrogateescape") + b"\n")
            self._process.stdin.flush()


class Engines:
    """Starts engines ahead, and runs predictions and suggestions in them, one at a time.

    Args:
        log: File for their output for people.
        scratch: Folder for job files.
        command: Program and arguments of an engine that waits for its job.
    """

    def __init__(self, log: Path, scratch: Path, command: Sequence[str] = COMMAND) -> None:
        self._log, self._scratch, self._command = log, scratch, command
        self._threads, self._turn = Lock(), Lock()
        self._places = BoundedSemaphore(MAX_WAITING)
        self._waiting: EngineProcess | None = None
        self._running: EngineProcess | None = None
        self._ending: list[Thread] = []
        self._closed = False

    def warm_up(self) -> None:
        """Start an engine, unless one is waiting for a job, or no more jobs come."""
        with self._threads:
            if not self._closed and (self._waiting is None or not self._waiting.alive):
                self._waiting = EngineProcess(self._log, self._command)

    def take(self) -> EngineProcess:
        """Hand an engine over to the caller, who ends it: the one that waits, or else a new one."""
        with self._threads:
            engine, self._waiting = self._waiting, None
        return engine if engine is not None and engine.alive else EngineProcess(self._log, self._command)

    @contextmanager
    def job_file(self, job: Job) -> Iterator[Path]:
        """A job as a file, for as long as it runs."""
        path = temporary_file(private_folder(self._scratch) / "job.json")
        write_job(path, job)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While jobs that do not train may be run; one request at a time may, and others wait.

        Raises:
            UserError: BUSY if as many wait already as may, or after ten minutes.
        """
        if not self._places.acquire(blocking=False):
            raise UserError("Too many predictions are waiting; try again in a minute.", code=BUSY)
        try:
            if not self._turn.acquire(timeout=WAIT_S):
                raise UserError("Other jobs keep the engine busy; try again in some minutes.", code=BUSY)
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._places.release()

    def run(self, job: Job) -> dict[str, Any]:
        """Run a job that does not train, in a `turn`, and wait for its result.

        Raises:
            UserError: ENGINE, and those of the job.
        """
        engine = self._running = self.take()
        watch = Timer(JOB_S, engine.kill)
        watch.daemon = True
        watch.start()
        try:
            with self.job_file(job) as path:
                return _result(engine, path)
        finally:
            watch.cancel()
            self._running = None
            self.retire(engine)

    def retire(self, engine: EngineProcess) -> None:
        """Start the next engine, and end one that has run its job; both take seconds, so nobody waits."""

        def end() -> None:
            with suppress(UserError):  # which the next request for an engine will say
                self.warm_up()
            engine.end()

        thread = Thread(target=end, daemon=True)
        self._ending = [*(each for each in self._ending if each.is_alive()), thread]
        thread.start()

    def close(self) -> None:
        """End all engines."""
        with self._threads:
            self._closed = True
            running, waiting = self._running, self._waiting
        if running is not None:
            running.kill()
        if waiting is not None:
            waiting.end()
        for thread in self._ending:
            thread.join()


def _result(engine: EngineProcess, job: Path) -> dict[str, Any]:
    for event in engine.events(job):
        if isinstance(event, Failed):
            raise UserError(event.text, code=event.code)
        if isinstance(event, Done):
            return event.result
    return {}
