"""Segmentation of files outside the project. Each scan is processed in a temporary project."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.core.errors import UserError
from medssl.core.export.files import (
    DICOM_ENDINGS,
    FATAL,
    TABLE,
    ClassVolume,
    export_scan,
    may_write,
    need_dicom,
    write_table,
)
from medssl.core.files import check_writable
from medssl.core.io.scan_file import ScanFile
from medssl.core.jobs import Job, PredictJob
from medssl.core.project.adding import add_scan_file
from medssl.core.project.modality import usual_modality
from medssl.core.project.project import Project, Run, Scan
from medssl.core.project.runs import copy_run

if TYPE_CHECKING:
    from medssl.cli.refusals import Refusals

FOR_ALL = (
    *("no-checkpoint", "foreign-checkpoint", "damaged-checkpoint", "newer-version", "not-finetuned"),
    *("no-device", "bad-modality"),
    *("no-ssh", "bad-host", "no-host", "no-agent", "other-version", "connection"),
)
"""Codes of errors that would occur for every scan."""
Work = Callable[[Job], dict[str, Any]]


def predict_outside(
    project: Project,
    run: Run,
    scans: Sequence[ScanFile],
    out: Path | None,
    ending: str,
    job: PredictJob,
    work: Work,
    refuse: Refusals,
    modality: str = "",
    *,
    overwrite: bool = False,
    with_names: bool = False,
    notify: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Segment scan files outside the project with one of its runs; the project is not changed.

    A segmentation has its scan's grid and its name with "_segmentation" appended.

    Args:
        project: project that holds the run and defines the classes.
        run: fine-tuning run whose weights are used.
        scans: scans to segment.
        out: output folder, which also gets a table of volumes; None writes next to each scan.
        ending: file ending such as ".nii.gz".
        job: supplies seed and device.
        work: runs a job.
        refuse: reports paths that cannot be used or written, and what was tolerated in scans.
        modality: modality of the scans; empty to find it out.
        overwrite: replace files that are not earlier exports.
        with_names: write paths and names of scans into the records.
        notify: receives warnings about files.

    Returns:
        Paths of the segmentations.

    Raises:
        UserError: for errors that would occur for every scan: unusable weights, a full disk, no connection.
    """
    run.card  # noqa: B018 - a damaged card is reported once, before anything is computed
    written: list[Path] = []
    volumes: list[ClassVolume] = []
    try:
        for scan_file in scans:
            try:
                with _temporary_project(project, run, scan_file, modality) as (temporary, scan):
                    refuse.remark(scan_file.path, scan)
                    taken = [*(other.path for other in scans), *written]
                    target = segmentation_path(scan_file, out, taken, ending, overwrite, scan.sha256)
                    if ending in DICOM_ENDINGS:
                        need_dicom(scan)
                    check_writable(target)
                    root = str(temporary.root)
                    work(replace(job, project=root, weights=run.id, scans=(scan.id,)))
                    rows = export_scan(
                        temporary,
                        scan.id,
                        run.id,
                        target,
                        overwrite=overwrite,
                        with_names=with_names,
                        notify=notify,
                    )
            except UserError as error:
                if error.code in (*FATAL, *FOR_ALL):
                    raise
                refuse(scan_file.path, error)
                continue
            written.append(target)
            name = target.name.removesuffix(f"_segmentation{ending}")
            volumes += [replace(row, scan=name) for row in rows]
    finally:  # also after Ctrl-C, for the finished scans
        if out is not None and written:
            try:
                write_table(out / TABLE, volumes, overwrite)
            except UserError as error:
                refuse(out / TABLE, error)
    return written


@contextmanager
def _temporary_project(
    project: Project, run: Run, scan_file: ScanFile, modality: str
) -> Iterator[tuple[Project, Scan]]:
    """A project with one scan and a run, removed afterwards: many scans would fill a small disk."""
    with tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        temporary = Project.create(Path(scratch) / "project", classes=project.classes)
        trained_on = run.card.get("training_data", {}).get("modalities", [])
        usual = trained_on[0] if len(trained_on) == 1 else usual_modality(project.scans.values())
        scan = add_scan_file(temporary, replace(scan_file, name=""), _fail, modality=modality, usual=usual)
        copy_run(run, temporary.root)
        yield temporary, scan


def _fail(error: UserError) -> None:
    raise error


def segmentation_path(
    scan: ScanFile,
    out: Path | None,
    taken: Sequence[Path],
    ending: str = ".nii.gz",
    overwrite: bool = False,
    sha256: str = "",
) -> Path:
    """Choose the path for the segmentation of a scan.

    It never overwrites the scan or a file that is not an earlier export: a number is appended then.

    Args:
        scan: the scan.
        out: output folder; None is the scan's folder.
        taken: paths of the scans and of segmentations of other scans.
        ending: file ending such as ".nii.gz".
        overwrite: replace a file that is not an earlier export.
        sha256: fingerprint of the scan; earlier exports of other scans are kept.
    """
    folder, name = (scan.path.parent, scan.stem) if out is None else (out, scan.name)
    names = itertools.chain([name], (f"{name}_{index}" for index in itertools.count(2)))
    candidates = (folder / f"{each}_segmentation{ending}" for each in names)
    return next(path for path in candidates if path not in taken and may_write(path, overwrite, sha256))
