"""Export of segmentations: the annotation where there is one, the prediction elsewhere.

Each file lies on the source grid of its scan, has a provenance record beside it and one row per class in a
table of volumes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medssl.core.errors import UserError
from medssl.core.export.provenance import record_path, write_record
from medssl.core.files import make_folder, write_whole
from medssl.core.io.volume import WRITABLE, is_series, suffix_of, write_labels
from medssl.core.labels.postprocess import Postprocessing, cleaned
from medssl.core.palette import class_color
from medssl.core.project.contents import LabelClass, Scan
from medssl.core.project.folder import GONE
from medssl.core.project.images import read_source
from medssl.core.project.project import Project

if TYPE_CHECKING:
    from medssl.core.io.dicom_seg import AlgorithmType

DICOM_SEG = ".dcm"
ENDINGS = (*WRITABLE, DICOM_SEG)
TABLE = "volumes.csv"
FATAL = ("disk-full", "not-writable", "no-folder", GONE)
"""Codes of errors that the next scan would raise, too."""


@dataclass(frozen=True)
class ClassVolume:
    """Volume of a class in a scan; `name` is the name of the class."""

    scan: str
    name: str
    voxels: int
    ml: float


def file_name(scan_id: str, ending: str) -> str:
    """File name of the segmentation of a scan."""
    return f"{scan_id}_segmentation{ending}"


def check_ending(ending: str) -> str:
    """Normalise a file extension: with its dot, in lower case.

    Raises:
        UserError: "unsupported" if no such files can be written.
    """
    normalised = "." + ending.lower().lstrip(".")
    if normalised not in ENDINGS:
        formats = ", ".join(known.removeprefix(".") for known in ENDINGS)
        raise UserError(
            f"Segmentations cannot be written as {ending}; choose one of {formats} (dcm is DICOM-SEG).",
            code="unsupported",
        )
    return normalised


def export_scan(
    project: Project,
    scan_id: str,
    run_id: str | None,
    path: Path,
    postprocessing: Postprocessing | None = None,
) -> list[ClassVolume]:
    """Write the segmentation of a scan on its source grid, with a provenance record beside it.

    Args:
        run_id: Fine-tuning run whose prediction fills the voxels without annotation; None exports the
            annotation alone.
        path: Output file. Its extension selects the format: NIfTI, NRRD, MetaImage, or DICOM-SEG for a scan
            that was read from DICOM.
        postprocessing: Applied to the prediction, never to the annotation.

    Returns:
        The volume of each class, in the order of the project's classes.

    Raises:
        UserError: "nothing-yet", "outdated", "no-classes", "unsupported", "not-dicom", "missing", "changed",
            "not-referable", "disk-full", "not-writable".

    Example:
        >>> export_scan(Project.open("liver"), "case-01", "0002-finetune-quick", Path("case-01.nii.gz"))
    """
    path = Path(path)
    ending = check_ending(suffix_of(path) or path.name)
    predicted = cleaned(project, run_id, scan_id, postprocessing) if run_id and postprocessing else None
    labels = project.segmentation(scan_id, run_id, predicted)
    scan, run = project.scans[scan_id], project.run(run_id) if run_id else None
    annotation = project.annotation(scan_id)
    voxels = _counts(labels)
    classes = _classes(project, voxels)
    project.need_here()  # the file may be inside the project
    make_folder(path.parent)
    if ending == DICOM_SEG:
        from medssl.core.io.dicom_seg import write_dicom_seg  # imported late, see volume.py

        source = _series_of(scan)
        annotated = annotation is not None and bool(annotation.complete or annotation.labels.any())
        algorithm: AlgorithmType = "MANUAL" if run is None else "SEMIAUTOMATIC" if annotated else "AUTOMATIC"
        write_dicom_seg(path, labels, scan.geometry, source, classes, algorithm)
    else:
        write_labels(path, labels, scan.geometry)
    volumes = _volumes(scan, voxels, classes)
    records = [
        {"id": item.id, **{name: value for name, value in asdict(volume).items() if name != "scan"}}
        for item, volume in zip(classes, volumes, strict=True)
    ]
    write_record(path, scan, annotation, run, postprocessing, records)
    return volumes


def _series_of(scan: Scan) -> Path:
    """The DICOM series that a scan was read from, verified to be unchanged.

    Raises:
        UserError: "not-dicom", "missing", "changed", and those of `read_scan`.
    """
    source = Path(scan.source)
    need_dicom(scan)
    if not source.exists():
        raise UserError(
            f"{source}, the DICOM series of {scan.id}, no longer exists; restore it or choose the format "
            "nii.gz or nrrd.",
            code="missing",
        )
    try:
        read_source(scan)
    except UserError as error:
        if error.code != "changed":
            raise
        from medssl.core.io.dicom_seg import changed

        raise changed(source) from error
    return source


def need_dicom(*scans: Scan) -> None:
    """Require that scans were read from DICOM.

    Raises:
        UserError: "not-dicom" if some were not.
    """
    others = [scan for scan in scans if not is_series(Path(scan.source))]
    if others:
        names = f"{others[0].id} ({Path(others[0].source).name})"
        names += f" and {len(others) - 1} more of {len(scans)} scans" if len(others) > 1 else ""
        verb = "were" if len(others) > 1 else "was"
        raise UserError(
            f"{names} {verb} not read from DICOM, so a DICOM-SEG has no series to refer to; choose the "
            "format nii.gz or nrrd, or add the DICOM series.",
            code="not-dicom",
        )


def may_write(path: Path) -> bool:
    """Whether a file may be written: it does not exist, or its record shows that it is an earlier export."""
    return not path.exists() or record_path(path).exists()


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


def _volumes(scan: Scan, voxels: np.ndarray, classes: Sequence[LabelClass]) -> list[ClassVolume]:
    count, ml = voxels.tolist(), scan.geometry.voxel_ml
    return [
        ClassVolume(scan.id, item.name, count[item.id], round(count[item.id] * ml, 6)) for item in classes
    ]


def write_table(path: Path, volumes: Iterable[ClassVolume]) -> None:
    """Write a CSV table with one row per scan and class, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("scan", "class", "voxels", "ml"))
    for volume in volumes:
        writer.writerow((volume.scan, volume.name, volume.voxels, f"{volume.ml:.6f}"))
    write_whole(path, lambda file: file.write(text.getvalue().encode("utf-8")))
