"""Cleaning a prediction up: small parts go, holes are filled. The prediction itself is never changed.

What was cleaned is kept beside it, in runs/<run>/predictions/: <scan>.cleaned.npz and, saying how and of
which prediction, <scan>.cleaned.json.

scipy is imported by what computes: the dock opens without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import read_json, sha256_of, write_json
from medssl.core.jobs import from_json
from medssl.core.project.annotation import Annotation, read_annotation, write_annotation
from medssl.core.project.project import Project

TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels of a part touch by a face, an edge or a corner; the background around it then by faces alone."""


@dataclass(frozen=True)
class Postprocessing:
    """What is done to a prediction, in this order."""

    largest: bool = False
    """Of each class only the largest connected part stays."""
    drop_ml: float = 0.0
    """Connected parts smaller than this go."""
    fill_holes: bool = False
    """Background that a class encloses from all sides becomes that class."""

    def __bool__(self) -> bool:
        return self != Postprocessing()


def clean(labels: np.ndarray, postprocessing: Postprocessing, voxel_ml: float) -> np.ndarray:
    """A cleaned copy of class ids, uint8 (Z, Y, X). Class by class, in the smallest box around each."""
    result = labels.copy()
    if postprocessing.largest or postprocessing.drop_ml > 0:
        drop_parts(result, postprocessing.drop_ml / voxel_ml, postprocessing.largest)
    if postprocessing.fill_holes:
        for label, part in _boxes(result):
            part[_holes(part == label) & (part == 0)] = label
    return result


def drop_parts(labels: np.ndarray, least_voxels: float, largest: bool, becomes: int = 0) -> None:
    """Give connected parts of a class that are too small, or not its largest, another number, in place.

    labels: uint8 (Z, Y, X); 0 and 255 are no classes.
    """
    from scipy import ndimage

    for label, box in _boxes(labels):
        parts, count = ndimage.label(box == label, TOUCHING)
        voxels = np.zeros(count + 1, np.int64)
        for plane in parts:  # numpy counts in 64 bits: not all of the scan at once
            voxels += np.bincount(plane.ravel(), minlength=count + 1)
        stays = voxels >= least_voxels
        if largest and count:
            stays &= np.arange(count + 1) == 1 + voxels[1:].argmax()
        stays[0] = True
        box[~stays[parts]] = becomes


def _boxes(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each class that is there, with the part of the array that holds it."""
    from scipy import ndimage

    for label, box in enumerate(ndimage.find_objects(labels, max_label=254), start=1):
        if box is not None:
            yield label, labels[box]


def _holes(mask: np.ndarray) -> np.ndarray:
    """Where something is enclosed by the mask from all sides."""
    from scipy import ndimage

    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1] & ~mask


# --- kept beside the prediction -----------------------------------------------------------------------


def _paths(project: Project, run_id: str, scan_id: str) -> tuple[Path, Path, Path]:
    base = project.run(run_id).folder / "predictions"
    return tuple(base / f"{scan_id}{end}" for end in (".npz", ".cleaned.npz", ".cleaned.json"))  # type: ignore[return-value]


def save_cleaned(
    project: Project, run_id: str, scan_id: str, postprocessing: Postprocessing, labels: np.ndarray
) -> None:
    """Keep a cleaned prediction in the place of an earlier one.

    Raises UserError ("disk-full", "not-writable").
    """
    prediction, path, about = _paths(project, run_id, scan_id)
    about.unlink(missing_ok=True)
    write_annotation(path, Annotation(labels), project.scans[scan_id].geometry.shape_zyx)
    write_json(about, {"cleaning": asdict(postprocessing), "prediction_sha256": sha256_of(prediction)})


def postprocessing_of(project: Project, run_id: str, scan_id: str) -> Postprocessing | None:
    """How the kept prediction was cleaned; None where none is kept or it is of another prediction."""
    prediction, path, about = _paths(project, run_id, scan_id)
    try:
        known = read_json(about)
        fits = path.is_file() and known["prediction_sha256"] == sha256_of(prediction)
        return from_json(Postprocessing, known["cleaning"], str(about)) if fits else None
    except (UserError, KeyError, TypeError, OSError):
        return None


def read_cleaned(project: Project, run_id: str, scan_id: str) -> np.ndarray:
    """The cleaned prediction that was kept, uint8 (Z, Y, X).

    Raises UserError ("no-cleaned") where none was kept, or it is of another prediction.
    """
    if postprocessing_of(project, run_id, scan_id) is None:
        raise UserError(
            f"{scan_id} was predicted again by {run_id} since it was cleaned up; clean it up again.",
            code="no-cleaned",
        )
    shape = project.scans[scan_id].geometry.shape_zyx
    return read_annotation(_paths(project, run_id, scan_id)[1], shape).labels


def cleaned(project: Project, run_id: str, scan_id: str, postprocessing: Postprocessing) -> np.ndarray:
    """A run's prediction of a scan, cleaned like this: the kept one where it was, computed otherwise.

    Raises UserError ("nothing-yet") where the run has not predicted the scan.
    """
    scan = project.scans[scan_id]
    if postprocessing and postprocessing_of(project, run_id, scan_id) == postprocessing:
        return read_cleaned(project, run_id, scan_id)
    labels = project.prediction(run_id, scan_id)
    if labels is None:
        raise UserError(f"{scan_id} has no prediction of {run_id} yet; predict it first.", code="nothing-yet")
    return clean(labels, postprocessing, scan.geometry.voxel_ml) if postprocessing else labels
