"""The command line `medssl COMMAND`. Each module defines a group of commands.

Commands import torch, MONAI and numpy only when they run, so that `medssl --help` is fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

from medssl import __version__
from medssl.cli import demo, export, inference, methods, setup, suggest, training

app = typer.Typer(
    name="medssl",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, TRAIN, USE, PROGRAMS = "Get started", "Train", "Use trained weights", "Scripting and diagnostics"

app.command(rich_help_panel=START)(demo.demo)
app.command(rich_help_panel=START)(setup.init)
app.command(rich_help_panel=TRAIN, cls=methods.WithRecipes)(training.pretrain)
app.command(rich_help_panel=TRAIN)(training.finetune)
app.command(rich_help_panel=TRAIN)(methods.methods)
app.command(rich_help_panel=USE)(inference.predict)
app.command(rich_help_panel=USE)(export.export)
app.command(rich_help_panel=USE)(inference.features)
app.command(rich_help_panel=USE)(inference.similarity)
app.command(rich_help_panel=USE)(inference.evaluate)
app.command(rich_help_panel=USE)(suggest.suggest)
app.command(rich_help_panel=PROGRAMS)(setup.run)
app.command(rich_help_panel=PROGRAMS)(setup.doctor)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"medssl {__version__}")
        raise typer.Exit


@app.callback()
def medssl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Pre-train on your own CT or MR scans, annotate a few slices, segment the rest.

    A project folder holds the list of scans, the annotations, the training runs and the predictions:

    [bold]medssl init[/] liver scans/ --classes liver   create the project
    [bold]napari[/]                                     annotate a few slices
    [bold]medssl finetune[/] liver                      learn from the annotated slices
    [bold]medssl predict[/] liver new_scan.nii.gz       segment a scan
    [bold]medssl pretrain[/] liver                      optional: learn from all scans

    [bold]medssl demo[/] runs all of these steps on synthetic scans. Research software, not a medical device.
    """
