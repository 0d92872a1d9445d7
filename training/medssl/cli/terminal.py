"""The engine's events drawn in a terminal: progress bars with the time left, notices, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from medssl.core import events, jobs

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it, so that `a && b` does not go on with b."""

PLAIN_STEP = 0.1
"""Without a terminal (a log file, CI) a line is printed each time another tenth is done."""


def console() -> Console:
    """Standard error: standard output is left to results, so that they can be piped."""
    return Console(stderr=True, highlight=False)


@contextmanager
def stop_on_interrupt(screen: Console) -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; a second Ctrl-C raises KeyboardInterrupt."""
    asked = threading.Event()

    def interrupt(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        screen.print(
            "[yellow]Stopping after the running step, with a checkpoint; Ctrl-C again stops at once."
        )

    try:
        previous = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not in the main thread, so no Ctrl-C comes here
        yield asked.is_set
        return
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


def run_job(job: jobs.Job, screen: Console, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Run a job in this process, drawn as it goes, and return its result.

    A second Ctrl-C ends the program; what the last checkpoint holds is kept.
    """
    with screen.status("Loading the engine ..."):
        from medssl import engine  # imports torch: seconds
    try:
        with Drawing(screen) as drawing:
            return engine.run(job, drawing.emit, should_stop)
    except KeyboardInterrupt:
        screen.print("Stopped at once; the last checkpoint is kept.")
        raise typer.Exit(INTERRUPTED) from None


def worker(screen: Console, should_stop: Callable[[], bool]) -> Callable[[jobs.Job], dict[str, Any]]:
    """Runs jobs one after the other, drawn as they go, for a study; raises trial.Stopped after Ctrl-C."""
    from medssl.benchmarking.experiment import Stopped

    def work(job: jobs.Job) -> dict[str, Any]:
        if should_stop():
            raise Stopped
        result = run_job(job, screen, should_stop)
        if result["stopped"]:
            raise Stopped
        return result

    return work


class Drawing:
    """Draws events as they come; a context manager, because the bars have to be taken down again."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[numbers]}"),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._numbers = ""
        self._noticed = ""

    def __enter__(self) -> Drawing:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def emit(self, event: events.Event) -> None:
        """Draw one event."""
        match event:
            case events.Started():
                self._screen.print(f"Run [bold]{escape(event.run)}[/]")
                for reason in event.reasons:
                    self._screen.print(Padding(Text(reason, style="dim"), (0, 0, 0, 2), expand=False))
            case events.Progress():
                self._progress(event)
            case events.Metric():
                self._numbers = "  ".join(f"{name} {value:.3g}" for name, value in event.values.items())
            case events.Notice():
                if event.text != self._noticed:
                    self._screen.print(f"[yellow]{escape(event.text)}")
                self._noticed = event.text
            case _:
                pass  # previews, checkpoints and the end need no line of their own

    def _progress(self, event: events.Progress) -> None:
        left = "" if event.eta_s is None else f"{duration(event.eta_s)} left"
        if not self._screen.is_terminal:
            self._plain(event, left)
            return
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self._bars.add_task(event.phase, total=1.0, left="", numbers="")
        self._bars.update(
            self._tasks[event.phase], completed=event.fraction, left=left, numbers=self._numbers
        )

    def _plain(self, event: events.Progress, left: str) -> None:
        printed = self._printed.get(event.phase, -1.0)
        if event.fraction >= printed + PLAIN_STEP or (event.fraction >= 1.0 > printed):
            self._printed[event.phase] = event.fraction
            parts = [f"{event.phase} {event.fraction:4.0%}", left, self._numbers]
            self._screen.print("  ".join(part for part in parts if part))


def duration(seconds: float) -> str:
    """0:07, 12:30, 1:02:03."""
    whole = max(round(seconds), 0)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
