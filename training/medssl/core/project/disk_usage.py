"""Which scan and which run the files of a project belong to, and what they weigh on the disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medssl.core.files import cannot_read
from medssl.core.project.project import Project
from medssl.core.shipped import SHAPES


@dataclass(frozen=True)
class ProjectFile:
    """A file of a project.

    Attributes:
        path: Where it is.
        disk_bytes: Space that it takes on the disk; holes take none.
        scan: Id of the scan that it belongs to; empty for none.
        run: Id of the run that it belongs to; empty for none.
    """

    path: Path
    disk_bytes: int
    scan: str
    run: str


@dataclass(frozen=True)
class DiskUsage:
    """Bytes on the disk. What a run has computed for a scan goes with either, so it counts in both.

    Attributes:
        total: Of the project folder.
        scans: {scan id: what goes when the scan is removed}.
        runs: {run id: what goes when the run is deleted}.
    """

    total: int
    scans: dict[str, int]
    runs: dict[str, int]


def disk_usage(project: Project) -> DiskUsage:
    """What a project weighs on the disk; looks at each of its files.

    Raises:
        UserError: "not-readable".
    """
    total = 0
    scans: Counter[str] = Counter(dict.fromkeys(project.scans, 0))
    runs: Counter[str] = Counter(dict.fromkeys((run.id for run in project.runs()), 0))
    for file in files_of(project):
        total += file.disk_bytes
        if file.scan in scans:
            scans[file.scan] += file.disk_bytes
        if file.run in runs:
            runs[file.run] += file.disk_bytes
    return DiskUsage(total, dict(scans), dict(runs))


def files_of(project: Project) -> Iterator[ProjectFile]:
    """All files in the folder of a project; those that vanish meanwhile are left out.

    Raises:
        UserError: "not-readable".
    """
    folder = project.root / "runs"
    runs = [SHAPES, *(path.name for path in folder.glob("*"))]

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise cannot_read(project.root, error) from error

    for parent, _, names in os.walk(project.root, onerror=fail):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            scan, run = _owners(path.relative_to(project.root).parts, runs)
            yield ProjectFile(path, _on_disk(status), scan, run)


def size_text(size: float) -> str:
    """A number of bytes for people: "640 kB", "1.2 GB"."""
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "kB" else f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def _owners(parts: tuple[str, ...], runs: list[str]) -> tuple[str, str]:
    """Ids of scan and run to which a file belongs, from its path in the project; empty for none."""
    folder, name = parts[0], parts[-1]
    stem = name.partition(".")[0]  # ids of scans have no dots
    match parts[1:-1]:
        case () if folder in ("scans", "annotations", "thumbnails"):
            return stem, ""
        case () if folder == "features":
            stem = name.removesuffix(".npy").removesuffix(".json")
            ends = (run for run in runs if stem.endswith(f"-{run}"))
            run = max(ends, key=len, default="")  # 0002-finetune-from-shapes, not shapes
            return (stem.removesuffix(f"-{run}"), run) if run else ("", "")
        case (run, "predictions") if folder == "runs":
            return stem, run
        case (run, "colors") if folder == "runs":
            return stem.rpartition("-")[0], run
        case (run, *_) if folder == "runs":
            return "", run
    return "", ""


def _on_disk(status: os.stat_result) -> int:
    """Bytes that a file takes: what the system says, else its length (Windows)."""
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else 512 * blocks
