"""What a person painted on a scan, and what a network may learn from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
        # Turns the two special values around: 0 "nobody said" to 255, 255 "background" to 0.
        swap = np.arange(256, dtype=np.uint8)
        swap[[0, SURE_BACKGROUND]] = IGNORE, 0
        target = swap[self.labels]
        for axis, index in self.complete:
            plane = target[(slice(None),) * axis + (index,)]
            plane[plane == IGNORE] = 0
        return target


def write_annotation(path: Path, annotation: Annotation, shape_zyx: tuple[int, ...]) -> None:
    """Write labels and complete slices as one file, whole or not at all.

    Raises UserError ("wrong-shape") where they do not belong to a scan of `shape_zyx`, "not-labels" for
    values that uint8 cannot hold.
    """
    labels = np.asarray(annotation.labels)
    if labels.shape != tuple(shape_zyx):
        raise UserError(
            f"The labels for {path.stem} have {labels.shape} voxels, but the scan has {tuple(shape_zyx)}; "
            "choose the labels that belong to this scan.",
            code="wrong-shape",
        )
    if labels.dtype != np.uint8:
        labels = _as_uint8(path, labels)
    complete = np.array(sorted(set(annotation.complete)), dtype=np.int64).reshape(-1, 2)
    _check_slices(path, complete, shape_zyx)
    box = _painted_box(labels)
    corner, shape = np.array([span.start for span in box]), np.array(labels.shape)

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, labels=labels[box], corner=corner, shape=shape, complete=complete)

    write_whole(path, write)


def _painted_box(labels: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around everything painted: packing a large scan's zeros takes most of the time."""
    spans = []
    for axis in range(3):
        painted = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append(slice(int(painted[0]), int(painted[-1]) + 1) if painted.size else slice(0, 0))
    return tuple(spans)


def _as_uint8(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() > 255:
        raise UserError(
            f"The labels for {path.stem} are {labels.dtype} from {labels.min()} to {labels.max()}; "
            "labels are whole numbers from 0 to 255.",
            code="not-labels",
        )
    return labels.astype(np.uint8)


def read_annotation(path: Path, shape_zyx: tuple[int, ...]) -> Annotation:
    """Read what `write_annotation` wrote.

    Raises UserError ("unreadable", "wrong-shape").
    """
    with _stored(path) as stored:
        box, corner, shape, complete = (stored[name] for name in ("labels", "corner", "shape", "complete"))
        if box.dtype != np.uint8 or complete.dtype.kind != "i" or complete.shape[1:] != (2,):
            raise ValueError("it holds other arrays than those of an annotation")
        if corner.shape != (3,) or (corner < 0).any() or (corner + box.shape > shape).any():
            raise ValueError("its labels reach out of its scan")
    if tuple(shape) != tuple(shape_zyx):
        raise UserError(
            f"{path} has {tuple(shape.tolist())} voxels, but its scan has {tuple(shape_zyx)}; "
            "it belongs to another scan, delete it or put the right one there.",
            code="wrong-shape",
        )
    labels = np.zeros(shape_zyx, np.uint8)
    labels[tuple(slice(at, at + length) for at, length in zip(corner, box.shape, strict=True))] = box
    _check_slices(path, complete, shape_zyx)
    return Annotation(labels, tuple((int(axis), int(index)) for axis, index in complete))


def _check_slices(path: Path, complete: np.ndarray, shape_zyx: tuple[int, ...]) -> None:
    for axis, index in complete.tolist():
        if not (0 <= axis < 3 and 0 <= index < shape_zyx[axis]):
            raise UserError(
                f"{path} calls slice {index} along axis {axis} complete, but the scan has "
                f"{tuple(shape_zyx)} voxels; name slices of this scan.",
                code="wrong-shape",
            )


def is_empty(path: Path) -> bool:
    """Whether a file of `write_annotation` says nothing: no voxel painted, no slice complete.

    Raises UserError ("unreadable").
    """
    with _stored(path) as stored:
        return stored["labels"].size == 0 and len(stored["complete"]) == 0


@contextmanager
def _stored(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    try:
        with path.open("rb") as file:  # numpy would leave a damaged one open, and Windows then locks it
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            with stored:
                yield stored
    except Exception as error:  # damaged bytes make zipfile, zlib and numpy raise just about anything
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup or delete it.", code="unreadable"
        ) from error
