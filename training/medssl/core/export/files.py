"""Segmentations leave the project: what was painted where somebody painted, the prediction elsewhere.

Each file lies on its scan's own grid, has a record of what made it beside it, and a row for each class in a
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
from medssl.core.files import write_whole
from medssl.core.io.volume import WRITABLE, is_series, read_scan, suffix_of, write_labels
from medssl.core.labels.postprocess import Postprocessing, cleaned
from medssl.core.palette import class_color
from medssl.core.project.contents import LabelClass, Scan
from medssl.core.project.project import Project, fingerprint

if TYPE_CHECKING:
    from medssl.core.io.dicom_seg import How

DICOM_SEG = ".dcm"
ENDINGS = (*WRITABLE, DICOM_SEG)
TABLE = "volumes.csv"
FATAL = ("disk-full", "not-writable")
"""What the next scan would meet, too."""


@dataclass(frozen=True)
class ClassVolume:
    """How large a class is in a scan; `name` is the class's."""

    scan: str
    name: str
    voxels: int
    ml: float


def file_name(scan_id: str, ending: str) -> str:
    """What a scan's segmentation is called."""
    return f"{scan_id}_segmentation{ending}"


def check_ending(ending: str) -> str:
    """The ending with its dot, in lower case.

    Raises UserError ("unsupported") for one that is not written here.
    """
    wanted = "." + ending.lower().lstrip(".")
    if wanted not in ENDINGS:
        raise UserError(
            f"Segmentations are not written as {ending}; choose one of {', '.join(ENDINGS)} "
            f"({DICOM_SEG} is DICOM-SEG).",
            code="unsupported",
        )
    return wanted


def export_scan(
    project: Project,
    scan_id: str,
    run_id: str | None,
    path: Path,
    postprocessing: Postprocessing | None = None,
) -> list[ClassVolume]:
    """Write a scan's segmentation on its source's own grid, and the record beside it.

    The ending of `path` says how: NIfTI, NRRD, MetaImage, or DICOM-SEG for a scan that came from DICOM.
    cleaning: what is done to the prediction, never to the paint.

    Raises UserError ("nothing-yet", "unsupported", "not-dicom", "missing", "changed", "not-referable",
    "disk-full", "not-writable").
    """
    path = Path(path)
    ending = check_ending(suffix_of(path) or path.name)
    predicted = cleaned(project, run_id, scan_id, postprocessing) if run_id and postprocessing else None
    labels = project.segmentation(scan_id, run_id, predicted)
    scan, run = project.scans[scan_id], project.run(run_id) if run_id else None
    annotation = project.annotation(scan_id)
    voxels = _counts(labels)
    classes = _classes(project, voxels)
    if ending == DICOM_SEG:
        from medssl.core.io.dicom_seg import write_dicom_seg  # not before it is needed, see volume.py

        source = _series_of(scan)
        painted = annotation is not None and bool(annotation.complete or annotation.labels.any())
        how: How = "MANUAL" if run is None else "SEMIAUTOMATIC" if painted else "AUTOMATIC"
        write_dicom_seg(path, labels, scan.geometry, source, classes, how)
    else:
        write_labels(path, labels, scan.geometry)
    volumes = _volumes(scan, voxels, classes)
    described = [
        {"id": item.id, **{name: value for name, value in asdict(each).items() if name != "scan"}}
        for item, each in zip(classes, volumes, strict=True)
    ]
    write_record(path, scan, annotation, run, postprocessing, described)
    return volumes


def _series_of(scan: Scan) -> Path:
    """The series that a scan was read from, if it is there and still the same.

    Raises UserError ("not-dicom", "missing", "changed", or what reading raises).
    """
    source = Path(scan.source)
    need_dicom(scan)
    if not source.exists():
        raise UserError(
            f"{source}, the DICOM series of {scan.id}, is not where it was; put it back, or choose .nii.gz "
            "or .nrrd.",
            code="missing",
        )
    if fingerprint(read_scan(source)) != scan.sha256:
        from medssl.core.io.dicom_seg import changed

        raise changed(source)
    return source


def need_dicom(scan: Scan) -> None:
    """Raises UserError ("not-dicom") for a scan that did not come from DICOM."""
    if not is_series(Path(scan.source)):
        raise UserError(
            f"{scan.id} did not come from DICOM ({Path(scan.source).name}), so a DICOM-SEG has no series to "
            "refer to; choose .nii.gz or .nrrd, or add the DICOM series as a scan.",
            code="not-dicom",
        )


def may_write(path: Path) -> bool:
    """Whether nobody else's file is there: an earlier export has its record beside it."""
    return not path.exists() or record_path(path).exists()


def _counts(labels: np.ndarray) -> np.ndarray:
    """How many voxels have each of the values 0..255; slice by slice, because numpy counts in 64 bits."""
    return np.sum([np.bincount(plane.ravel(), minlength=256) for plane in labels], axis=0)


def _classes(project: Project, voxels: np.ndarray) -> list[LabelClass]:
    """The project's classes, and those that are in the labels although the project has dropped them.

    Raises UserError ("no-classes").
    """
    known = {item.id for item in project.classes}
    dropped = set(np.flatnonzero(voxels).tolist()) - known - {0}
    more = [LabelClass(each, f"Class {each}", class_color(each)) for each in sorted(dropped)]
    if not known and not more:
        raise UserError(f"{project.root} has no class, so there is nothing to export.", code="no-classes")
    return [*project.classes, *more]


def _volumes(scan: Scan, voxels: np.ndarray, classes: Sequence[LabelClass]) -> list[ClassVolume]:
    count, ml = voxels.tolist(), scan.geometry.voxel_ml
    return [
        ClassVolume(scan.id, item.name, count[item.id], round(count[item.id] * ml, 6)) for item in classes
    ]


def write_table(path: Path, volumes: Iterable[ClassVolume]) -> None:
    """Write a CSV with a row for each scan and class, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("scan", "class", "voxels", "ml"))
    for each in volumes:
        writer.writerow((each.scan, each.name, each.voxels, f"{each.ml:.6f}"))
    write_whole(path, lambda file: file.write(text.getvalue().encode("utf-8")))
