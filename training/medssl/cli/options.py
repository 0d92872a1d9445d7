"""Arguments and options that several commands share, with their help texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.core.errors import UserError
from medssl.core.jobs import MAX_SEED

LAST = "last"
"""Selects the newest run that the command can use."""


def positive(value: float | None) -> float | None:
    """Callback of an option: refuses NaN and infinity, too, which `min` and `max` let through."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a number above 0.")
    return value


def not_negative(value: float) -> float:
    """Callback of an option: refuses NaN and infinity, too."""
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{value:g} is not 0 or a number above 0.")
    return value


ProjectArgument = Annotated[
    Path, typer.Argument(metavar="PROJECT", show_default=False, help="Project folder (see medssl init).")
]
OptionalProjectArgument = Annotated[
    Path | None,
    typer.Argument(metavar="PROJECT", show_default=False, help="Project folder (see medssl init)."),
]
SeedOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=MAX_SEED,
        metavar="SEED",
        help="Random seed. With --steps on a CPU, the same seed gives the same weights.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto (a GPU if available), cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
]
OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="HOST",
        show_default=False,
        help="Run on another computer: a host of your ssh configuration that has the same version of medssl "
        "(medssl hosts). If it is running or done there already, it is taken up.",
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        callback=positive,
        metavar="MINUTES",
        show_default=False,
        help="Training time in minutes (default: 5, unless --steps is given).",
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Number of training steps, instead of a training time."),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        show_default=False,
        help='Resume a stopped or crashed run from its checkpoint; "last" is the newest with a checkpoint. '
        "The run keeps its settings; --minutes or --steps set a new total.",
    ),
]
RecipeOption = Annotated[str, typer.Option(help="Recipe (named set of settings); medssl methods lists them.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        show_default=False,
        help="Override one setting of the recipe, e.g. --set learning_rate=0.001; may be repeated. "
        "medssl methods METHOD lists the settings.",
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        metavar="RUN",
        help='Run whose weights to use, e.g. 0002 or 0002-finetune-from-shapes; "last" is the newest that '
        "has weights.",
    ),
]
ModalityOption = Annotated[
    str,
    typer.Option(
        metavar="MODALITY",
        show_default=False,
        help="Modality of these scans: ct, mr, pt, us or other (default: what the files state, as in DICOM, "
        "else what the grey values of all scans suggest).",
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="File format: nii.gz, nii, nrrd, mha, or, for scans that were read from a DICOM series, dcm "
        "(DICOM-SEG) or labelmap.dcm (DICOM Label Map).",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are not earlier exports of these scans, too.")
]
WithNamesOption = Annotated[
    bool,
    typer.Option(
        "--with-names",
        help="Write paths and names of scans, which may be those of patients, into records and weights.",
    ),
]


def names_in(text: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


AUTO = "auto"
"""Value of a setting that the planner chooses."""


def settings_from(pairs: list[str] | None) -> dict[str, Any]:
    """Parse the values of --set.

    Args:
        pairs: strings "NAME=VALUE"; a VALUE that is not valid JSON is taken as text, and "auto" leaves the
            choice to the planner.

    Returns:
        {setting name: value}.

    Raises:
        UserError: "bad-setting" if a pair has no name or no value, or a number that is not finite.
    """
    import json

    settings: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise UserError(f"--set {pair} has no value; write --set NAME=VALUE.", code="bad-setting")
        try:
            value = json.loads(text)
        except ValueError:
            value = None if text == AUTO else text
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise UserError(
                f"--set {pair} is not a finite number; write another value.", code="bad-setting"
            ) from None
        settings[name] = value
    return settings
