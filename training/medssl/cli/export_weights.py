"""The command medssl export-weights: a network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.options import LAST, ProjectArgument, WeightsOption


def export_weights(
    project: ProjectArgument,
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            show_default=False,
            help="File to write, e.g. liver.onnx; without that ending the folder of a MONAI bundle, e.g. "
            "liver-bundle.",
        ),
    ] = ...,  # type: ignore[assignment]  # marks a required option in typer
    weights: WeightsOption = LAST,
) -> None:
    """Write a fine-tuned network for other programs: as ONNX, or as a MONAI bundle.

    A bundle segments scans as medssl does, with MONAI and without medssl. An ONNX file holds the network
    alone; what else one has to know to run it is in its metadata. Both are compared with the network here,
    and hold no names of scans, no paths and no dates.
    """
    from medssl.cli.export import work
    from medssl.cli.selection import choose_run
    from medssl.core.export.portable import check_portable
    from medssl.core.jobs import ExportWeightsJob
    from medssl.core.project.project import Project

    opened = Project.open(project)
    run = choose_run(opened, weights, ("finetune",))
    check_portable(out)  # before torch is loaded
    typer.echo(work(ExportWeightsJob(str(project), weights=run.id, path=str(out)))["path"])
