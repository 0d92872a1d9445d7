"""Save state of an annotation, writes that are under way, and what a journal recovers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project

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
    journal_bytes: int

    def write(self) -> bool:
        """Write the file, whole or not at all; may run in a thread.

        Returns:
            Whether anything is annotated.

        Raises:
            UserError: The disk refuses ("disk-full", "not-writable").
        """
        self.project.save_annotation(self.scan, self.annotation)
        return bool(self.annotation.complete) or bool(self.annotation.labels.any())


@dataclass(frozen=True)
class Recovered:
    """What a journal adds to the annotation file: flat indices, their labels, all complete slices then."""

    voxels: np.ndarray
    labels: np.ndarray
    complete: tuple[SliceIndex, ...]
    strokes: int
