"""Damaged files of a project: each blocks its own scan or run, and whoever passes it over names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from medssl.core.errors import UserError
from medssl.core.project.annotation import DAMAGED, is_annotated
from medssl.core.project.project import Project
from medssl.core.project.runs import Run, read_runs


def damaged_images(project: Project, scans: Sequence[str] = ()) -> dict[str, UserError]:
    """{scan id: why its image cannot be read or made again}, of these scans; none means all."""
    return _errors(scans or list(project.scans), project.image)


def damaged_annotations(project: Project, held_out: bool = False) -> dict[str, UserError]:
    """{scan id: why its annotation cannot be read}; with `held_out` also of scans held out."""

    def read(scan_id: str) -> object:
        return is_annotated(project.annotation_file(scan_id), project.scans[scan_id].geometry.shape_zyx)

    return _errors([scan.id for scan in project.scans.values() if held_out or not scan.held_out], read)


def damaged_runs(project: Project) -> list[UserError]:
    """Why job files of runs cannot be read; folders of other names are no runs."""
    runs = read_runs(project.root / "runs")
    return [run for run in runs if not isinstance(run, Run) and run.code != "no-run"]


def readable_scans(project: Project, notify: Callable[[str], None]) -> list[str]:
    """Ids of the scans whose annotation can be read.

    Args:
        notify: Receives a sentence about every annotation and every run that cannot.
    """
    damaged = damaged_annotations(project, held_out=True)
    for error in (*damaged.values(), *damaged_runs(project)):
        notify(str(error))
    return [scan_id for scan_id in project.scans if scan_id not in damaged]


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
