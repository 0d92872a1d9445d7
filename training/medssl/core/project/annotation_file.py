"""Files of annotations and predictions: labels in their bounding box, and what they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import cannot_read, exists, from_system, write_whole
from medssl.core.io.geometry import size_text
from medssl.core.project.annotation import SURE_BACKGROUND, Annotation

FORMAT_VERSION = 3
"""Of annotation files. Version 1 had no interpolated labels and no number; 2 called them guesses."""
DAMAGED = ("unreadable", "newer-version", "wrong-shape", "other-scan")
"""Codes of errors of a file that cannot be used, not of a drive that cannot be read."""
_Box = tuple[np.ndarray, np.ndarray]
"""Labels within their bounding box, uint8 (z, y, x), and its corner (3,)."""


def write_annotation(
    path: Path,
    annotation: Annotation,
    shape_zyx: tuple[int, ...],
    origin: Mapping[str, Any] | None = None,
    scan_sha256: str = "",
) -> None:
    """Write labels, complete slices and interpolated labels as one file, atomically.

    Args:
        shape_zyx: Shape of the scan.
        origin: What predicted labels were made from (origin.py), and what is known of them.
        scan_sha256: Fingerprint of the scan (`Scan.sha256`), so that no other one takes the file for its own.

    Raises:
        UserError: "wrong-shape" if the annotation does not fit the shape, "not-labels" for values beyond
            uint8, "disk-full", "not-writable".
    """
    labels = np.asarray(annotation.labels)
    if labels.shape != tuple(shape_zyx):
        raise UserError(
            f"The labels for {path.stem} have {size_text(labels.shape)} voxels, but the scan has "
            f"{size_text(shape_zyx)}; choose the labels of this scan.",
            code="wrong-shape",
        )
    if labels.dtype != np.uint8:
        labels = _as_uint8(path, labels)
    complete = np.array(sorted(set(annotation.complete)), dtype=np.int64).reshape(-1, 2)
    _check_slices(path, complete, shape_zyx)
    box = _bounding_box(labels)
    arrays = {"labels": labels[box], "corner": _corner(box), "shape": np.array(labels.shape)}
    if annotation.interpolated is not None:
        box = _bounding_box(annotation.interpolated)
        arrays |= {"interpolated": annotation.interpolated[box], "interpolated_corner": _corner(box)}
    if origin is not None:
        arrays["origin"] = np.array(json.dumps(origin))
    if scan_sha256:
        arrays["scan_sha256"] = np.array(scan_sha256)
    version = np.array(FORMAT_VERSION)

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, complete=complete, version=version, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)


def _bounding_box(labels: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of the labels: compressing the zeros of a large scan would take most of the time."""
    box: list[slice] = []
    for axis in range(3):
        cropped = labels[tuple(box)]  # smaller for every axis
        indices = np.flatnonzero(cropped.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(indices[0]), int(indices[-1]) + 1) if indices.size else slice(0, 0))
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


def read_annotation(path: Path, shape_zyx: tuple[int, ...], scan_sha256: str = "") -> Annotation:
    """Read a file of `write_annotation`.

    Args:
        shape_zyx: Shape of the scan.
        scan_sha256: Fingerprint of the scan, if the file has to be its annotation.

    Raises:
        UserError: "missing", "not-readable", "unreadable", "newer-version", "wrong-shape", "other-scan",
            "prediction".
    """
    labels_box, complete, interpolated_box = _read(path, shape_zyx, scan_sha256)
    interpolated = _padded(*interpolated_box, shape_zyx) if interpolated_box is not None else None
    slices = tuple((int(axis), int(index)) for axis, index in complete)
    return Annotation(_padded(*labels_box, shape_zyx), slices, interpolated)


def is_annotated(path: Path, shape_zyx: tuple[int, ...], scan_sha256: str = "", quick: bool = False) -> bool:
    """Whether a file of `write_annotation` exists and has an annotated voxel or a complete slice.

    Args:
        shape_zyx: Shape of the scan.
        scan_sha256: As in `read_annotation`.
        quick: Read no labels, which take milliseconds for a megabyte; damage to them is not noticed then.

    Raises:
        UserError: Those of `read_annotation`.
    """
    if not exists(path):
        return False
    if quick:
        with _open_npz(path) as stored:
            _check_scan(path, stored, shape_zyx, scan_sha256)
            return all(_stored_shape(stored, "labels")) or len(stored["complete"]) > 0
    (box, _), complete, _ = _read(path, shape_zyx, scan_sha256)
    return bool(box.size or len(complete))


def _stored_shape(stored: Any, name: str) -> tuple[int, ...]:
    """Shape of an array in an NpzFile, from its header."""
    with stored.zip.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return shape


