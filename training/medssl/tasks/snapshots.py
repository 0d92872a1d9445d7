"""Weights that a training leaves on its way, after so many seconds, to be judged when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl.core.files import write_whole
from medssl.nn.models import checkpoint


def snapshot_file(path: Path, seconds: float) -> Path:
    """Where a training whose checkpoint is `path` keeps its weights after so many seconds."""
    return path.with_name(f"snapshot-{seconds:g}{path.suffix}")


class Snapshots:
    """What is still to be kept of `marks_s`, beside the checkpoint `path`."""

    def __init__(self, marks_s: Sequence[float], path: Path, gone_s: float | None) -> None:
        """gone_s: for a training that goes on, where it stands; it makes up for no mark it has passed."""
        self.path = path
        self.marks = [
            mark
            for mark in sorted(set(marks_s))
            if gone_s is None or (mark >= gone_s and not snapshot_file(path, mark).exists())
        ]

    def due(self, elapsed_s: float) -> bool:
        """Whether a mark has been passed."""
        return bool(self.marks) and self.marks[0] <= elapsed_s

    def keep(self, elapsed_s: float, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
        """Write those that are due, whole or not at all; card.json stays the checkpoint's."""
        body = checkpoint.as_bytes(tensors, card)
        while self.due(elapsed_s):
            write_whole(snapshot_file(self.path, self.marks.pop(0)), lambda file: file.write(body))
