"""Curves of trainings in TensorBoard, if the environment variable MEDSSL_TENSORBOARD names a folder for them.

A variable reaches every training, also those that a viewer or a server starts. A thread writes, so that a
slow disk holds no training up; what fails is said once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.core.events import Done, Emit, Event, Metric, Notice, Started
from medssl.core.project.project import Project, Run

FOLDER = "MEDSSL_TENSORBOARD"
FLUSH_S, LEAVE_S = 5, 5.0
"""Seconds between writes to the disk, and seconds that the end of a training waits for the last one."""


@contextmanager
def curves(emit: Emit, project: Project, run: Run) -> Iterator[Emit]:
    """An Emit that also writes the scalars of a training for TensorBoard.

    Args:
        emit: Receives all events, and a Notice if the curves cannot be written.
        project: Its folder's name is that of a folder of curves.
        run: The training.

    Yields:
        The Emit; `emit` itself where no curves are wanted.
    """
    folder = os.environ.get(FOLDER, "")
    if not folder:
        yield emit
        return
    writer = _Writer(Path(folder) / project.root.resolve().name / run.id)
    writer.start()

    def emit_and_write(event: Event) -> None:
        if isinstance(event, Metric):
            writer.add(event)
        elif isinstance(event, Done):
            writer.close()
        if not isinstance(event, Started) and (failure := writer.new_failure()):  # Started is the first
            emit(Notice(failure))
        emit(event)

    try:
        yield emit_and_write
    finally:
        writer.close()


class _Writer(threading.Thread):
    """Writes scalars into a folder until it is closed, or fails."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self._events: queue.SimpleQueue[Metric | None] = queue.SimpleQueue()
        self._failure = ""

    def add(self, event: Metric) -> None:
        """Hand over the scalars of a step."""
        if self.is_alive():
            self._events.put(event)

    def close(self) -> None:
        """Wait for what was handed over, but not for a disk that does not answer."""
        self._events.put(None)
        self.join(LEAVE_S)

    def new_failure(self) -> str:
        """What has failed, told once; empty for nothing."""
        failure, self._failure = self._failure, ""
        return failure

    def run(self) -> None:
        """The thread."""
        try:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(self.folder.expanduser()), flush_secs=FLUSH_S) as writer:
                while (event := self._events.get()) is not None:
                    for name, value in event.values.items():
                        writer.add_scalar(name, value, event.step)
        except ModuleNotFoundError:
            self._failure = (
                f"{FOLDER} is set, but TensorBoard is not installed, so it gets no curves; install it: "
                'pip install "napari-medssl[tensorboard]".'
            )
        except Exception as error:  # whatever it is, the training goes on
            self._failure = f"TensorBoard gets no more curves of this training in {self.folder} ({error})."
