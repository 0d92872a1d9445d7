"""Recipes: named sets of numbers in resources/recipes/*.toml, and how a job's own settings override them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.jobs import SemiSupervised
from medssl.core.methods import METHODS, WITHOUT_SCANS, recipe_folders

TIMES = {"quick": "10 minutes on two CPU cores", "paper": "hours on a GPU"}
"""What the last part of a recipe's name promises."""


@dataclass(frozen=True)
class Recipe:
    """`purpose` is the line that lists show; the tables are keyword arguments of the settings classes."""

    name: str
    purpose: str
    loop: dict[str, Any]
    method: dict[str, Any]

    @property
    def time(self) -> str:
        """How long it wants, in words."""
        return TIMES.get(self.name.rpartition("-")[2], "")


@dataclass(frozen=True)
class Purpose:
    """What somebody wants of a training, in the viewer's words: a recipe and a time."""

    name: str
    recipe: str
    minutes: float
    about: str
    """What it is for, in one plain line."""
    semi_supervised: SemiSupervised = "self_training"
    """Of fine-tuning alone."""


PRETRAINING = (
    Purpose("Quick look", "quick", 5, "Minutes seldom beat Shapes alone: fine-tune first."),
    Purpose("Overnight", "quick", 480, "The same settings for eight hours: for many scans."),
    Purpose("As in the paper", "paper", 1440, "The published numbers: for a hundred scans and a GPU."),
)
FINETUNING = (
    Purpose("Quick look", "quick", 3, "A segmentation in minutes."),
    Purpose("Overnight", "quick", 480, "The same settings for eight hours: when many slices are painted."),
    Purpose(
        "As in the paper",
        "paper",
        480,
        "Contrast between classes with its published numbers: 20,000 steps, so for a GPU.",
        "pseudo_contrast",
    ),
)


def resources() -> Path:
    """The folder of recipes and icons: in the installed package, or in the checkout."""
    installed = Path(str(files("medssl"))) / "resources"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "resources"


def start_of(method: str, recipe: str) -> str:
    """The weights that a pre-training starts from whose job names none, as jobs.PretrainJob has them.

    Recipes for minutes start from the program's own weights; the published ones from random weights, as
    published.
    """
    return "random" if method in WITHOUT_SCANS or recipe != "quick" else "shapes"


def names() -> list[str]:
    """All recipes there are: "<what>-<which>", in alphabetical order."""
    return sorted(_files())


def pretrainings() -> list[tuple[str, str, Recipe]]:
    """Method and recipe as a PretrainJob names them, and what it is: methods in order, quick ones first."""
    known = names()
    return [
        (method, which, read(f"{method}-{which}"))
        for method in METHODS
        for which in sorted({name.rpartition("-")[2] for name in known}, reverse=True)
        if f"{method}-{which}" in known
    ]


def read(name: str) -> Recipe:
    """The recipe <name>.toml of resources/recipes, or of a method from another package.

    Raises UserError ("no-recipe") that lists those there are.
    """
    path = _files().get(name)
    if path is None:
        known = ", ".join(names())
        raise UserError(f"There is no recipe {name!r}; choose one of {known}.", code="no-recipe")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return Recipe(name, table["purpose"], table.get("loop", {}), table.get("method", {}))


def _files() -> dict[str, Path]:
    """Recipes by name: ours, and those of methods from other packages."""
    ours = resources() / "recipes"
    return {path.stem: path for folder in (*recipe_folders(), ours) for path in folder.glob("*.toml")}


def override(recipe: Recipe, settings: dict[str, Any], loop_fields: set[str]) -> Recipe:
    """The recipe with a job's own settings: names of `loop_fields` go to the loop, others to the method."""
    loop = {**recipe.loop, **{key: value for key, value in settings.items() if key in loop_fields}}
    method = {**recipe.method, **{key: value for key, value in settings.items() if key not in loop_fields}}
    return Recipe(recipe.name, recipe.purpose, loop, method)
