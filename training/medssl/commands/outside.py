"""Segmenting files that belong to no project: through a project that lives only as long as it takes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medssl.config import Job, PredictJob
from medssl.errors import UserError
from medssl.project import Project, Run
from medssl.volume import READABLE, find_scans

RUN_FILES = ("job.json", "card.json", "checkpoint.safetensors")


def predict_outside(
    project: Project,
    run: Run,
    paths: Sequence[Path],
    out: Path | None,
    seed: int,
    device: str,
    work: Callable[[Job], dict[str, Any]],
) -> list[Path]:
    """Segment the scans of these files and folders with a run of `project` and write them as NIfTI.

    The project itself is not touched. Each segmentation lies on its scan's grid and is called like the
    scan with "_segmentation", next to it or in `out`.

    Raises UserError for a scan that cannot be read, before anything is computed.
    """
    scans = find_scans(paths)
    if not scans:
        raise UserError(
            f"{paths[0]} holds no scan; give NIfTI, NRRD or MHA files or DICOM folders.", "missing"
        )
    with tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        visitor = Project.create(Path(scratch) / "project", classes=project.classes)
        folder = visitor.root / "runs" / run.id
        folder.mkdir(parents=True)
        for name in RUN_FILES:
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, folder / name)
        scan_ids = {path: visitor.add_scan(path).id for path in scans}
        work(
            PredictJob(
                project=str(visitor.root),
                seed=seed,
                device=device,
                weights=run.id,
                scans=tuple(dict.fromkeys(scan_ids.values())),
            )
        )
        written: list[Path] = []
        for path, scan_id in scan_ids.items():
            target = segmentation_path(path, out, written)
            visitor.export(scan_id, run.id, target)
            written.append(target)
    return written


def segmentation_path(scan: Path, out: Path | None, taken: Sequence[Path]) -> Path:
    """Where the segmentation of a scan goes: next to it or in `out`, never onto the scan itself.

    Two scans of one name from different folders get their folder's name in front, then numbers.
    """
    folder = scan.parent if out is None else out
    stem = _stem(scan)
    names = [stem, f"{scan.resolve().parent.name}_{stem}"]
    names += [f"{stem}_{index}" for index in range(2, len(taken) + 3)]
    candidates = (folder / f"{name}_segmentation.nii.gz" for name in names)
    return next(path for path in candidates if path not in taken)


def _stem(path: Path) -> str:
    """The name without .nii.gz and the like; only known endings go, a DICOM folder's name may hold dots."""
    for suffix in sorted(READABLE, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name
