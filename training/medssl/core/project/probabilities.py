"""Class probabilities and uncertainty of predictions, as 8-bit numbers.

They are stored beside the prediction in runs/<run>/predictions/:
<scan>.probabilities.npy    uint8 (slices, 1 + classes, rows, columns), read as a memory map
<scan>.probabilities.json   classes, axes and origin (origin.py)

The array is in the work order of the network, so that it is written slab by slab and never held in memory.
Planes of zeros are holes in the file, which most file systems do not store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from medssl.core.errors import UserError
from medssl.core.events import Emit, Progress
from medssl.core.files import read_array, write_whole
from medssl.core.json_files import read_json, write_json
from medssl.core.project.origin import is_current, origin_of
from medssl.core.project.project import Project, Run

T = TypeVar("T")

FORMAT = 1
"""Version of the computation of probabilities; those of another version are computed again."""
ONE = 255
"""Stored value of a probability, or an uncertainty, of 1."""
WriteSlab = Callable[[np.ndarray], None]
"""Writes the probabilities of the next slices, float32 (slices, 1 + classes, rows, columns), background
first."""


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of one scan under one run: uint8 (Z, Y, X) views of a memory map, 255 for 1.

    Attributes:
        uncertainty: Entropy over classes and background, divided by its maximum, (Z, Y, X).
        classes: {class id: probability (Z, Y, X)}.
    """

    uncertainty: np.ndarray
    classes: dict[int, np.ndarray]


def _paths(project: Project, run_id: str, scan_id: str) -> tuple[Path, Path]:
    base = project.run(run_id).folder / "predictions"
    return base / f"{scan_id}.probabilities.npy", base / f"{scan_id}.probabilities.json"


def write_probabilities(
    project: Project,
    run: Run,
    scan_id: str,
    weights_sha256: str,
    classes: Sequence[int],
    work_axes: tuple[int, int, int],
    predict: Callable[[WriteSlab], T],
    emit: Emit,
) -> T:
    """Predict a scan and write the probabilities slab by slab.

    The JSON file is written last: it marks the array as complete.

    Args:
        weights_sha256: Fingerprint of the weights, taken before they were loaded.
        classes: Class ids in the order of the probabilities.
        work_axes: Canonical axes in work order, see `jobs.Plan`.
        predict: Predicts the scan, and hands the probabilities of every slab to its argument.

    Returns:
        What `predict` returns.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    path, metadata = _paths(project, run.id, scan_id)
    project.make_folder("runs", run.id, "predictions")
    metadata.unlink(missing_ok=True)
    shape_zyx = project.scans[scan_id].geometry.shape_zyx
    slices, rows, columns = (shape_zyx[axis] for axis in work_axes)
    shape = (slices, 1 + len(classes), rows, columns)
    results = []

    def write(file: BinaryIO) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start, slice_bytes = file.tell(), rows * columns * shape[1]

        def write_slab(slab: np.ndarray) -> None:
            _append(file, to_uint8(slab))
            done = (file.tell() - start) // slice_bytes
            emit(Progress("Probabilities", done / slices, done))

        results.append(predict(write_slab))
        file.truncate(start + slices * slice_bytes)

    write_whole(path, write)
    origin = origin_of(project.scans[scan_id], weights_sha256, FORMAT)
    write_json(metadata, {"classes": list(classes), "work_axes": list(work_axes), **origin})
    return results[0]


def to_uint8(probabilities: np.ndarray) -> np.ndarray:
    """Quantise probabilities, and replace that of the background by the uncertainty.

    The uncertainty is the entropy divided by its maximum.

    Args:
        probabilities: float32 (slices, 1 + classes, rows, columns), background first, 0..1.

    Returns:
        uint8 (slices, 1 + classes, rows, columns), uncertainty first, 255 for 1.
    """
    from scipy.special import entr  # imported late: the viewer only reads probabilities

    result = np.empty(probabilities.shape, np.uint8)
    for index, plane in enumerate(probabilities):  # per slice, because the entropies take as much memory
        uncertainty = entr(plane).sum(0) / math.log(len(plane))
        result[index, 0] = np.rint(ONE * uncertainty.clip(0, 1))
        result[index, 1:] = np.rint(ONE * plane[1:].clip(0, 1))
    return result


def _append(file: BinaryIO, slab: np.ndarray) -> None:
    """Write planes, skipping the rows of zeros at their beginning and end."""
    for plane in slab.reshape(-1, *slab.shape[2:]):
        start = file.tell()
        rows = np.flatnonzero(plane.any(axis=1))
        if rows.size:
            file.seek(start + int(rows[0]) * plane.shape[1])
            file.write(np.ascontiguousarray(plane[rows[0] : rows[-1] + 1]).tobytes())
        file.seek(start + plane.size)


def open_probabilities(project: Project, run_id: str, scan_id: str) -> Probabilities:
    """Open the probabilities of `write_probabilities` as a memory map.

    Raises:
        UserError: "no-probabilities" if they were never computed, are damaged, or were computed from another
            image or from earlier weights of the run; "not-readable".
    """
    path, metadata = _paths(project, run_id, scan_id)
    missing = UserError(
        f"{project.scan(scan_id).title} has no current probabilities of {run_id}; predict it with "
        "probabilities.",
        code="no-probabilities",
    )
    try:
        fields = read_json(metadata)
        array = read_array(path, memory_map=True)
        axes = [int(axis) for axis in fields["work_axes"]]
        classes = [int(class_id) for class_id in fields["classes"]]
        present = origin_of(project.scans[scan_id], project.run(run_id).weights_sha256, FORMAT)
        current = is_current(fields, present)
        to_canonical = np.argsort(axes)
        uncertainty, *probabilities = (
            array[:, number].transpose(to_canonical) for number in range(1 + len(classes))
        )
    except UserError as error:
        raise error if error.code == "not-readable" else missing from error
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise missing from error
    shape_zyx = project.scans[scan_id].geometry.shape_zyx
    if not current or array.dtype != np.uint8 or uncertainty.shape != shape_zyx:
        raise missing
    return Probabilities(uncertainty, dict(zip(classes, probabilities, strict=True)))
