"""The fine-tuning that clients start, watch and stop: one at a time, in an engine process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from medssl.core.errors import UserError
from medssl.core.events import Checkpoint, Done, Event, Failed, Metric, Notice, Progress, Started
from medssl.core.jobs import MINUTES, FinetuneJob, from_json
from medssl.server.engines import EngineProcess, Engines

RUNNING, DONE, STOPPED, ERROR = "RUNNING", "DONE", "STOPPED", "ERROR"
TRAINER = "finetune"
"""Name of the only trainer that clients are offered."""
MAX_MINUTES = 24 * 60.0
MAX_DETAILS = 200
"""Lines about a training that are kept."""
PERCENT = 100
"""Clients show progress as epochs of a total; ours are hundredths of the time."""


@dataclass
class Task:
    """A training, as clients are told of it."""

    id: int
    status: str = RUNNING
    run: str = ""
    started: float = field(default_factory=time.time)
    ended: float | None = None
    fraction: float = 0.0
    dice: float = 0.0
    details: list[str] = field(default_factory=lambda: ["The engine is starting."])

    def to_json(self) -> dict[str, Any]:
        """The document of the training; `details` is never empty, its last line is shown."""
        return {
            "id": str(self.id),
            "model": TRAINER,
            "run": self.run,
            "status": self.status,
            "start_ts": _time_text(self.started),
            "end_ts": _time_text(self.ended) if self.ended else None,
            "details": list(self.details),
        }

    def stats(self) -> dict[str, Any]:
        """Progress as clients draw it; `total_time` says that the training has ended."""
        ended = {} if self.ended is None else {"total_time": round(self.ended - self.started, 1)}
        epoch = int(PERCENT * self.fraction)
        return {"epoch": epoch, "total_epochs": PERCENT, "best_metric": self.dice, **ended}


class Training:
    """Runs one fine-tuning at a time on a project.

    Args:
        root: The project folder.
        engines: Where the process comes from.
        device: Device of the trainings.
    """

    def __init__(self, root: Path, engines: Engines, device: str) -> None:
        self._root, self._engines, self._device = root, engines, device
        self._threads = Lock()
        self._task: Task | None = None
        self._engine: EngineProcess | None = None
        self.thread: Thread | None = None
        """Follows the training; it ends with it."""
        self._stopping = False

    def start(self, settings: Mapping[str, Any]) -> Task:
        """Start a training.

        Args:
            settings: What a client has set: "minutes". Other fields, which clients add, are ignored.

        Raises:
            UserError: "training" if one is running, "bad-job".
        """
        minutes = settings.get("minutes", MINUTES)
        fields = {"project": str(self._root), "device": self._device, "minutes": minutes}
        job = from_json(FinetuneJob, fields, "The request")
        if job.minutes is None or not 0 < job.minutes <= MAX_MINUTES:
            raise UserError(
                f"A training of {minutes} minutes is not possible; write a number above 0, at most "
                f"{MAX_MINUTES:.0f}.",
                code="bad-job",
            )
        with self._threads:
            if self._engine is not None:
                raise UserError("A training is running; stop it first, or wait for its end.", code="training")
            self._engine, self._stopping = self._engines.take(), False
            self._task = Task(1 if self._task is None else self._task.id + 1)
            self.thread = Thread(target=self._follow, args=(self._engine, job, self._task), daemon=True)
            self.thread.start()
            return self._task

    @property
    def run_id(self) -> str:
        """Id of the run that is being trained; empty if there is none."""
        task = self._task
        return task.run if task is not None and task.status == RUNNING else ""

    def task(self) -> Task:
        """The training that runs, or else the last one.

        Raises:
            UserError: "no-training" if there was none.
        """
        if self._task is None:
            raise UserError("No training was started yet.", code="no-training")
        return self._task

    def running(self) -> Task:
        """The training that runs.

        Raises:
            UserError: "no-training" if there is none.
        """
        task = self._task
        if task is None or task.status != RUNNING:
            raise UserError("No training is running.", code="no-training")
        return task

    def stop(self) -> Task:
        """Ask the training to end with a checkpoint; a second request ends it at once.

        Raises:
            UserError: "no-training" if none is running.
        """
        task = self.running()
        with self._threads:
            if self._engine is not None:
                (self._engine.kill if self._stopping else self._engine.stop)()
                self._stopping = True
        return task

    def stats(self) -> dict[str, Any]:
        """{trainer: progress of the last training}; empty without one."""
        return {} if self._task is None else {TRAINER: self._task.stats()}

    def close(self) -> None:
        """End the training, with a checkpoint where that takes less than 8 s."""
        engine, thread = self._engine, self.thread
        if engine is not None and thread is not None:
            engine.end()
            thread.join()

    def _follow(self, engine: EngineProcess, job: FinetuneJob, task: Task) -> None:
        """Keep the task up to date until the engine has ended."""
        status = ERROR
        try:
            with self._engines.job_file(job) as path:
                for event in engine.events(path):
                    _note(task, event)
                    if isinstance(event, Done):
                        status = STOPPED if event.stopped else DONE
        except (UserError, ValueError) as error:  # ValueError: the pipe was closed by `close`
            task.details.append("The training was ended." if self._stopping else str(error))
            status = STOPPED if self._stopping else ERROR
        finally:
            self._engines.retire(engine)
            with self._threads:
                task.ended, task.status = time.time(), status
                self._engine = None


def _note(task: Task, event: Event) -> None:
    match event:
        case Started():
            task.run = event.run
            task.details += [f"Run {event.run}.", *event.reasons]
        case Progress():
            task.fraction = event.fraction
        case Metric():
            task.dice = max(task.dice, event.values.get("dice", 0.0))
        case Notice() | Failed():
            task.details.append(event.text)
        case Checkpoint():
            pass
        case Done():
            task.fraction = 1.0
            task.details.append("Stopped." if event.stopped else "Finished.")
    del task.details[:-MAX_DETAILS]


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