def _read(path: Path, shape_zyx: tuple[int, ...], scan_sha256: str) -> tuple[_Box, np.ndarray, _Box | None]:
    """Labels, complete slices (n, 2) and interpolated labels of a file; raises as `read_annotation`."""
    with _open_npz(path) as stored:
        complete = stored["complete"]
        if complete.dtype.kind != "i" or complete.shape[1:] != (2,):
            raise ValueError("its arrays are not those of an annotation")
        labels_box = _read_box(stored, "labels", "corner")
        interpolated_box = _interpolated_box(stored)
        _check_scan(path, stored, shape_zyx, scan_sha256)
    _check_slices(path, complete, shape_zyx)
    return labels_box, complete, interpolated_box


def _check_scan(
    path: Path, stored: Mapping[str, np.ndarray], shape_zyx: tuple[int, ...], scan_sha256: str
) -> None:
    if scan_sha256 and "origin" in stored:
        raise UserError(
            f"{path} is a prediction, not an annotation; restore the annotation from a backup, or delete the "
            "file.",
            code="prediction",
        )
    if scan_sha256 and str(stored.get("scan_sha256", scan_sha256)) != scan_sha256:
        raise UserError(
            f"{path} is the annotation of another scan; restore this scan's own from a backup, or delete the "
            "file. Labels of another scan can be imported as a mask.",
            code="other-scan",
        )
    shape = stored["shape"]
    if tuple(shape) != tuple(shape_zyx):
        raise UserError(
            f"{path} has {size_text(shape)} voxels, but its scan has {size_text(shape_zyx)}; "
            "it belongs to another scan, so delete or replace it.",
            code="wrong-shape",
        )


def read_origin(path: Path) -> dict[str, Any] | None:
    """`origin` in the file of a prediction; None if a version wrote it that stored none.

    Raises:
        UserError: "unreadable", "newer-version", "annotation" for a file that is no prediction.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise cannot_read(path, error) from error
    text = _origin_text(path, status.st_mtime_ns, status.st_size)
    return dict(json.loads(text)) if text else None


@lru_cache(maxsize=1024)
def _origin_text(path: Path, modified_ns: int, size: int) -> str:
    """The origin as JSON, "" for none; cached, as the viewer asks for it at each event of a job."""
    with _open_npz(path) as stored:
        if "scan_sha256" in stored:
            raise UserError(
                f"{path} is an annotation, not a prediction; delete it and predict again.", code="annotation"
            )
        return str(stored["origin"]) if "origin" in stored else ""


def _interpolated_box(stored: Mapping[str, np.ndarray]) -> _Box | None:
    """Interpolated labels within their bounding box, and its corner; None if the file has none."""
    name = "guesses" if "guesses" in stored else "interpolated"  # version 2, version 3
    return _read_box(stored, name, f"{name}_corner") if name in stored else None


def _read_box(stored: Mapping[str, np.ndarray], name: str, corner_name: str) -> _Box:
    """Labels within their bounding box, and its corner (3,).

    Raises:
        ValueError: The arrays cannot be those of an annotation.
    """
    box, corner = stored[name], stored[corner_name]
    are_integers = all(array.dtype.kind == "i" for array in (corner, stored["shape"]))
    if box.dtype != np.uint8 or box.ndim != 3 or not are_integers or stored["shape"].shape != (3,):
        raise ValueError("its arrays are not those of an annotation")
    if corner.shape != (3,) or (corner < 0).any() or (corner + box.shape > stored["shape"]).any():
        raise ValueError("its labels exceed the bounds of its scan")
    return box, corner


def _padded(box: np.ndarray, corner: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(shape_zyx, np.uint8)
    labels[tuple(slice(start, start + length) for start, length in zip(corner, box.shape, strict=True))] = box
    return labels


def _check_slices(path: Path, complete: np.ndarray, shape_zyx: tuple[int, ...]) -> None:
    for axis, index in complete.tolist():
        if not (0 <= axis < 3 and 0 <= index < shape_zyx[axis]):
            raise UserError(
                f"{path} marks slice {index} along axis {axis} as complete, but the scan has "
                f"{size_text(shape_zyx)} voxels; use slices of this scan.",
                code="wrong-shape",
            )


def class_ids(path: Path) -> set[int]:
    """Class ids among the labels and interpolated labels of a file of `write_annotation`.

    Raises:
        UserError: "unreadable", "newer-version".
    """
    present = np.zeros(256, bool)
    with _open_npz(path) as stored:
        present[_read_box(stored, "labels", "corner")[0]] = True
        interpolated = _interpolated_box(stored)
        if interpolated is not None:
            present[interpolated[0]] = True
    return set(np.flatnonzero(present).tolist()) - {0, SURE_BACKGROUND}


@contextmanager
def _open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    try:
        with path.open("rb") as file:  # numpy leaves damaged files open, which locks them on Windows
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
    except Exception as error:  # damaged files make zipfile, zlib and numpy raise all kinds of exceptions
        if isinstance(error, OSError) and from_system(error):
            raise cannot_read(path, error) from error
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup or delete it.", code="unreadable"
        ) from error
