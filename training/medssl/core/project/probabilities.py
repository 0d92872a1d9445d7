"""How probable each class is at every voxel and where a network is unsure, as 8-bit numbers.

They lie beside the prediction, in runs/<run>/predictions/:
<scan>.probabilities.npy    uint8 (slices, 1 + classes, rows, columns), read as a memory map
<scan>.probabilities.json   which classes and axes, and what they were made from

The array lies as the network worked, slice after slice, so that it is written slab by slab and never held in
memory. Planes without a number above zero are holes in the file, which most disks do not store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medssl.core.errors import UserError
from medssl.core.events import Emit, Progress
from medssl.core.files import read_array, read_json, write_json, write_whole
from medssl.core.project.project import Project, Run

ONE = 255
"""What stands for a probability, or an uncertainty, of 1."""
Keep = Callable[[np.ndarray], None]
"""Takes the next slices' probabilities, float32 (n, 1 + classes, rows, columns), the background's first."""


@dataclass(frozen=True)
class Probabilities:
    """Of one scan under one run: uint8 (Z, Y, X) views of a memory map, 255 for 1.

    uncertainty: entropy over the classes and the background, divided by its maximum; classes: by class id.
    """

    uncertainty: np.ndarray
    classes: dict[int, np.ndarray]


def _paths(project: Project, run_id: str, scan_id: str) -> tuple[Path, Path]:
    base = project.run(run_id).folder / "predictions"
    return base / f"{scan_id}.probabilities.npy", base / f"{scan_id}.probabilities.json"


def _origin(project: Project, run_id: str, scan_id: str) -> dict[str, str]:
    """What probabilities are made from: fingerprints of the scan and of the run's weights as they are now."""
    return {"image": project.scans[scan_id].sha256, "weights": project.run(run_id).weights_sha256}


def keep_probabilities(
    project: Project,
    run: Run,
    scan_id: str,
    classes: Sequence[int],
    work_axes: tuple[int, int, int],
    look: Callable[[Keep], np.ndarray],
    emit: Emit,
) -> np.ndarray:
    """Write the probabilities that `look` hands over slab after slab; returns what it returns, the labels.

    classes: ids in the order of the probabilities; work_axes: canonical axes in the order of the slabs. The
    JSON comes last: it says that the array is whole.
    """
    path, about = _paths(project, run.id, scan_id)
    about.unlink(missing_ok=True)
    size = project.scans[scan_id].geometry.shape_zyx
    slices, rows, columns = (size[axis] for axis in work_axes)
    shape = (slices, 1 + len(classes), rows, columns)
    labels = []

    def write(file: BinaryIO) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin, plane = file.tell(), rows * columns * shape[1]

        def keep(slab: np.ndarray) -> None:
            _append(file, as_bytes(slab))
            done = (file.tell() - begin) // plane
            emit(Progress("Probabilities", done / slices, done))

        labels.append(look(keep))
        file.truncate(begin + slices * plane)

    write_whole(path, write)
    known = {"classes": list(classes), "work_axes": list(work_axes)}
    write_json(about, {**known, **_origin(project, run.id, scan_id)})
    return labels[0]


def as_bytes(scores: np.ndarray) -> np.ndarray:
    """Probabilities (n, 1 + classes, rows, columns) as uint8 of that shape, 255 for 1; the uncertainty, which
    is the entropy divided by its maximum, stands in the background's place."""
    from scipy.special import entr  # which the viewer, that only reads, need not wait for

    kept = np.empty(scores.shape, np.uint8)
    for number, each in enumerate(scores):  # one slice at a time: entropies are as large as the scores
        uncertainty = entr(each).sum(0) / math.log(len(each))
        kept[number, 0] = np.rint(ONE * uncertainty.clip(0, 1))
        kept[number, 1:] = np.rint(ONE * each[1:].clip(0, 1))
    return kept


def _append(file: BinaryIO, slab: np.ndarray) -> None:
    """Write planes, leaving out zeros before and after what there is."""
    for plane in slab.reshape(-1, *slab.shape[2:]):
        begin = file.tell()
        rows = np.flatnonzero(plane.any(axis=1))
        if rows.size:
            file.seek(begin + int(rows[0]) * plane.shape[1])
            file.write(np.ascontiguousarray(plane[rows[0] : rows[-1] + 1]).tobytes())
        file.seek(begin + plane.size)


def open_probabilities(project: Project, run_id: str, scan_id: str) -> Probabilities:
    """What `keep_probabilities` kept; pages are read when they are looked at.

    Raises UserError ("no-probabilities") where they were never computed, are damaged, or were made from
    another image or from earlier weights of the run.
    """
    path, about = _paths(project, run_id, scan_id)
    missing = UserError(
        f"{scan_id} has no probabilities of {run_id} as it is now; predict it with probabilities.",
        code="no-probabilities",
    )
    try:
        known = read_json(about)
        array = read_array(path, memory_map=True)
        axes = [int(axis) for axis in known["work_axes"]]
        classes = [int(each) for each in known["classes"]]
        fits = all(known[name] == now for name, now in _origin(project, run_id, scan_id).items())
        back = np.argsort(axes)
        uncertainty, *rest = (array[:, number].transpose(back) for number in range(1 + len(classes)))
    except (UserError, KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise missing from error
    if not fits or array.dtype != np.uint8 or uncertainty.shape != project.scans[scan_id].geometry.shape_zyx:
        raise missing
    return Probabilities(uncertainty, dict(zip(classes, rest, strict=True)))
