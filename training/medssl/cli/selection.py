"""Which run, which scans: what somebody writes on the command line, as the things themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.cli.options import LAST
from medssl.core.errors import UserError
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import SHAPES


def choose_run(project: Project, wanted: str, kinds: Sequence[str], *, to_start_from: bool = False) -> Run:
    """The run of an id ("0002-finetune"), of a number ("2") or, for "last", the newest of these kinds.

    "shapes" is the program's own pre-training.

    Only runs with a checkpoint count as "last", and `to_start_from` only those that have not collapsed.

    Raises UserError ("no-run", "collapsed" where all have, or what Project.run refuses).
    """
    if wanted == SHAPES and "pretrain" in kinds:
        return project.run(SHAPES)
    runs = [run for run in project.runs() if run.kind in kinds]
    if wanted == LAST:
        saved = [run for run in runs if run.checkpoint.exists()]
        usable = [run for run in saved if not (to_start_from and run.collapsed)]
        if saved and not usable:
            refuse_collapsed(saved[-1])
        if not usable:
            raise UserError(
                f"{project.root} has no {' or '.join(kinds)} run with a checkpoint yet; "
                f"start one with medssl {kinds[0]} {project.root}.",
                code="no-run",
            )
        return usable[-1]
    if wanted.isdecimal():
        for run in runs:
            if run.id.startswith(f"{int(wanted):04d}-"):
                return run
    chosen = project.run(wanted)
    if chosen.kind not in kinds:
        raise UserError(
            f"Run {chosen.id} is a {chosen.kind} run; a {' or '.join(kinds)} run is needed here.",
            code="no-run",
        )
    return chosen


def split_scans(project: Project, wanted: Sequence[str]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Arguments as (ids of the project's scans, paths of files and folders outside it).

    Raises UserError ("missing") for what is neither.
    """
    inside = tuple(argument for argument in wanted if argument in project.scans)
    outside = tuple(Path(argument) for argument in wanted if argument not in project.scans)
    for path in outside:
        if not path.exists():
            raise UserError(
                f"{path} is neither a scan of {project.root} nor a file or folder; check the name "
                f"(its scans are {_some(list(project.scans))}).",
                code="missing",
            )
    return inside, outside


def scan_in(project: Project, wanted: str) -> str:
    """The id of one scan of the project. Raises UserError ("missing")."""
    if wanted not in project.scans:
        raise UserError(
            f"{project.root} has no scan {wanted}; its scans are {_some(list(project.scans))}.",
            code="missing",
        )
    return wanted


def _some(names: Sequence[str], count: int = 5) -> str:
    if not names:
        return "none so far, add some with medssl init"
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
