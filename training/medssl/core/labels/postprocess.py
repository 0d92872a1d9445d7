"""Postprocessing of predictions: remove small components, fill holes. The prediction itself is never changed.

The result is saved beside it in runs/<run>/predictions/: <scan>.cleaned.npz, and <scan>.cleaned.json with the
settings and the hash of the prediction.

scipy is imported inside the functions that need it, so that the dock opens without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import sha256_of
from medssl.core.jobs import from_json
from medssl.core.json_files import read_json, write_json
from medssl.core.project.annotation import Annotation
from medssl.core.project.annotation_file import read_annotation, write_annotation
from medssl.core.project.project import Project

CONNECTIVITY = np.ones((3, 3, 3), bool)
"""Components are 26-connected; the background around them is then 6-connected."""


@dataclass(frozen=True)
class Postprocessing:
    """Postprocessing steps, applied in this order."""

    largest: bool = False
    """Keep only the largest connected component of each class."""
    drop_ml: float = 0.0
    """Remove connected components smaller than this volume in ml."""
    fill_holes: bool = False
    """Assign background that is enclosed by a class to that class."""

    def __bool__(self) -> bool:
        return self != Postprocessing()


def clean(labels: np.ndarray, postprocessing: Postprocessing, voxel_ml: float) -> np.ndarray:
    """Apply postprocessing to a copy of the labels, class by class, within the bounding box of each.

    Args:
        labels: Class ids, uint8 (Z, Y, X).
        voxel_ml: Volume of a voxel in ml.

    Returns:
        Class ids, uint8 (Z, Y, X).
    """
    result = labels.copy()
    if postprocessing.largest or postprocessing.drop_ml > 0:
        drop_components(result, postprocessing.drop_ml / voxel_ml, postprocessing.largest)
    if postprocessing.fill_holes:
        for label, box in _boxes(result):
            box[_holes(box == label) & (box == 0)] = label
    return result


def drop_components(labels: np.ndarray, min_voxels: float, largest: bool, fill_value: int = 0) -> None:
    """Replace connected components that are too small, or not the largest of their class, in place.

    Args:
        labels: Class ids, uint8 (Z, Y, X); 0 and 255 are not classes.
        min_voxels: Smaller components are replaced.
        largest: Replace all but the largest component of each class.
        fill_value: Value of the replaced voxels.
    """
    from scipy import ndimage

    for label, box in _boxes(labels):
        components, count = ndimage.label(box == label, CONNECTIVITY)
        voxels = np.zeros(count + 1, np.int64)
        for plane in components:  # bincount makes an int64 copy: of one slice, not of the whole scan
            voxels += np.bincount(plane.ravel(), minlength=count + 1)
        keep = voxels >= min_voxels
        if largest and count:
            keep &= np.arange(count + 1) == 1 + voxels[1:].argmax()
        keep[0] = True
        box[~keep[components]] = fill_value


def _boxes(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each class that occurs, with a view of its bounding box."""
    from scipy import ndimage

    for label, box in enumerate(ndimage.find_objects(labels, max_label=254), start=1):
        if box is not None:
            yield label, labels[box]


def _holes(mask: np.ndarray) -> np.ndarray:
    """Background voxels that are enclosed by the mask, bool (Z, Y, X)."""
    from scipy import ndimage

    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1] & ~mask


# --- saved beside the prediction ----------------------------------------------------------------------


def _paths(project: Project, run_id: str, scan_id: str) -> tuple[Path, Path, Path]:
    base = project.run(run_id).folder / "predictions"
    return tuple(base / f"{scan_id}{ending}" for ending in (".npz", ".cleaned.npz", ".cleaned.json"))  # type: ignore[return-value]


def save_cleaned(
    project: Project, run_id: str, scan_id: str, postprocessing: Postprocessing, labels: np.ndarray
) -> None:
    """Save a postprocessed prediction, replacing an earlier one.

    Args:
        labels: Result of `clean`, uint8 (Z, Y, X).

    Raises:
        UserError: "disk-full", "not-writable".
    """
    prediction, path, metadata = _paths(project, run_id, scan_id)
    project.make_folder("runs", run_id, "predictions")
    metadata.unlink(missing_ok=True)
    fields = {"cleaning": asdict(postprocessing), "prediction_sha256": sha256_of(prediction)}
    write_annotation(path, Annotation(labels), project.scans[scan_id].geometry.shape_zyx, fields)
    write_json(metadata, {**fields, "labels_sha256": sha256_of(path)})


def postprocessing_of(project: Project, run_id: str, scan_id: str) -> Postprocessing | None:
    """Settings of the saved result; None if there is none or it belongs to an earlier prediction."""
    prediction, path, metadata = _paths(project, run_id, scan_id)
    try:
        fields = read_json(metadata)
        is_current = path.is_file() and fields["prediction_sha256"] == sha256_of(prediction)
        is_current = is_current and fields["labels_sha256"] == sha256_of(path)
        is_current = is_current and project.has_prediction(run_id, scan_id)
        return from_json(Postprocessing, fields["cleaning"], str(metadata)) if is_current else None
    except (UserError, KeyError, TypeError, OSError):
        return None


def read_cleaned(project: Project, run_id: str, scan_id: str) -> np.ndarray:
    """Read the saved postprocessed prediction.

    Returns:
        Class ids, uint8 (Z, Y, X).

    Raises:
        UserError: "no-cleaned" if there is none or it belongs to an earlier prediction.
    """
    if postprocessing_of(project, run_id, scan_id) is None:
        raise UserError(
            f"The prediction of {project.scan(scan_id).title} by {run_id} is not the one that was cleaned "
            "up; clean it up again.",
            code="no-cleaned",
        )
    shape = project.scans[scan_id].geometry.shape_zyx
    return read_annotation(_paths(project, run_id, scan_id)[1], shape).labels


def cleaned(project: Project, run_id: str, scan_id: str, postprocessing: Postprocessing) -> np.ndarray:
    """A run's prediction of a scan after postprocessing, read if it is saved and computed otherwise.

    Returns:
        Class ids, uint8 (Z, Y, X).

    Raises:
        UserError: "nothing-yet" if the run has not predicted the scan, "outdated" with earlier weights.
    """
    scan = project.scans[scan_id]
    if postprocessing and postprocessing_of(project, run_id, scan_id) == postprocessing:
        return read_cleaned(project, run_id, scan_id)
    labels = project.prediction(run_id, scan_id)
    if labels is None:
        raise UserError(
            f"{scan.title} has no prediction of {run_id} yet; predict it first.", code="nothing-yet"
        )
    return clean(labels, postprocessing, scan.geometry.voxel_ml) if postprocessing else labels
