"""Here: what a job needs on another computer, and nothing that says more of patients than that.

Scans go as normalised images under their ids, with classes, geometry and annotations. Their files, names,
references, notes and the path of the project stay here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from medssl.core import jobs
from medssl.core.files import cached_sha256, read_bytes
from medssl.core.jobs import Job, PredictJob, PretrainJob, TrainingJob
from medssl.core.methods import needs_scans
from medssl.core.project.contents import Contents, Scan, to_json
from medssl.core.project.manifest import FILE
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import CHECKPOINT
from medssl.core.shipped import RANDOM, SHAPES
from medssl.remote.store import sha256_of_bytes

OF_WEIGHTS = ("card.json", CHECKPOINT)
OF_RESUMED = (*OF_WEIGHTS, "events.jsonl")
"""Files of a run that its training needs to go on."""


@dataclass(frozen=True)
class OutgoingFile:
    """A file of the reduced project.

    Attributes:
        name: Its name in the project.
        content: Its bytes, or where they are.
    """

    name: str
    sha256: str
    size: int
    content: bytes | Path

    def read(self, offset: int, size: int) -> Iterator[bytes]:
        """Its bytes from an offset on, in pieces of a size: at least one, which is empty at the end."""
        with BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb") as file:
            file.seek(offset)
            yield file.read(size)
            while piece := file.read(size):
                yield piece


@dataclass(frozen=True)
class Outgoing:
    """A job as it goes to another computer.

    Attributes:
        job: The job without the project's path, as `jobs.to_json` makes it.
        files: The files of the reduced project.
    """

    job: dict[str, Any]
    files: tuple[OutgoingFile, ...]


def outgoing(project: Project, job: Job, run: Run | None, damaged: Iterable[str] = ()) -> Outgoing:
    """What a job needs there.

    Args:
        project: The project with its usable scans.
        job: A training, whose run has been made, or a prediction.
        run: The run of a training, which is resumed there.
        damaged: Ids of scans whose annotations are left out.

    Raises:
        UserError: "not-readable", "unreadable".
    """
    scans = _scans(project, job)
    files = [_of_bytes(FILE, _as_json(to_json(Contents(project.classes, tuple(map(_reduced, scans))))))]
    for scan in scans:
        files += _images(project, scan)
    if isinstance(job, TrainingJob):
        annotated = (scan for scan in scans if not scan.held_out and scan.id not in damaged)
        paths = (project.annotation_file(scan.id) for scan in annotated)
        files += [_of_bytes(f"annotations/{path.name}", read_bytes(path)) for path in paths if path.exists()]
    if run is not None:
        files += _of_run(run, OF_RESUMED)
    weights = getattr(job, "weights", None)
    if weights not in (None, "", RANDOM, SHAPES):
        files += _of_run(project.run(weights), OF_WEIGHTS)
    if isinstance(job, PredictJob):
        job = replace(job, scans=tuple(scan.id for scan in scans), only_missing=False)
    if run is not None and isinstance(job, TrainingJob):
        job = replace(job, resume=run.id)
    return Outgoing(_without_path(jobs.to_json(job)), tuple(files))


def _scans(project: Project, job: Job) -> list[Scan]:
    """The scans that a job looks at."""
    if isinstance(job, PredictJob):
        asked = job.scans or tuple(project.scans)
        if job.only_missing:
            asked = tuple(scan for scan in asked if project.expected_dice(job.weights, scan) is None)
        return [project.scan(scan) for scan in asked]
    if isinstance(job, PretrainJob) and not needs_scans(job.method):
        return []
    predicted = getattr(job, "predict_scans", ())
    return [scan for scan in project.scans.values() if not scan.held_out or scan.id in predicted]


def _reduced(scan: Scan) -> Scan:
    """A scan without its origin; an error that would name its source names the id."""
    channels = tuple(replace(channel, source=scan.id, notes=()) for channel in scan.channels)
    return replace(scan, source=scan.id, reference="", notes=(), name="", channels=channels)


def _images(project: Project, scan: Scan) -> Iterator[OutgoingFile]:
    for number, part in enumerate(scan.parts):
        path = project.image_file(scan.id, part.channel if number else "")
        sha256 = part.image_sha256 or cached_sha256(path)
        yield OutgoingFile(f"scans/{path.name}", sha256, path.stat().st_size, path)


def _of_run(run: Run, names: Iterable[str]) -> Iterator[OutgoingFile]:
    """Files of a run: its job, and those of some others that exist."""
    yield _of_bytes(f"runs/{run.id}/job.json", _as_json(_without_path(run.job)))
    for name in names:
        path = run.folder / name
        if not path.exists():
            continue
        if name == CHECKPOINT:
            yield OutgoingFile(f"runs/{run.id}/{name}", cached_sha256(path), path.stat().st_size, path)
        else:
            yield _of_bytes(f"runs/{run.id}/{name}", read_bytes(path))


def _without_path(job: dict[str, Any]) -> dict[str, Any]:
    return {**job, "project": "."}


def _of_bytes(name: str, content: bytes) -> OutgoingFile:
    return OutgoingFile(name, sha256_of_bytes(content), len(content), content)


def _as_json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
