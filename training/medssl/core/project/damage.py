"""Damaged files of a project: each blocks its own scan or run, and whoever passes it over names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from medssl.core.errors import UserError
from medssl.core.project.annotation_file import DAMAGED, is_annotated
from medssl.core.project.project import Project
from medssl.core.project.runs import Run, read_runs


@dataclass(frozen=True)
class Survey:
    """What a project has, from one look at each of its annotations and job files.

    Attributes:
        annotated: Ids of scans with an annotated voxel or a complete slice, also of those held out.
        runs: Runs whose job can be read, oldest first.
        damaged: {scan id: why its annotation cannot be read}.
        damaged_runs: Why job files cannot be read.
    """

    annotated: frozenset[str]
    runs: tuple[Run, ...]
    damaged: dict[str, UserError]
    damaged_runs: tuple[UserError, ...]


def survey(project: Project, quick: bool = False) -> Survey:
    """Look at all annotations and job files of a project once.

    Args:
        project: The project.
        quick: Read no labels, see `is_annotated`.
    """
    annotated = set()

    def read(scan_id: str) -> None:
        if _is_annotated(project, scan_id, quick):
            annotated.add(scan_id)

    damaged = _errors(project.scans, read)
    runs, errors = _runs(project)
    return Survey(frozenset(annotated), runs, damaged, errors)


def damaged_images(project: Project, scans: Sequence[str] = ()) -> dict[str, UserError]:
    """{scan id: why an image of it cannot be read or made again}, of these scans; none means all."""

    def read(scan_id: str) -> None:
        for channel in project.scans[scan_id].channel_names:
            project.image(scan_id, channel)

    return _errors(scans or list(project.scans), read)


def damaged_annotations(project: Project) -> dict[str, UserError]:
    """{scan id: why its annotation cannot be read}, of scans that are not held out."""
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
    return _errors(scans, lambda scan_id: _is_annotated(project, scan_id))


def damaged_runs(project: Project) -> tuple[UserError, ...]:
    """Why job files of runs cannot be read; folders of other names are no runs."""
    return _runs(project)[1]


def _is_annotated(project: Project, scan_id: str, quick: bool = False) -> bool:
    scan = project.scans[scan_id]
    return is_annotated(project.annotation_file(scan_id), scan.geometry.shape_zyx, scan.sha256, quick)


def _runs(project: Project) -> tuple[tuple[Run, ...], tuple[UserError, ...]]:
    """Runs, and why those of damaged job files cannot be read."""
    entries = list(read_runs(project.root / "runs"))
    errors = (entry for entry in entries if isinstance(entry, UserError) and entry.code != "no-run")
    return tuple(entry for entry in entries if isinstance(entry, Run)), tuple(errors)


def _errors(scans: Iterable[str], read: Callable[[str], object]) -> dict[str, UserError]:
    errors = {}
    for scan_id in scans:
        try:
            read(scan_id)
        except UserError as error:
            if error.code not in DAMAGED:
                raise
            errors[scan_id] = error
    return errors
