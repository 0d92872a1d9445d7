"""Arguments and options that several commands share, each with the words of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.core.errors import UserError

LAST = "last"
"""Stands for the newest run."""

ProjectArgument = Annotated[
    Path, typer.Argument(metavar="PROJECT", show_default=False, help="Project folder (see medssl init).")
]
OptionalProjectArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[PROJECT]", show_default=False, help="Project folder (see medssl init)."),
]
SeedOption = Annotated[
    int, typer.Option(help="Number that all random choices follow from; the same seed repeats a run.")
]
DeviceOption = Annotated[
    str, typer.Option(help="auto (the GPU where there is one), cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
]
MinutesOption = Annotated[
    float | None,
    typer.Option(min=0.0, show_default=False, help="Train for so many minutes (5, unless --steps is given)."),
]
StepsOption = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Train for so many steps instead of a time."),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        show_default=False,
        help='Go on with a stopped or killed run from its last checkpoint; "last" is the newest. '
        "Its settings stay; --minutes or --steps give it a new total.",
    ),
]
RecipeOption = Annotated[str, typer.Option(help="Recipe that the settings come from.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        show_default=False,
        help="Override one setting of the recipe, e.g. --set learning_rate=0.001. May be repeated.",
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(metavar="RUN", help='Run whose weights are used, e.g. 0001-finetune; "last" is the newest.'),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="ENDING",
        help="nii.gz, nii, nrrd, mha, or dcm for DICOM-SEG, which refers to the images of the scan's own "
        "DICOM series.",
    ),
]


def settings_from(pairs: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs as settings; values are read as JSON where they are JSON, else as text.

    Raises UserError ("bad-setting").
    """
    import json

    settings: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise UserError(f"--set {pair} has no value; write --set NAME=VALUE.", code="bad-setting")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings
