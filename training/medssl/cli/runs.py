"""The command medssl runs: list, delete, take back and add trainings of a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import ProjectArgument

if TYPE_CHECKING:
    from medssl.core.project.project import Project


def runs(
    project: ProjectArgument,
    delete: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            help="Delete a run, e.g. 0002 or 0002-finetune-from-shapes: its weights, predictions and "
            "features; may be repeated.",
        ),
    ] = None,
    release: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            help="No longer wait for the computer that a run was sent to with --on, because it stays away: "
            "the run can be resumed here from the weights that have come back, or deleted; may be repeated.",
        ),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="WEIGHTS",
            show_default=False,
            help="Add weights of another project as a run of this one: the folder of that run, or its "
            "checkpoint.safetensors; may be repeated.",
        ),
    ] = None,
) -> None:
    """List the trainings of a project, how far they came and what they weigh on the disk.

    --delete removes some, --release takes back those of a host that stays away, --add brings weights of
    other projects. Classes of added networks are those of the project with the same names; those that it
    lacks are added to it.
    """
    from medssl.cli.refusals import Refusals
    from medssl.cli.selection import run_in
    from medssl.cli.terminal import console
    from medssl.core.project.imported_weights import add_weights
    from medssl.core.project.project import Project
    from medssl.core.project.removal import delete_run, release_run
    from medssl.core.project.runs import number_of

    opened, screen = Project.open(project), console()
    for run in [run_in(opened, name) for name in release or []]:
        release_run(opened, run.id)
        screen.print(f"Released {run.id}.", soft_wrap=True)
    chosen = {run.id: run for run in (run_in(opened, name) for name in delete or [])}
    for run in sorted(chosen.values(), key=number_of, reverse=True):  # one may have begun from another
        delete_run(opened, run.id)
        screen.print(f"Deleted {run.id} with its weights, predictions and features.", soft_wrap=True)
    refusals = Refusals()

    def add_named(path: Path) -> str:
        run = add_weights(opened, path)
        names = ", ".join(item["name"] for item in run.card.get("classes", []))
        screen.print(f"Added {run.id}{f' ({names})' if names else ''}.", soft_wrap=True)
        return run.id

    refusals.resolve(add or [], add_named)
    _print_table(opened)
    refusals.end()


def _print_table(project: Project) -> None:
    from medssl.cli.terminal import console, duration, plain_table, warn
    from medssl.core.project.damage import damaged_runs
    from medssl.core.project.disk_usage import disk_usage, size_text
    from medssl.core.project.run_state import run_state

    usage, screen = disk_usage(project), console(stderr=False)
    numbers = ("steps", "time", "predictions", "on disk")
    table = plain_table("run", "steps", "time", "state", "predictions", "on disk", right=numbers)
    for run in project.runs():
        state = run_state(project, run)
        table.add_row(
            run.id,
            str(state.steps or ""),
            duration(state.seconds) if state.seconds else "",
            state.text,
            str(state.predictions or ""),
            size_text(usage.runs[run.id]),
        )
    screen.print(table)
    for error in damaged_runs(project):
        warn(console(), str(error))
    screen.print(f"{project.root}: {size_text(usage.total)} on the disk.", soft_wrap=True)
