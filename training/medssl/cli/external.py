"""Segmentation of files outside the project. Each scan is processed in a temporary project."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.core.errors import UserError
from medssl.core.export.files import (
    DICOM_SEG,
    FATAL,
    TABLE,
    ClassVolume,
    export_scan,
    may_write,
    need_dicom,
    write_table,
)
from medssl.core.io.find import FoundScan
from medssl.core.jobs import Job, PredictJob
from medssl.core.project.modality import usual_modality
from medssl.core.project.project import Project, Run

if TYPE_CHECKING:
    from medssl.cli.export import Refusals

RUN_FILES = ("job.json", "card.json", "checkpoint.safetensors")
WEIGHTS_ERRORS = (
    "no-checkpoint",
    "foreign-checkpoint",
    "damaged-checkpoint",
    "newer-version",
    "not-finetuned",
)
"""Codes of errors that would occur for every scan."""
Work = Callable[[Job], dict[str, Any]]


def predict_outside(
    project: Project,
    run: Run,
    scans: Sequence[FoundScan],
    out: Path | None,
    ending: str,
    job: PredictJob,
    work: Work,
    refuse: Refusals,
    modality: str = "",
) -> list[Path]:
    """Segment scan files outside the project with one of its runs; the project is not changed.

    A segmentation has its scan's grid and its name with "_segmentation" appended.

    Args:
        project: project that holds the run and defines the classes.
        run: fine-tuning run whose weights are used.
        scans: scans that were found.
        out: output folder, which also gets a table of volumes; None writes next to each scan.
        ending: file ending such as ".nii.gz".
        job: supplies seed and device.
        work: runs a job.
        refuse: reports scans that cannot be used and what was tolerated in others.
        modality: modality of the scans; empty to find it out.

    Returns:
        Paths of the segmentations.

    Raises:
        UserError: for errors that would occur for every scan: unusable weights, a full disk.
    """
    written: list[Path] = []
    volumes: list[ClassVolume] = []
    try:
        for scan in scans:
            target = segmentation_path(scan, out, written, ending)
            try:
                rows = _segment(project, run, scan, target, job, work, refuse, modality)
            except UserError as error:
                if error.code in (*FATAL, *WEIGHTS_ERRORS):
                    raise
                refuse(scan.path, error)
                continue
            written.append(target)
            name = target.name.removesuffix(f"_segmentation{ending}")
            volumes += [replace(row, scan=name) for row in rows]
    finally:  # also after Ctrl-C, for the finished scans
        if out is not None and written:
            write_table(out / TABLE, volumes)
    return written


def _segment(
    project: Project,
    run: Run,
    found: FoundScan,
    target: Path,
    job: PredictJob,
    work: Work,
    refuse: Refusals,
    modality: str,
) -> list[ClassVolume]:
    """Segment one scan in a temporary folder, removed afterwards: many scans would fill a small disk."""
    with tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        temporary = Project.create(Path(scratch) / "project", classes=project.classes)
        trained_on = run.card.get("training_data", {}).get("modalities", [])
        usual = trained_on[0] if len(trained_on) == 1 else usual_modality(project.scans.values())
        scan = temporary.add_scan(found.path, modality=modality, usual=usual, refuse_masks=not found.given)
        refuse.remark(found.path, scan)
        if target.suffix == DICOM_SEG:
            need_dicom(scan)
        folder = temporary.root / "runs" / run.id
        folder.mkdir(parents=True)
        for name in RUN_FILES:
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, folder / name)
        work(replace(job, project=str(temporary.root), weights=run.id, scans=(scan.id,)))
        return export_scan(temporary, scan.id, run.id, target)


def segmentation_path(
    scan: FoundScan, out: Path | None, taken: Sequence[Path], ending: str = ".nii.gz"
) -> Path:
    """Choose the path for the segmentation of a scan.

    It never overwrites the scan or a file that is not an earlier export: a number is appended then.

    Args:
        scan: the scan.
        out: output folder; None is the scan's folder.
        taken: paths already used for other scans.
        ending: file ending such as ".nii.gz".
    """
    folder, name = (scan.path.parent, scan.stem) if out is None else (out, scan.name)
    names = itertools.chain([name], (f"{name}_{index}" for index in itertools.count(2)))
    candidates = (folder / f"{each}_segmentation{ending}" for each in names)
    return next(path for path in candidates if path not in taken and may_write(path))
