"""Segmentations leave the project: what was painted where somebody painted, the prediction elsewhere.

Each file lies on its scan's own grid, has a record of what made it beside it, and a row for each class in a
table of volumes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.config import ExportJob
from medssl.errors import UserError
from medssl.events import Emit, Notice, Progress, Started
from medssl.files import write_whole
from medssl.palette import class_color
from medssl.projects.contents import LabelClass, Scan
from medssl.projects.project import Project, Run, fingerprint
from medssl.results.cleaning import Cleaning, cleaned
from medssl.results.provenance import record_path, write_record
from medssl.scans.volume import WRITABLE, is_series, read_scan, suffix_of, write_labels

if TYPE_CHECKING:
    from medssl.results.dicom_seg import How

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
    project: Project, scan_id: str, run_id: str | None, path: Path, cleaning: Cleaning | None = None
) -> list[ClassVolume]:
    """Write a scan's segmentation on its source's own grid, and the record beside it.

    The ending of `path` says how: NIfTI, NRRD, MetaImage, or DICOM-SEG for a scan that came from DICOM.
    cleaning: what is done to the prediction, never to the paint.

    Raises UserError ("nothing-yet", "unsupported", "not-dicom", "missing", "changed", "not-referable",
    "disk-full", "not-writable").
    """
    path = Path(path)
    ending = check_ending(suffix_of(path) or path.name)
    predicted = cleaned(project, run_id, scan_id, cleaning) if run_id and cleaning else None
    labels = project.segmentation(scan_id, run_id, predicted)
    scan, run = project.scans[scan_id], project.run(run_id) if run_id else None
    annotation = project.annotation(scan_id)
    voxels = _counts(labels)
    classes = _classes(project, voxels)
    if ending == DICOM_SEG:
        from medssl.results.dicom_seg import write_dicom_seg  # not before it is needed, see volume.py

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
    write_record(path, scan, annotation, run, cleaning, described)
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
        from medssl.results.dicom_seg import changed

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


def export_scans(
    project: Project, job: ExportJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Export scans into a folder, with a table of their volumes.

    What the run has not predicted yet, it predicts first. A scan that cannot be written
    is named in a Notice, and the others go on.

    Raises UserError ("unsupported", "no-run", "disk-full", "not-writable", "nothing-yet" where no scan at
    all could be written).
    """
    ending, folder = check_ending(job.ending), Path(job.folder)
    run = project.run(job.weights) if job.weights else None
    cleaning = Cleaning(job.largest, job.drop_ml, job.fill_holes)
    scans = job.scans or _with_something(project, run)
    refused: dict[str, str] = {}
    volumes: list[ClassVolume] = []
    written: list[str] = []

    def refuse(scan_id: str, error: UserError) -> None:
        if error.code in FATAL:
            raise error
        refused[scan_id] = str(error)
        emit(Notice(str(error)))

    targets = {scan_id: folder / file_name(scan_id, ending) for scan_id in scans}
    for scan_id, path in targets.items():
        try:
            _check_target(project.scans[scan_id], path, ending)
        except UserError as error:
            refuse(scan_id, error)
    left = [scan_id for scan_id in scans if scan_id not in refused]
    emit(Started(run.id if run else ""))
    if run is not None:
        _predict_missing(project, run, left, job, emit, should_stop)
    for number, scan_id in enumerate(left):
        if should_stop():
            break
        try:
            volumes += export_scan(project, scan_id, run.id if run else None, targets[scan_id], cleaning)
            written.append(str(targets[scan_id]))
        except UserError as error:
            refuse(scan_id, error)
        emit(Progress("export", (number + 1) / len(left), number + 1))
    if written:
        write_table(folder / TABLE, volumes)
    elif len(refused) == len(scans):
        raise UserError(next(iter(refused.values())), code="nothing-yet")
    emit(Notice(_summary(folder, written, refused)))
    stopped = len(written) + len(refused) < len(scans)
    return {"run": job.weights, "written": written, "refused": refused, "stopped": stopped}


def _check_target(scan: Scan, path: Path, ending: str) -> None:
    """What can be refused before anything is computed."""
    if ending == DICOM_SEG:
        need_dicom(scan)
    if not may_write(path):
        raise UserError(
            f"{path} is there already and is no export of this program; move it or choose another folder.",
            code="exists",
        )


def _with_something(project: Project, run: Run | None) -> tuple[str, ...]:
    """All scans, or, where no network fills the rest, those on which somebody painted."""
    if run is not None:
        return tuple(project.scans)
    painted = project.annotated(held_out=True)
    if not painted:
        raise UserError(
            f"{project.root} has nothing painted yet; paint some slices or choose a fine-tuning run.",
            code="nothing-yet",
        )
    return painted


def _predict_missing(
    project: Project,
    run: Run,
    scans: Sequence[str],
    job: ExportJob,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> None:
    missing = [scan for scan in scans if not project.has_prediction(run.id, scan)]
    if missing:
        from medssl.results.predict import predict_scans  # torch

        predict_scans(project, run, missing, job.device, emit, should_stop)


def _summary(folder: Path, written: Sequence[str], refused: dict[str, str]) -> str:
    """What a user wants to read at the end."""
    left_out = f"; left out: {', '.join(refused)}" if refused else ""
    scans = "1 scan" if len(written) == 1 else f"{len(written)} scans"
    return f"{scans} and {TABLE} are in {folder}{left_out}."
