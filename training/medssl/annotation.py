"""What a person painted on a scan, and what a network may learn from it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.errors import UserError
from medssl.files import write_whole

SURE_BACKGROUND = 255
"""In an annotation: "this is none of the classes"."""
IGNORE = 255
"""In a training target: "nobody said what this is"."""


@dataclass(frozen=True)
class Annotation:
    """labels: uint8 (Z, Y, X), 0 not annotated, 1..254 class ids, 255 sure background.

    complete: (canonical axis, index) of slices in which everything unpainted is background.
    """

    labels: np.ndarray
    complete: tuple[tuple[int, int], ...] = ()

    def target(self) -> np.ndarray:
        """What to learn, uint8 (Z, Y, X): 0 background, 1..254 class ids, IGNORE where nobody said."""
        known = self.labels != 0
        for axis, index in self.complete:
            known[(slice(None),) * axis + (index,)] = True
        target = np.where(self.labels == SURE_BACKGROUND, np.uint8(0), self.labels)
        return np.where(known, target, np.uint8(IGNORE))


def write_annotation(path: Path, annotation: Annotation, shape_zyx: tuple[int, ...]) -> None:
    """Write labels and complete slices as one file, whole or not at all.

    Raises UserError ("wrong-shape") where they do not belong to a scan of `shape_zyx`.
    """
    labels = np.asarray(annotation.labels)
    if labels.shape != tuple(shape_zyx) or labels.dtype != np.uint8:
        raise UserError(
            f"The labels for {path.stem} are {labels.dtype} of {labels.shape} voxels, but the scan has "
            f"{tuple(shape_zyx)}; choose the labels that belong to this scan.",
            code="wrong-shape",
        )
    complete = np.array(sorted(set(annotation.complete)), dtype=np.int64).reshape(-1, 2)
    for axis, index in complete.tolist():
        if not (0 <= axis < 3 and 0 <= index < shape_zyx[axis]):
            raise UserError(
                f"Slice {index} along axis {axis} is none of {path.stem}; mark slices of this scan complete.",
                code="wrong-shape",
            )
    write_whole(path, lambda file: np.savez_compressed(file, labels=labels, complete=complete))


def read_annotation(path: Path, shape_zyx: tuple[int, ...]) -> Annotation:
    """Read what `write_annotation` wrote.

    Raises UserError ("unreadable", "wrong-shape").
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels, complete = stored["labels"], stored["complete"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup or delete it.", code="unreadable"
        ) from error
    if labels.shape != tuple(shape_zyx):
        raise UserError(
            f"{path} has {labels.shape} voxels, but its scan has {tuple(shape_zyx)}; it belongs to another scan.",
            code="wrong-shape",
        )
    return Annotation(labels, tuple((int(axis), int(index)) for axis, index in complete))
