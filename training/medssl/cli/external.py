"""Segmenting files that belong to no project: through a project that lives only as long as it takes."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from medssl.core.export.provenance import record_path
from medssl.core.io.volume import READABLE, find_scans
from medssl.core.jobs import Job, PredictJob
from medssl.core.project.project import Project, Run

RUN_FILES = ("job.json", "card.json", "checkpoint.safetensors")
OF_THE_WEIGHTS = ("no-checkpoint", "foreign-checkpoint", "newer-version", "not-finetuned")
"""What every scan would meet."""
Work = Callable[[Job], dict[str, Any]]


def predict_outside(
    project: Project,
    run: Run,
    scans: Sequence[Path],
    out: Path | None,
    ending: str,
    job: PredictJob,
    work: Work,
    refuse: Callable[[Path, UserError], None],
) -> list[Path]:
    """Segment scan files with a run of `project`, one after the other; returns what was written.

    The project itself is not touched. Each segmentation lies on its scan's grid and is called like the
    scan with "_segmentation", next to it or in `out`, which gets a table of volumes, too. `job` says seed
    and device. `refuse` hears of each scan that cannot be used; the others go on.

    Raises UserError for what all scans would meet: weights that cannot be used, a full disk.
    """
    written: list[Path] = []
    volumes: list[ClassVolume] = []
    try:
        for path in scans:
            target = segmentation_path(path, out, written, ending)
            try:
                rows = _segment(project, run, path, target, job, work)
            except UserError as error:
                if error.code in (*FATAL, *OF_THE_WEIGHTS):
                    raise
                refuse(path, error)
                continue
            written.append(target)
            name = target.name.removesuffix(f"_segmentation{ending}")
            volumes += [replace(row, scan=name) for row in rows]
    finally:  # Ctrl-C leaves a table of what is there
        if out is not None and written:
            write_table(out / TABLE, volumes)
    return written


def _segment(
    project: Project, run: Run, path: Path, target: Path, job: PredictJob, work: Work
) -> list[ClassVolume]:
    """One scan, in a folder that is gone afterwards: a hundred scans would fill a small disk."""
    with tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        visitor = Project.create(Path(scratch) / "project", classes=project.classes)
        scan = visitor.add_scan(path)
        if target.suffix == DICOM_SEG:
            need_dicom(scan)
        folder = visitor.root / "runs" / run.id
        folder.mkdir(parents=True)
        for name in RUN_FILES:
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, folder / name)
        work(replace(job, project=str(visitor.root), weights=run.id, scans=(scan.id,)))
        return export_scan(visitor, scan.id, run.id, target)


def scans_outside(paths: Sequence[Path]) -> list[Path]:
    """The scans under files and folders, without the segmentations that were written beside them.

    Raises UserError ("missing", "no-scans").
    """
    given = set(paths)
    found = [path for path in find_scans(paths) if path in given or not record_path(path).exists()]
    if not found:
        raise UserError(f"{paths[0]} holds segmentations only; give a folder with scans.", code="no-scans")
    return found


def segmentation_path(scan: Path, out: Path | None, taken: Sequence[Path], ending: str = ".nii.gz") -> Path:
    """Where the segmentation of a scan goes: next to it or in `out`, never onto the scan itself or onto a
    file that is no earlier export.

    Two scans of one name from different folders get their folder's name in front, then numbers.
    """
    folder = scan.parent if out is None else out
    stem = _stem(scan)
    numbers = (f"{stem}_{index}" for index in itertools.count(2))
    names = itertools.chain([stem, f"{scan.resolve().parent.name}_{stem}"], numbers)
    candidates = (folder / f"{name}_segmentation{ending}" for name in names)
    return next(path for path in candidates if path not in taken and may_write(path))


def _stem(path: Path) -> str:
    """The name without .nii.gz and the like; only known endings go, a DICOM folder's name may hold dots."""
    for suffix in sorted(READABLE, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name
