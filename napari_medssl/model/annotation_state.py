"""Save state of an annotation, writes that are under way, and what a journal recovers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project
from medssl.core.project.stroke_log import StrokeLog, apply
from medssl.core.project.stroke_records import JournalContents

SliceIndex = tuple[int, int]
"""(canonical axis, voxel index) of a slice."""


class SaveState(StrEnum):
    """How the annotation stands on the disk."""

    EMPTY = ""
    SAVED = "saved"
    SAVING = "saving"
    FAILED = "failed"


@dataclass(frozen=True)
class PendingWrite:
    """An annotation on its way to the disk, and which edits it contains."""

    project: Project
    scan: str
    annotation: Annotation
    version: int
    journal: StrokeLog
    journal_bytes: int
    """How much of the journal the annotation contains."""

    def write(self) -> bool:
        """Write the file, whole or not at all; may run in a thread.

        Returns:
            Whether anything is annotated.

        Raises:
            UserError: The disk refuses, or the project is gone.
        """
        self.project.save_annotation(self.scan, self.annotation)
        return bool(self.annotation.complete) or bool(self.annotation.labels.any())


@dataclass(frozen=True)
class Recovered:
    """What a journal adds to the annotation file.

    Attributes:
        voxels: (N,) flat indices into (Z, Y, X) whose labels change.
        labels: (N,) uint8, their labels.
        complete: All complete slices.
        strokes: Number of strokes and changes of complete slices in the journal; 0 if they add nothing.
        damaged: Number of records that could not be read.
        kept: The damaged journal; None if it was not damaged.
    """

    voxels: np.ndarray
    labels: np.ndarray
    complete: tuple[SliceIndex, ...]
    strokes: int
    damaged: int
    kept: Path | None

    @classmethod
    def from_journal(cls, saved: Annotation, contents: JournalContents, kept: Path | None) -> Recovered:
        """Compare the annotation in the file with what the journal makes of it."""
        replayed = apply(saved, contents.strokes)
        voxels = np.flatnonzero(replayed.labels != saved.labels)
        new = len(voxels) > 0 or replayed.complete != saved.complete
        painted = sum(len(stroke.voxels) > 0 for stroke in contents.strokes)
        labels = replayed.labels.reshape(-1)[voxels]
        return cls(voxels, labels, replayed.complete, max(1, painted) if new else 0, contents.damaged, kept)
