"""The command line `medssl COMMAND`. Each module defines a group of commands.

Commands import torch, MONAI and numpy only when they run, so that `medssl --help` is fast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from medssl import __version__
from medssl.cli import (
    classes,
    demo,
    dicomweb,
    export,
    export_weights,
    hosts,
    inference,
    methods,
    review,
    runs,
    scans,
    serve,
    setup,
    suggest,
    training,
    view,
)
from medssl.cli.command import Command

app = typer.Typer(
    name="medssl",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, TRAIN, USE, PROGRAMS = "Get started", "Train", "Use trained weights", "Scripting and diagnostics"


def _add(command: Callable[..., None], panel: str, **options: Any) -> None:
    """Register a command; its docstring is wrapped where the terminal ends, not where its source does."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.splitlines()) for paragraph in paragraphs)
    app.command(help=text, rich_help_panel=panel, **{"cls": Command, **options})(command)


_add(view.view, START)
_add(demo.demo, START)
_add(setup.init, START)
_add(dicomweb.fetch, START)
_add(scans.scans, START)
_add(classes.classes, START)
_add(training.pretrain, TRAIN, cls=methods.WithRecipes)
_add(training.finetune, TRAIN)
_add(runs.runs, TRAIN)
_add(methods.methods, TRAIN)
_add(inference.predict, USE)
_add(review.review, USE)
_add(export.export, USE)
_add(export_weights.export_weights, USE)
_add(dicomweb.send, USE)
_add(inference.features, USE)
_add(inference.similarity, USE)
_add(inference.evaluate, USE)
_add(suggest.suggest, USE)
_add(serve.serve, USE)
_add(hosts.hosts, PROGRAMS)
_add(setup.run, PROGRAMS)
_add(hosts.agent, PROGRAMS, hidden=True)
_add(setup.doctor, PROGRAMS)


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
    [bold]medssl view[/] liver                          annotate a few slices
    [bold]medssl finetune[/] liver                      learn from the annotated slices
    [bold]medssl predict[/] liver new_scan.nii.gz       segment a scan
    [bold]medssl pretrain[/] liver                      optional: learn from all scans

    [bold]medssl demo[/] runs all of these steps on synthetic scans. Research software, not a medical device.
    """
