"""Resolves arguments of the command line to runs and scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from medssl.cli.options import LAST
from medssl.cli.terminal import console, warn
from medssl.core.errors import UserError
from medssl.core.events import ran_to_completion
from medssl.core.jobs import TRAININGS
from medssl.core.project.damage import damaged_runs
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import SHAPES


def choose_run(project: Project, name: str, kinds: Sequence[str], action: str = "Using") -> Run:
    """Find the run that an argument names; what "last" stands for is printed.

    Args:
        project: project with the runs.
        name: id ("0002-finetune"), number ("2"), "shapes" (the shipped weights), or "last": the newest run
            of these kinds with a checkpoint that has not collapsed.
        kinds: accepted kinds, "pretrain" and "finetune".
        action: first word of the printed line.

    Raises:
        UserError: "no-run", "collapsed" if all candidates have collapsed, or an error of Project.run.
    """
    wanted = " or ".join(TRAININGS[kind] for kind in kinds)
    if name == SHAPES and "pretrain" in kinds:
        return project.run(SHAPES)
    runs = [run for run in project.runs() if run.kind in kinds]
    if name == LAST:
        for error in damaged_runs(project):
            warn(console(), str(error))
        saved = [run for run in runs if run.checkpoint.exists()]
        usable = [run for run in saved if not run.collapsed]
        if saved and not usable:
            refuse_collapsed(saved[-1])
        if not usable:
            raise UserError(
                f"{project.root} has no {wanted} run with a checkpoint yet; "
                f"start one with medssl {kinds[0]} {project.root}"
                f"{', or take --weights shapes' if 'pretrain' in kinds else ''}.",
                code="no-run",
            )
        passed_over = [
            f"{run.id} ({'collapsed' if run in saved else 'no checkpoint'})"
            for run in runs[runs.index(usable[-1]) + 1 :]
        ]
        rest = f"; passed over {', '.join(passed_over)}" if passed_over else ""
        typer.echo(f"{action} {usable[-1].id}, the last {wanted} run with weights{rest}.", err=True)
        return usable[-1]
    chosen = project.run(_full_id(project, name))
    if chosen.kind not in kinds:
        raise UserError(
            f"{chosen.id} is a {TRAININGS.get(chosen.kind, chosen.kind)} run; give a {wanted} run.",
            code="no-run",
        )
    return chosen


def choose_resumable(project: Project, name: str, kind: str, minutes: float | None, steps: int | None) -> Run:
    """Find the run that --resume names, if there is something left to do.

    Args:
        project: project with the runs.
        name: as in `choose_run`.
        kind: "pretrain" or "finetune".
        minutes: new total of minutes; None keeps the run's.
        steps: new total of steps; None keeps the run's.

    Raises:
        UserError: "finished" if the run has ended and its total is spent, or an error of `choose_run`.
    """
    run = choose_run(project, name, (kind,), "Resuming")
    totals = {
        "--steps": (run.card.get("step", 0), steps or run.job.get("steps")),
        "--minutes": (run.card.get("elapsed_s", 0) / 60, minutes or run.job.get("minutes")),
    }
    spent = [(option, done) for option, (done, total) in totals.items() if total and done >= total]
    if spent and ran_to_completion(run.folder / "events.jsonl"):
        option, done = spent[0]
        raise UserError(
            f"{run.id} has finished after {round(done, 1):g} {option[2:]}; give a larger {option} to train "
            "on, or leave out --resume to start a new run.",
            code="finished",
        )
    return run


def _full_id(project: Project, name: str) -> str:
    """The id of the run whose number is given."""
    folders = (project.root / "runs").glob(f"{int(name):04d}-*") if name.isdecimal() else ()
    return next((folder.name for folder in sorted(folders)), name)


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
