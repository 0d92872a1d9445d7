"""What a person painted on a scan, and what a network may learn from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import write_whole

SURE_BACKGROUND = 255
"""In an annotation: "this is none of the classes"."""
IGNORE = 255
"""In a training target: "nobody said what this is"."""
FORMAT_VERSION = 3
"""Of an annotation's file. Version 1 had no interpolated labels and no number; 2 called them guesses."""


@dataclass(frozen=True)
class Annotation:
    """labels: uint8 (Z, Y, X), 0 not annotated, 1..254 class ids, 255 sure background.

    complete: (canonical axis, index) of slices in which everything unpainted is background.
    interpolated: labels between complete slices (shape_interpolation.py), in the same numbers as labels;
        None for nothing. Never truth: it counts neither as painted nor as complete, and is not exported.
    """

    labels: np.ndarray
    complete: tuple[tuple[int, int], ...] = ()
    interpolated: np.ndarray | None = None

    def target(self) -> np.ndarray:
        """What to learn, uint8 (Z, Y, X): 0 background, 1..254 class ids, IGNORE where nobody said."""
        target = _target(self.labels)
        for axis, index in self.complete:
            plane = target[(slice(None),) * axis + (index,)]
            plane[plane == IGNORE] = 0
        return target

    def interpolated_target(self) -> np.ndarray | None:
        """As `target`, of the interpolated labels alone: IGNORE wherever a person has annotated."""
        if self.interpolated is None:
            return None
        target = _target(np.where(self.labels == 0, self.interpolated, 0))
        for axis, index in self.complete:
            target[(slice(None),) * axis + (index,)] = IGNORE
        return None if (target == IGNORE).all() else target


def _target(labels: np.ndarray) -> np.ndarray:
    """Turns the two special values around: 0 "nobody said" to 255, 255 "background" to 0."""
    swap = np.arange(256, dtype=np.uint8)
    swap[[0, SURE_BACKGROUND]] = IGNORE, 0
    return swap[labels]


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
    arrays = {"labels": labels[box], "corner": _corner(box), "shape": np.array(labels.shape)}
    if annotation.interpolated is not None:
        around = _painted_box(annotation.interpolated)
        arrays |= {"interpolated": annotation.interpolated[around], "interpolated_corner": _corner(around)}
    version = np.array(FORMAT_VERSION)

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, complete=complete, version=version, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)


def _painted_box(labels: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around everything painted: packing a large scan's zeros takes most of the time."""
    box: list[slice] = []
    for axis in range(3):
        inside = labels[tuple(box)]  # each look is at less than the one before
        painted = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(painted[0]), int(painted[-1]) + 1) if painted.size else slice(0, 0))
    return tuple(box)


def _corner(box: tuple[slice, ...]) -> np.ndarray:
    return np.array([span.start for span in box])


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

    Raises UserError ("unreadable", "newer-version", "wrong-shape").
    """
    with _stored(path) as stored:
        shape, complete = stored["shape"], stored["complete"]
        if complete.dtype.kind != "i" or complete.shape[1:] != (2,):
            raise ValueError("it holds other arrays than those of an annotation")
        box, corner = _boxed(stored, "labels", "corner")
        interpolated_box = _interpolated_box(stored)
    if tuple(shape) != tuple(shape_zyx):
        raise UserError(
            f"{path} has {tuple(shape.tolist())} voxels, but its scan has {tuple(shape_zyx)}; "
            "it belongs to another scan, delete it or put the right one there.",
            code="wrong-shape",
        )
    labels = _placed(box, corner, shape_zyx)
    _check_slices(path, complete, shape_zyx)
    interpolated = _placed(*interpolated_box, shape_zyx) if interpolated_box is not None else None
    return Annotation(labels, tuple((int(axis), int(index)) for axis, index in complete), interpolated)


def read_interpolated(path: Path, shape_zyx: tuple[int, ...]) -> np.ndarray | None:
    """Only the interpolated labels of what `write_annotation` wrote; None where there are none.

    Raises UserError ("unreadable", "newer-version").
    """
    if not path.exists():
        return None
    with _stored(path) as stored:
        known = _interpolated_box(stored)
        if known is None or tuple(stored["shape"]) != tuple(shape_zyx):
            return None
        return _placed(*known, shape_zyx) if known[0].size else None


def _interpolated_box(stored: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """The interpolated labels and where they lie; None where the file has none."""
    name = "guesses" if "guesses" in stored else "interpolated"  # version 2, version 3
    return _boxed(stored, name, f"{name}_corner") if name in stored else None


def _boxed(stored: Mapping[str, np.ndarray], name: str, corner_name: str) -> tuple[np.ndarray, np.ndarray]:
    """A part of the labels and where it lies. Raises ValueError for what cannot be one."""
    box, corner = stored[name], stored[corner_name]
    if box.dtype != np.uint8:
        raise ValueError("it holds other arrays than those of an annotation")
    if corner.shape != (3,) or (corner < 0).any() or (corner + box.shape > stored["shape"]).any():
        raise ValueError("its labels reach out of its scan")
    return box, corner


def _placed(box: np.ndarray, corner: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(shape_zyx, np.uint8)
    labels[tuple(slice(at, at + length) for at, length in zip(corner, box.shape, strict=True))] = box
    return labels


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
                if "version" in stored and int(stored["version"]) > FORMAT_VERSION:
                    raise UserError(
                        f"{path} was written by a newer version of medssl; update this one to open it.",
                        code="newer-version",
                    )
                yield stored
    except UserError:
        raise
    except Exception as error:  # damaged bytes make zipfile, zlib and numpy raise just about anything
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup or delete it.", code="unreadable"
        ) from error
