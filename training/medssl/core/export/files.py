"""Export of segmentations: the annotation where there is one, the prediction elsewhere.

Each file lies on the source grid of its scan, has a provenance record beside it and one row per class in a
table of volumes. Files that are not earlier exports are never replaced unless this is asked for.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medssl.core.errors import UserError
from medssl.core.export.provenance import check_target, origin, write_recorded
from medssl.core.files import make_folder
from medssl.core.io.volume import WRITABLE, is_series, label_bytes, suffix_of
from medssl.core.labels.postprocess import Postprocessing, cleaned
from medssl.core.palette import class_color
from medssl.core.project.annotation import IGNORE, Annotation
from medssl.core.project.contents import LabelClass, Scan
from medssl.core.project.folder import GONE
from medssl.core.project.images import read_source
from medssl.core.project.project import Project, Run
from medssl.core.project.review import is_accepted
from medssl.core.tables import csv_bytes, safe_cell

if TYPE_CHECKING:
    from medssl.core.io.dicom_seg import AlgorithmType

DICOM_SEG, LABEL_MAP = ".dcm", ".labelmap.dcm"
DICOM_ENDINGS = (DICOM_SEG, LABEL_MAP)
ENDINGS = (*WRITABLE, *DICOM_ENDINGS)
TABLE = "volumes.csv"
HEADER = ("scan", "class", "voxels", "ml", "accepted")
FATAL = ("disk-full", "not-writable", "no-folder", GONE)
"""Codes of errors that the next scan would raise, too."""


@dataclass(frozen=True)
class ClassVolume:
    """Volume of a class in a scan; `name` is the name of the class."""

    scan: str
    name: str
    voxels: int
    ml: float
    accepted: bool = False
    """Whether somebody has accepted the prediction in it (review.py)."""


def file_name(scan: Scan, ending: str) -> str:
    """File name of the segmentation of a scan."""
    return f"{scan.title}_segmentation{ending}"


def check_ending(ending: str) -> str:
    """Normalise a file extension: with its dot, in lower case.

    Raises:
        UserError: "unsupported" if no such files can be written.
    """
    normalised = "." + ending.lower().lstrip(".")
    if normalised not in ENDINGS:
        formats = ", ".join(known.removeprefix(".") for known in ENDINGS)
        raise UserError(
            f"Segmentations cannot be written as {ending}; choose one of {formats} (dcm is DICOM-SEG, "
            "labelmap.dcm a DICOM Label Map).",
            code="unsupported",
        )
    return normalised


def export_scan(
    project: Project,
    scan_id: str,
    run_id: str | None,
    path: Path,
    postprocessing: Postprocessing | None = None,
    *,
    overwrite: bool = False,
    with_names: bool = False,
    notify: Callable[[str], None] = lambda text: None,
) -> list[ClassVolume]:
    """Write the segmentation of a scan on its source grid, with a provenance record beside it.

    Args:
        run_id: Fine-tuning run whose prediction fills the voxels without annotation; None exports the
            annotation alone. It needs no prediction of a scan that is annotated everywhere.
        path: Output file. Its extension selects the format: NIfTI, NRRD, MetaImage, or DICOM-SEG and DICOM
            Label Map for a scan that was read from DICOM.
        postprocessing: Applied to the prediction, never to the annotation.
        overwrite: Replace files that are not earlier exports of this scan.
        with_names: Write paths and names of scans into the record.
        notify: Receives a warning about the file.

    Returns:
        The volume of each class, in the order of the project's classes.

    Raises:
        UserError: "nothing-yet", "outdated", "no-classes", "unsupported", "not-dicom", "missing", "changed",
            "empty", "not-referable", "exists", "disk-full", "not-writable".

    Example:
        >>> export_scan(Project.open("liver"), "case-01", "0002-finetune-quick", Path("case-01.nii.gz"))
    """
    path = Path(path)
    ending, scan = check_ending(_ending_of(path)), project.scans[scan_id]
    check_target(path, overwrite, scan.sha256)
    labels, annotation, run = segmentation_of(project, scan_id, run_id, postprocessing)
    voxels = _counts(labels)
    classes = _classes(project, voxels)
    project.need_here()  # the file may be inside the project
    make_folder(path.parent)
    if ending in DICOM_ENDINGS:
        from medssl.core.io.dicom_seg import dicom_seg_bytes  # imported late, see volume.py

        source = _series_of(scan)
        annotated = annotation is not None and bool(annotation.complete or annotation.labels.any())
        algorithm: AlgorithmType = "MANUAL" if run is None else "SEMIAUTOMATIC" if annotated else "AUTOMATIC"
        content = dicom_seg_bytes(labels, scan.geometry, source, classes, algorithm, ending == LABEL_MAP)
    else:
        content = label_bytes(path, labels, scan.geometry)
    volumes = _volumes(scan, voxels, classes, run is not None and is_accepted(project, run.id, scan_id))
    records = [
        {"id": item.id, "name": volume.name, "voxels": volume.voxels, "ml": volume.ml}
        for item, volume in zip(classes, volumes, strict=True)
    ]
    made_from = origin(project, scan, annotation, run, postprocessing, with_names)
    write_recorded(path, content, {**made_from, "volumes": records})
    if ending in (".nii", ".nii.gz"):
        _warn_of_tilt(path, scan, notify)
    return volumes


def _ending_of(path: Path) -> str:
    return LABEL_MAP if path.name.lower().endswith(LABEL_MAP) else suffix_of(path) or path.name


def segmentation_of(
    project: Project, scan_id: str, run_id: str | None, postprocessing: Postprocessing | None
) -> tuple[np.ndarray, Annotation | None, Run | None]:
    """The segmentation of a scan, and what it is made from; the arguments are those of `export_scan`.

    Returns:
        Class ids, uint8 (Z, Y, X); the annotation, and the run if its prediction is needed.

    Raises:
        UserError: "nothing-yet", "outdated".
    """
    annotation = project.annotation(scan_id)
    run = project.run(run_id) if run_id and needs_prediction(annotation) else None
    predicted = cleaned(project, run.id, scan_id, postprocessing) if run and postprocessing else None
    return project.segmentation(scan_id, run.id if run else None, predicted), annotation, run


def needs_prediction(annotation: Annotation | None) -> bool:
    """Whether an annotation leaves voxels open."""
    return annotation is None or bool((annotation.target() == IGNORE).any())


def fully_annotated(project: Project) -> tuple[str, ...]:
    """Ids of the scans whose annotation leaves no voxel open."""
    scans = project.annotated(held_out=True)
    return tuple(scan_id for scan_id in scans if not needs_prediction(project.annotation(scan_id)))


def _warn_of_tilt(path: Path, scan: Scan, notify: Callable[[str], None]) -> None:
    from medssl.core.io.nifti import opens_in_itk  # imported late, see volume.py

    if not opens_in_itk(scan.geometry):
        notify(
            f"The axes of {scan.title} are not orthogonal (a tilted gantry), so 3D Slicer, ITK-SNAP and "
            f"other programs with ITK refuse {path.name}; export .nrrd for them."
        )


def _series_of(scan: Scan) -> Path:
    """The DICOM series that a scan was read from, verified to be unchanged.

    Raises:
        UserError: "not-dicom", "missing", "changed", and those of `read_scan`.
    """
    source = need_series(scan)
    try:
        read_source(scan)
    except UserError as error:
        if error.code != "changed":
            raise
        from medssl.core.io.dicom_seg import changed

        raise changed(source) from error
    return source


def need_series(scan: Scan) -> Path:
    """The DICOM series that a scan was read from.

    Raises:
        UserError: "not-dicom", "missing".
    """
    source = Path(scan.source)
    need_dicom(scan)
    if not source.exists():
        raise UserError(
            f"{source}, the DICOM series of {scan.title}, no longer exists; restore it or choose the format "
            "nii.gz or nrrd.",
            code="missing",
        )
    return source


def need_dicom(*scans: Scan) -> None:
    """Require that scans were read from DICOM.

    Raises:
        UserError: "not-dicom" if some were not.
    """
    others = [scan for scan in scans if not is_series(Path(scan.source))]
    if others:
        names = f"{others[0].title} ({Path(others[0].source).name})"
        names += f" and {len(others) - 1} more of {len(scans)} scans" if len(others) > 1 else ""
        verb = "were" if len(others) > 1 else "was"
        raise UserError(
            f"{names} {verb} not read from DICOM, so a DICOM-SEG has no series to refer to; choose the "
            "format nii.gz or nrrd, or add the DICOM series.",
            code="not-dicom",
        )


def may_write(path: Path, overwrite: bool = False, scan_sha256: str = "") -> bool:
    """Whether `check_target` allows a file to be written."""
    try:
        check_target(path, overwrite, scan_sha256)
    except UserError:
        return False
    return True


def _counts(labels: np.ndarray) -> np.ndarray:
    """Number of voxels with each of the values 0..255, (256,); per slice, as bincount makes int64 copies."""
    return np.sum([np.bincount(plane.ravel(), minlength=256) for plane in labels], axis=0)


def _classes(project: Project, voxels: np.ndarray) -> list[LabelClass]:
    """The project's classes, and those that occur in the labels although they were deleted from the project.

    Raises:
        UserError: "no-classes".
    """
    class_ids = {item.id for item in project.classes}
    deleted_ids = set(np.flatnonzero(voxels).tolist()) - class_ids - {0}
    deleted = [
        LabelClass(class_id, f"Class {class_id}", class_color(class_id)) for class_id in sorted(deleted_ids)
    ]
    if not class_ids and not deleted:
        raise UserError(
            f"{project.root} has no classes, so there is nothing to export; add a class first.",
            code="no-classes",
        )
    return [*project.classes, *deleted]


def _volumes(
    scan: Scan, voxels: np.ndarray, classes: Sequence[LabelClass], accepted: bool
) -> list[ClassVolume]:
    count, ml = voxels.tolist(), scan.geometry.voxel_ml
    return [
        ClassVolume(scan.title, item.name, count[item.id], round(count[item.id] * ml, 6), accepted)
        for item in classes
    ]


def write_table(path: Path, volumes: Iterable[ClassVolume], overwrite: bool = False) -> None:
    """Write a CSV table with one row per scan and class, and its record.

    Rows of other scans that an earlier export wrote into the table are kept.

    Args:
        overwrite: Replace a table that is not an earlier export.

    Raises:
        UserError: "exists", "disk-full", "not-writable".
    """
    check_target(path, overwrite)
    rows: dict[str, list[list[str]]] = {}
    for row in _rows(path) if may_write(path) else []:
        rows.setdefault(row[0], []).append(row)
    new: dict[str, list[list[str]]] = {}
    for volume in volumes:
        accepted = "yes" if volume.accepted else ""
        cells = [volume.scan, volume.name, str(volume.voxels), f"{volume.ml:.6f}", accepted]
        new.setdefault(safe_cell(volume.scan), []).append(cells)
    write_recorded(path, csv_bytes(HEADER, itertools.chain(*{**rows, **new}.values())), {})


def _rows(path: Path) -> list[list[str]]:
    """Rows of a table that an earlier export wrote; those of former versions have no last column."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row + [""] * (len(HEADER) - len(row)) for row in csv.reader(file)][1:]
