"""Shows the engine's events in a terminal: progress bars with the remaining time, notices, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from medssl.core import events, jobs
from medssl.core.io.channel_files import group_channels
from medssl.core.io.find import find_scans
from medssl.core.io.scan_file import SearchResult
from medssl.core.scalars import MEANINGS

INTERRUPTED = 130
"""Exit code after Ctrl-C by the convention of shells: `a && b` does not start b."""

PLAIN_STEP = 0.1
"""Without a terminal (a log file, CI), a line is printed after each of these fractions of the work."""


def console(*, stderr: bool = True) -> Console:
    """Console on standard error; standard output is reserved for results, so that they can be piped.

    Nothing in the texts is markup: names of classes and paths may contain brackets. Styles are arguments.

    Args:
        stderr: False for the console of results.
    """
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without lines.

    Args:
        columns: Titles.
        right: Titles of columns that are aligned to the right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in columns:
        table.add_column(title, justify="right" if title in right else "left")
    return table


def warn(screen: Console, text: str) -> None:
    """Print a warning as one line."""
    screen.print(text, style="yellow", soft_wrap=True)


def scans_among(
    paths: Sequence[Path], screen: Console, channels: Sequence[str] = (), for_network: bool = False
) -> SearchResult:
    """Find the scans among files and folders, and print what is left out.

    Args:
        paths: Files and folders.
        screen: Where to print.
        channels: Names of the channels of each scan, see `group_channels`.
        for_network: They are those that a network takes.

    Raises:
        UserError: "missing", "no-scans", "no-match".
    """
    result = find_scans(paths)
    if channels:
        result = group_channels(result, channels, for_network)
    for line in result.left_out:
        warn(screen, f"Left out: {line}.")
    return result


@contextmanager
def stop_on_interrupt(screen: Console) -> Iterator[Callable[[], bool]]:
    """Handle Ctrl-C. Yields a function that tells whether it was pressed; twice is a KeyboardInterrupt."""
    pressed = threading.Event()

    def interrupt(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        warn(
            screen, "Stopping after the current step and saving a checkpoint. Ctrl-C again stops immediately."
        )

    try:
        previous = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # signals reach the main thread only
        yield pressed.is_set
        return
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


def run_job(job: jobs.Job, screen: Console, should_stop: Callable[[], bool], on: str = "") -> dict[str, Any]:
    """Run a job in this process, or on another computer, with progress on the screen.

    Args:
        job: job to run.
        screen: where to show progress.
        should_stop: returns True to stop after the current step.
        on: a host of the ssh configuration; empty for this process.

    Returns:
        The job's result.

    Raises:
        typer.Exit: after a second Ctrl-C; the last checkpoint is kept.
    """
    if on:
        return _run_on(on, job, screen, should_stop)
    with screen.status("Loading the engine ..."):
        from medssl import engine  # imports torch: seconds
    try:
        with Drawing(screen) as drawing:
            return engine.run(job, drawing.emit, should_stop)
    except KeyboardInterrupt:
        screen.print("Stopped. The last checkpoint is kept.")
        raise typer.Exit(INTERRUPTED) from None


def _run_on(host: str, job: jobs.Job, screen: Console, should_stop: Callable[[], bool]) -> dict[str, Any]:
    from medssl.core.errors import UserError
    from medssl.remote import relay
    from medssl.remote.watch import Watch

    log: list[str] = []
    try:
        with Drawing(screen) as drawing:
            return relay.run(job, host, drawing.emit, Watch(should_stop, on_log=log.append))
    except UserError as error:
        if error.code == "defect":
            screen.print("".join(log), soft_wrap=True)
        raise
    except KeyboardInterrupt:
        screen.print(f"Left. What {host} does for this project goes on there; the same command takes it up.")
        raise typer.Exit(INTERRUPTED) from None


def worker(screen: Console, should_stop: Callable[[], bool]) -> Callable[[jobs.Job], dict[str, Any]]:
    """Return a function that runs the jobs of an experiment; it raises experiment.Stopped after Ctrl-C."""
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
    """Shows events; a context manager that removes its progress bars at the end."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[remaining]}"),
            TextColumn("{task.fields[numbers]}", style="dim", markup=False),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._numbers = self._phase = ""
        self._noticed = ""
        self._explained: set[str] = set()

    def __enter__(self) -> Drawing:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def emit(self, event: events.Event) -> None:
        """Show one event."""
        match event:
            case events.Started():
                if event.run:
                    self._screen.print(Text.assemble("Run ", (event.run, "bold")))
                for reason in event.reasons:
                    self._screen.print(Padding(Text(reason, style="dim"), (0, 0, 0, 2), expand=False))
            case events.Progress():
                self._progress(event)
            case events.Metric():
                self._explain(event.values)
                self._numbers = "  ".join(f"{name} {value:.3g}" for name, value in event.values.items())
            case events.Notice():
                if event.text != self._noticed:
                    warn(self._screen, event.text)
                self._noticed = event.text
            case _:
                pass  # previews, checkpoints and the end print nothing

    def _explain(self, names: Iterable[str]) -> None:
        """Say what a number is, when it first appears."""
        for name in names:
            if name in MEANINGS and name not in self._explained:
                self._screen.print(
                    Padding(Text(f"{name}: {MEANINGS[name]}", style="dim"), (0, 0, 0, 2), expand=False)
                )
                self._explained.add(name)

    def _progress(self, event: events.Progress) -> None:
        if self._phase and event.phase != self._phase:
            self._numbers = ""  # the numbers of one phase say nothing in the next
        self._phase = event.phase
        remaining = "" if event.eta_s is None else f"{duration(event.eta_s)} left"
        if not self._screen.is_terminal:
            self._plain(event, remaining)
            return
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self._bars.add_task(event.phase, total=1.0, remaining="", numbers="")
        self._bars.update(
            self._tasks[event.phase], completed=event.fraction, remaining=remaining, numbers=self._numbers
        )

    def _plain(self, event: events.Progress, remaining: str) -> None:
        printed = self._printed.get(event.phase, -1.0)
        if event.fraction >= printed + PLAIN_STEP or (event.fraction >= 1.0 > printed):
            self._printed[event.phase] = event.fraction
            columns = [f"{event.phase} {event.fraction:4.0%}", remaining, self._numbers]
            self._screen.print("  ".join(column for column in columns if column))


def duration(seconds: float) -> str:
    """Format seconds as 0:07, 12:30 or 1:02:03."""
    whole = max(round(seconds), 0)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
