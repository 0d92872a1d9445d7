"""The engine as a child process: `python -u -m medssl run job.json`.

Up, on standard output: one event line each (medssl.core.events), first `started`, last `done` or `failed`.
Down, on standard input: a line "stop", or its end, ends the job after the running step with a checkpoint,
so that no orphan keeps the GPU; a line "show {...}" says which slice is on the screen (events.SliceInView).
Other lines are ignored. Standard error is a log for people. Exit code 0 after `done`, 1 after `failed`.

With "-" for a job file the engine loads what a training needs and waits for a line "job PATH" before anything
else: the viewer starts such a child ahead, so that the job does not wait for torch. Without one it ends in
silence, with exit code 0.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from medssl.core import events
from medssl.core.errors import UserError

POLITENESS = 10
"""How far the engine steps back where it shares a core with the viewer: whoever paints does not wait."""


LATER = Path("-")
"""In place of a job file: which one it is will be said on standard input."""


def run(job_path: Path) -> int:
    """Run a job file under the protocol above and return the exit code."""
    channel = take_standard_output()
    if hasattr(os, "nice"):  # Windows has none
        os.nice(POLITENESS)
    told = Told()
    signal.signal(signal.SIGINT, lambda *_: told.end())
    threading.Thread(target=told.listen, daemon=True).start()
    reporter = Reporter(channel, told.stop)
    try:
        from medssl import engine
        from medssl.core import jobs

        if job_path == LATER:
            engine.load(told.has_job)
            named = told.job()
            if named is None:
                return 0
            job_path = named
        job = jobs.read_job(job_path)
        reporter.project = Path(job.project)
        result = engine.run(job, reporter.emit, told.stop.is_set, told.in_view)
        reporter.finish(events.Done(stopped=told.stop.is_set(), result=result))
        return 0
    except UserError as error:
        reporter.finish(events.Failed(code=error.code, text=str(error)))
    except BaseException as error:
        reporter.finish(events.Failed(code="defect", text=reporter.describe(error)))
    return 1


def take_standard_output() -> TextIO:
    """Keep file descriptor 1 for the events and point everybody else's at standard error.

    Called before anything heavy is imported: a library that prints, from Python or from C, then reaches
    the log and cannot break the stream of events.
    """
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(own, "w", encoding="utf-8", newline="\n", buffering=1)


class Reporter:
    """Writes events up the channel, and knows what to say when the job breaks down."""

    def __init__(self, channel: TextIO, stop: threading.Event) -> None:
        self._channel = channel
        self._stop = stop
        self._ended = False
        self.project: Path | None = None
        self.run_id: str | None = None

    def emit(self, event: events.Event) -> None:
        """Send one event. If nobody listens any more the job is asked to stop, not broken off."""
        if isinstance(event, events.Started):
            self.run_id = event.run
        self._ended = self._ended or isinstance(event, events.Done | events.Failed)
        try:
            self._channel.write(events.to_line(event) + "\n")
            self._channel.flush()
        except OSError:
            self._stop.set()

    def finish(self, event: events.Done | events.Failed) -> None:
        """Send the last event, unless the job has already sent one."""
        if not self._ended:
            self.emit(event)

    def describe(self, error: BaseException) -> str:
        """One sentence for a defect of ours; its traceback goes to standard error."""
        traceback.print_exception(error)
        where = "its error output"
        if self.project is not None and self.run_id:
            where += f" (the viewer keeps it in {self.project / 'runs' / self.run_id / 'run.log'})"
        return (
            f"The engine stopped because of a defect of its own ({type(error).__name__}); "
            f"please report it with the end of {where}."
        )


class Told:
    """What comes down on standard input: a thread listens, the job asks."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._in_view: events.SliceInView | None = None
        self._jobs: queue.SimpleQueue[Path | None] = queue.SimpleQueue()

    def in_view(self) -> events.SliceInView | None:
        """The slice on the screen, None while that is not known."""
        return self._in_view

    def has_job(self) -> bool:
        """Whether `job` need not wait."""
        return not self._jobs.empty()

    def job(self) -> Path | None:
        """Wait for the job file; None if there will be none."""
        return self._jobs.get()

    def end(self) -> None:
        """The job ends after the running step, or is not awaited any more."""
        self.stop.set()
        self._jobs.put(None)

    def listen(self) -> None:
        """Take in lines until one says "stop", or to the end of standard input.

        Reads the descriptor itself: a thread that is blocked inside sys.stdin's buffer cannot be left alone
        at the interpreter's end.
        """
        waiting = b""
        while not self.stop.is_set():
            try:
                received = os.read(0, 4096)
            except OSError:
                received = b""
            *lines, waiting = (waiting + received).split(b"\n")
            for line in lines:
                self._take(line.decode("utf-8", "surrogateescape").strip())
            if not received:
                self.end()

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if line == "stop":
            self.end()
        elif word == "job" and rest:
            self._jobs.put(Path(rest))
        elif word == "show":
            with suppress(UserError):
                self._in_view = events.SliceInView.from_line(line)
