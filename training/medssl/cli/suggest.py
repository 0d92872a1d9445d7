"""medssl suggest: which slices to paint next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.options import DeviceOption, ProjectArgument, SeedOption


def suggest(
    project: ProjectArgument,
    count: Annotated[int, typer.Option(min=1, help="How many slices.")] = 10,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            help="Run that looks at the scans. Without it the newest fine-tuning, else the newest "
            "pre-training; where there is none yet, the slices are compared by their grey values.",
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Write the list here, too.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Say which slices are worth painting next, and why.

    Complete slices, empty ones and scans that are held out are never suggested.
    """
    from rich.console import Console
    from rich.table import Table

    from medssl.cli.selection import choose_run
    from medssl.cli.terminal import console, run_job, stop_on_interrupt
    from medssl.core.files import write_json
    from medssl.core.io.geometry import AXIS_NAMES
    from medssl.core.jobs import SuggestJob
    from medssl.core.project.project import Project

    run = choose_run(Project.open(project), weights, ("finetune", "pretrain")).id if weights else None
    job = SuggestJob(project=str(project), seed=seed, device=device, count=count, weights=run)
    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        result = run_job(job, screen, should_stop)
    if result["stopped"]:
        screen.print("Stopped; these are the best of the scans that were looked at.")
    if json is not None:
        write_json(json, result["suggestions"])
    table = Table("scan", "slice", "why")
    for each in result["suggestions"]:
        table.add_row(each["scan"], f"{AXIS_NAMES[each['axis']]} {each['index']}", each["reason"])
    Console().print(table)
