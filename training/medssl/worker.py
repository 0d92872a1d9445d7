"""The engine as a child process: `python -u -m medssl run job.json`.

Standard output carries one event per line (medssl.core.events), `started` first, `done` or `failed` last.
Standard input carries commands: "stop", or the end of the stream, ends the job with a checkpoint after the
current step, so that no orphan keeps the GPU; "show {...}" names the slice on the screen
(events.SliceInView); other lines are ignored. Standard error is a log for people. The exit code is 0 after
`done` and 1 after `failed`.

Under torchrun or SLURM nobody holds the other end of standard input, so its end means nothing there; SIGTERM
stops the job. Of the processes of torchrun rank 0 speaks; the others write to standard error alone.

With "-" in place of a job file the process imports what a training needs and then waits for a line
"job PATH". The viewer starts such a process ahead, so that the first job does not wait for torch. If
standard input ends before a job arrives, the process exits silently with code 0.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from medssl.core import events, ranks
from medssl.core.errors import UserError

NICENESS = 10
"""Added to the process's niceness, so that the viewer stays responsive where both share a core."""


LATER = Path("-")
"""Stands for a job file whose path follows on standard input."""


def run(job_path: Path, host: str = "") -> int:
    """Run a job file under the protocol above.

    Args:
        job_path: The job file, or `LATER` to wait for its path on standard input.
        host: A host of the ssh configuration to run it on (medssl.remote); empty for this computer. There the
            end of standard input ends this process alone, and the job goes on.

    Returns:
        The exit code.
    """
    channel = take_standard_output()
    if hasattr(os, "nice"):  # Windows has none
        os.nice(NICENESS)
    attended = job_path == LATER or not ranks.scheduled()
    commands = CommandReader(stop_at_end=attended)
    signal.signal(signal.SIGINT, lambda *_: commands.end())
    if not attended:
        signal.signal(signal.SIGTERM, lambda *_: commands.end())
    if ranks.rank() == 0:
        threading.Thread(target=commands.listen, daemon=True).start()
    reporter = Reporter(channel if ranks.rank() == 0 else None, commands.leave)
    try:
        if ranks.world() > 1 and (host or job_path == LATER):  # each of the processes would do it
            raise UserError(
                "torchrun starts trainings of job files, and on this computer; give the job file, without "
                "--on.",
                code="bad-job",
            )
        if host:
            return _run_on(host, job_path, commands, reporter)
        from medssl import engine
        from medssl.core import jobs

        if job_path == LATER:
            engine.load(commands.has_job)
        received = _received(job_path, commands)
        if received is None:
            return 0
        job = jobs.read_job(received)
        reporter.project = Path(job.project)
        result = engine.run(job, reporter.emit, commands.stop.is_set, commands.in_view)
        reporter.finish(events.Done(stopped=commands.stop.is_set(), result=result))
        return 0
    except UserError as error:
        reporter.finish(events.Failed(code=error.code, text=str(error)))
        if ranks.rank():
            print(f"Rank {ranks.rank()}: {error}", file=sys.stderr)
    except BaseException as error:
        reporter.finish(events.Failed(code="defect", text=reporter.describe(error)))
    return 1


def _received(job_path: Path, commands: CommandReader) -> Path | None:
    """The job file, or the one that standard input names; None if that has ended before."""
    return commands.job() if job_path == LATER else job_path


def _run_on(host: str, job_path: Path, commands: CommandReader, reporter: Reporter) -> int:
    """Run a job file on another computer; returns the exit code."""
    from medssl.core import jobs
    from medssl.remote import relay
    from medssl.remote.watch import Left, Watch

    watch = Watch(commands.wants_stop, commands.left.is_set, commands.in_view, sys.stderr.write)
    received = _received(job_path, commands)
    with suppress(Left):
        if received is not None:
            relay.run(jobs.read_job(received), host, reporter.emit, watch)
    return 0


def take_standard_output() -> TextIO:
    """Reserve file descriptor 1 for events and redirect all other output to standard error.

    Called before heavy imports: whatever a library prints, from Python or from C, then goes to the log and
    cannot corrupt the stream of events.

    Returns:
        A line-buffered text stream on the original standard output.
    """
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="\n", buffering=1)


class Reporter:
    """Writes events to the channel and describes unexpected errors."""

    def __init__(self, channel: TextIO | None, on_gone: Callable[[], object]) -> None:
        """Args:
        channel: Where events go; None for a process that is not to speak.
        on_gone: Called when nobody reads them any more.
        """
        self._channel = channel
        self._on_gone = on_gone
        self._ended = False
        self.project: Path | None = None
        self.run_id: str | None = None

    def emit(self, event: events.Event) -> None:
        """Send one event. If the reader has gone, the job is asked to stop and still saves its checkpoint."""
        if isinstance(event, events.Started):
            self.run_id = event.run
        self._ended = self._ended or isinstance(event, events.Done | events.Failed)
        if self._channel is None:
            return
        try:
            self._channel.write(events.to_line(event) + "\n")
            self._channel.flush()
        except OSError:
            self._on_gone()

    def finish(self, event: events.Done | events.Failed) -> None:
        """Send the final event, unless the job has already sent one."""
        if not self._ended:
            self.emit(event)

    def describe(self, error: BaseException) -> str:
        """Describe an unexpected error in one sentence; its traceback goes to standard error."""
        traceback.print_exception(error)
        log = "its error output"
        if self.project is not None and self.run_id:
            log += f" (the viewer keeps it in {self.project / 'runs' / self.run_id / 'run.log'})"
        return (
            f"The engine stopped because of an internal error ({type(error).__name__}); "
            f"please report it with the end of {log}."
        )


class CommandReader:
    """Commands received on standard input: a thread reads them, the job polls their state."""

    def __init__(self, stop_at_end: bool = True) -> None:
        self.stop = threading.Event()
        self.left = threading.Event()
        """Set when nobody can write commands, or read events, any more; `stop` follows."""
        self._stop_at_end = stop_at_end
        self._in_view: events.SliceInView | None = None
        self._jobs: queue.SimpleQueue[Path | None] = queue.SimpleQueue()

    def in_view(self) -> events.SliceInView | None:
        """The slice on the screen, None while it is unknown."""
        return self._in_view

    def has_job(self) -> bool:
        """Whether `job` returns at once."""
        return not self._jobs.empty()

    def job(self) -> Path | None:
        """Wait for the path of the job file; None if standard input has ended."""
        return self._jobs.get()

    def wants_stop(self) -> bool:
        """Whether somebody has asked to stop, and not merely gone."""
        return self.stop.is_set() and not self.left.is_set()

    def leave(self) -> None:
        """Stop the job, because whoever has started it has gone."""
        self.left.set()
        self.end()

    def end(self) -> None:
        """Stop the job after the current step, and stop pending for one."""
        self.stop.set()
        self._jobs.put(None)

    def listen(self) -> None:
        """Read lines until "stop" or the end of standard input.

        Reads the file descriptor directly: a thread blocked in the buffer of sys.stdin would hang the
        interpreter at exit.
        """
        pending = b""
        while not self.stop.is_set():
            try:
                received = os.read(0, 4096)
            except OSError:
                received = b""
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                self._handle(line.decode("utf-8", "surrogateescape").strip())
            if not received:
                if self._stop_at_end:
                    self.leave()
                return

    def _handle(self, line: str) -> None:
        word, _, argument = line.partition(" ")
        if line == "stop":
            self.end()
        elif word == "job" and argument:
            self._jobs.put(Path(argument))
        elif word == "show":
            with suppress(UserError):
                self._in_view = events.SliceInView.from_line(line)
