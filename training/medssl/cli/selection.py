"""Resolves arguments of the command line to runs and scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from medssl.cli.options import LAST
from medssl.cli.terminal import console, warn
from medssl.core.errors import UserError
from medssl.core.events import ran_to_completion
from medssl.core.files import exists
from medssl.core.jobs import TRAININGS
from medssl.core.project.damage import damaged_runs
from medssl.core.project.project import Project, Run, Scan
from medssl.core.project.run_state import is_being_trained
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shell import command
from medssl.core.shipped import SHAPES

USING = "Using"


def choose_run(project: Project, name: str, kinds: Sequence[str], action: str = USING) -> Run:
    """Find the run that an argument names; what "last" stands for is printed.

    Args:
        project: project with the runs.
        name: id ("0002-finetune"), number ("2"), "shapes" (the shipped weights), or "last": the newest run
            of these kinds with a checkpoint that has not collapsed; to use its weights, and not to resume it,
            a run that is being trained is passed over where there is another one.
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
                f"start one with {command(kinds[0], project.root)}"
                f"{', or take --weights shapes' if 'pretrain' in kinds and action == USING else ''}.",
                code="no-run",
            )
        if action == USING:  # a checkpoint that changes makes predictions outdated while they are read
            usable = [run for run in usable if not is_being_trained(run)] or usable
        passed_over = [f"{run.id} ({_why_not(run)})" for run in runs[runs.index(usable[-1]) + 1 :]]
        rest = f"; passed over {', '.join(passed_over)}" if passed_over else ""
        typer.echo(f"{action} {usable[-1].id}, the last {wanted} run with weights{rest}.", err=True)
        return usable[-1]
    chosen = run_in(project, name)
    if chosen.kind not in kinds:
        raise UserError(
            f"{chosen.id} is a {TRAININGS.get(chosen.kind, chosen.kind)} run; give a {wanted} run.",
            code="no-run",
        )
    return chosen


def _why_not(run: Run) -> str:
    if not run.checkpoint.exists():
        return "no checkpoint"
    return "collapsed" if run.collapsed else "being trained"


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


def run_in(project: Project, name: str) -> Run:
    """The run with an id or a number.

    Raises:
        UserError: Those of `Project.run`.
    """
    folders = (project.root / "runs").glob(f"{name.lstrip('0'):0>4}-*") if name.isdecimal() else ()
    return project.run(next((folder.name for folder in sorted(folders)), name))


@dataclass(frozen=True)
class SplitScans:
    """Scans that arguments name.

    Attributes:
        inside: Ids of scans of the project.
        outside: Files and folders.
        missing: Arguments that are neither, one sentence each.
    """

    inside: tuple[str, ...]
    outside: tuple[Path, ...]
    missing: tuple[str, ...]


def split_scans(project: Project, arguments: Sequence[str]) -> SplitScans:
    """Split arguments into scans of the project and paths outside it.

    Raises:
        UserError: "missing" if all of them are neither.
    """
    scans = {argument: _find_scan(project, argument) for argument in arguments}
    others = [argument for argument, scan in scans.items() if scan is None]
    missing = tuple(
        f"{argument} is neither a scan of {project.root} nor a file or folder; check the name "
        f"(scans of the project: {_scans_of(project)})."
        for argument in others
        if not exists(Path(argument))
    )
    if missing and len(missing) == len(scans):
        raise UserError(missing[0], code="missing")
    outside = tuple(Path(argument) for argument in others if exists(Path(argument)))
    return SplitScans(tuple(scan.id for scan in scans.values() if scan), outside, missing)


def scan_in(project: Project, name: str) -> str:
    """The id of the scan with an id or a name.

    Raises:
        UserError: "missing".
    """
    scan = _find_scan(project, name)
    if scan is None:
        raise UserError(
            f"{project.root} has no scan {name}; its scans: {_scans_of(project)}.", code="missing"
        )
    return scan.id


def _find_scan(project: Project, name: str) -> Scan | None:
    try:
        return project.scan_named(name)
    except UserError:
        return None


def _scans_of(project: Project) -> str:
    return _some([scan.title for scan in project.scans.values()])


def _some(names: Sequence[str], count: int = 5) -> str:
    if not names:
        return "none; add some with medssl init"
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
