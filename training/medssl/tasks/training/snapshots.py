"""Snapshots: weights saved at given times of a training, to be evaluated after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl.core.files import write_whole
from medssl.nn.models import checkpoint


def snapshot_file(path: Path, seconds: float) -> Path:
    """File of the snapshot after `seconds` of the training whose checkpoint is `path`."""
    return path.with_name(f"snapshot-{seconds:g}{path.suffix}")


class Snapshots:
    """Snapshots that a training still has to save, beside its checkpoint.

    Args:
        times_s: Seconds of training at which to save a snapshot.
        path: Checkpoint of the training.
        resumed_at_s: Seconds of training at which it resumes; earlier times are skipped. None for a new one.
    """

    def __init__(self, times_s: Sequence[float], path: Path, resumed_at_s: float | None) -> None:
        self.path = path
        self.times_s = [
            time_s
            for time_s in sorted(set(times_s))
            if resumed_at_s is None or (time_s >= resumed_at_s and not snapshot_file(path, time_s).exists())
        ]

    def due(self, elapsed_s: float) -> bool:
        """Whether a snapshot is due."""
        return bool(self.times_s) and self.times_s[0] <= elapsed_s

    def save(self, elapsed_s: float, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
        """Write the snapshots that are due, each atomically; card.json remains that of the checkpoint.

        Args:
            elapsed_s: Seconds of training.
            tensors: Weights by name (any shape).
            card: Model card to store with them.
        """
        body = checkpoint.as_bytes(tensors, card)
        while self.due(elapsed_s):
            write_whole(snapshot_file(self.path, self.times_s.pop(0)), lambda file: file.write(body))
