"""The command medssl suggest: which slices to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.options import DeviceOption, ProjectArgument, SeedOption


def suggest(
    project: ProjectArgument,
    count: Annotated[int, typer.Option(min=1, help="Number of slices.")] = 10,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            help="Run whose predictions or features rank the slices (default: the newest fine-tuning, else "
            "the newest pre-training, else intensities without a network).",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, show_default=False, help="Also write the list to this JSON file."
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Suggest the slices to annotate next, with the reason.

    Complete slices, empty slices and held-out scans are never suggested.
    """
    from rich.table import Table

    from medssl.cli.selection import choose_run
    from medssl.cli.terminal import console, run_job, stop_on_interrupt
    from medssl.core.files import check_writable
    from medssl.core.io.geometry import AXIS_NAMES
    from medssl.core.jobs import SuggestJob
    from medssl.core.json_files import write_json
    from medssl.core.project.project import Project

    opened = Project.open(project)
    run = choose_run(opened, weights, ("finetune", "pretrain")).id if weights else None
    if json is not None:
        check_writable(json)
    job = SuggestJob(project=str(project), seed=seed, device=device, count=count, weights=run)
    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        result = run_job(job, screen, should_stop)
    if result["stopped"]:
        screen.print("Stopped. The suggestions cover the scans that were processed.")
    if json is not None:
        write_json(json, result["suggestions"])
    table = Table("scan", "slice", "reason")
    for suggestion in result["suggestions"]:
        position = f"{AXIS_NAMES[suggestion['axis']]} {suggestion['index']}"
        table.add_row(opened.scans[suggestion["scan"]].title, position, suggestion["reason"])
    console(stderr=False).print(table)
