"""Resolves arguments of the command line to runs and scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.cli.options import LAST
from medssl.core.errors import UserError
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import SHAPES


def choose_run(project: Project, name: str, kinds: Sequence[str], *, to_start_from: bool = False) -> Run:
    """Find the run that an argument names.

    Args:
        project: project with the runs.
        name: id ("0002-finetune"), number ("2"), "shapes" (the shipped weights), or "last": the newest run
            of these kinds with a checkpoint.
        kinds: accepted kinds, "pretrain" and "finetune".
        to_start_from: the run initialises a training, so "last" skips collapsed runs.

    Raises:
        UserError: "no-run", "collapsed" if all candidates have collapsed, or an error of Project.run.
    """
    if name == SHAPES and "pretrain" in kinds:
        return project.run(SHAPES)
    runs = [run for run in project.runs() if run.kind in kinds]
    if name == LAST:
        saved = [run for run in runs if run.checkpoint.exists()]
        usable = [run for run in saved if not (to_start_from and run.collapsed)]
        if saved and not usable:
            refuse_collapsed(saved[-1])
        if not usable:
            raise UserError(
                f"{project.root} has no {' or '.join(kinds)} run with a checkpoint yet; "
                f"start one with medssl {kinds[0]} {project.root}"
                f"{', or take --weights shapes' if 'pretrain' in kinds else ''}.",
                code="no-run",
            )
        return usable[-1]
    if name.isdecimal():
        for run in runs:
            if run.id.startswith(f"{int(name):04d}-"):
                return run
    chosen = project.run(name)
    if chosen.kind not in kinds:
        raise UserError(
            f"Run {chosen.id} is a {chosen.kind} run; give a {' or '.join(kinds)} run.",
            code="no-run",
        )
    return chosen


def split_scans(project: Project, arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Split arguments into scans of the project and paths outside it.

    Returns:
        (scan ids, paths of files and folders).

    Raises:
        UserError: "missing" if an argument is neither.
    """
    inside = tuple(argument for argument in arguments if argument in project.scans)
    outside = tuple(Path(argument) for argument in arguments if argument not in project.scans)
    for path in outside:
        if not path.exists():
            raise UserError(
                f"{path} is neither a scan of {project.root} nor a file or folder; check the name "
                f"(scans of the project: {_some(list(project.scans))}).",
                code="missing",
            )
    return inside, outside


def scan_in(project: Project, scan_id: str) -> str:
    """Check that the project has a scan, and return its id.

    Raises:
        UserError: "missing".
    """
    if scan_id not in project.scans:
        raise UserError(
            f"{project.root} has no scan {scan_id}; its scans: {_some(list(project.scans))}.",
            code="missing",
        )
    return scan_id


def _some(names: Sequence[str], count: int = 5) -> str:
    if not names:
        return "none; add some with medssl init"
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
