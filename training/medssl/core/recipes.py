"""Recipes: named sets of hyperparameters in resources/recipes/*.toml, overridden by the settings of a job."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.jobs import SemiSupervised, from_json
from medssl.core.methods import METHODS, needs_scans, recipe_folders

TIMES = {"quick": "minutes on a CPU", "paper": "hours on a GPU"}
"""Training time by the last part of a recipe's name."""


@dataclass(frozen=True)
class Recipe:
    """A named set of hyperparameters.

    `purpose` is one line for listings; `loop` and `method` are keyword arguments of the settings classes.
    """

    name: str
    purpose: str
    loop: dict[str, Any]
    method: dict[str, Any]

    @property
    def time(self) -> str:
        """Intended training time, e.g. "hours on a GPU"; empty if the name does not say."""
        return TIMES.get(self.name.rpartition("-")[2], "")


@dataclass(frozen=True)
class _Tables:
    """The tables of a recipe's file."""

    purpose: str
    loop: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A recipe and a training time under a name that the viewer shows."""

    name: str
    recipe: str
    minutes: float
    about: str
    """One line on when to choose it."""
    semi_supervised: SemiSupervised = "self_training"
    """Used by fine-tuning only."""


PRETRAINING = (
    Preset("Quick look", "quick", 5, "A few minutes rarely improve on Shapes weights: fine-tune first."),
    Preset("Overnight", "quick", 480, "The same settings for eight hours: for many scans."),
    Preset("As in the paper", "paper", 1440, "The published settings: for a hundred scans and a GPU."),
)
FINETUNING = (
    Preset("Quick look", "quick", 3, "A segmentation in minutes."),
    Preset("Overnight", "quick", 480, "The same settings for eight hours: for many annotated slices."),
    Preset(
        "As in the paper",
        "paper",
        480,
        "Contrast between classes with the published settings: 20,000 steps, so for a GPU.",
        "pseudo_contrast",
    ),
)


def resources() -> Path:
    """Folder of recipes, weights and icons in the installed package or the checkout."""
    installed = Path(str(files("medssl"))) / "resources"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "resources"


def default_weights(method: str, recipe: str) -> str:
    """Initial weights of a pre-training whose job names none, as in `jobs.PretrainJob.weights`.

    "quick" recipes start from the shipped weights; published recipes start from random weights, as published.
    """
    return "random" if not needs_scans(method) or recipe != "quick" else "shapes"


def names() -> list[str]:
    """Names of all recipes, "<method>-<recipe>", in alphabetical order."""
    return sorted(_files())


def pretrainings() -> list[tuple[str, str, Recipe]]:
    """All pre-training recipes as (method, recipe, content).

    Method and recipe are named as in a PretrainJob; in the order of METHODS, quick recipes first.
    """
    available = names()
    return [
        (method, recipe, read(f"{method}-{recipe}"))
        for method in METHODS
        for recipe in sorted({name.rpartition("-")[2] for name in available}, reverse=True)
        if f"{method}-{recipe}" in available
    ]


def read(name: str) -> Recipe:
    """Read <name>.toml from resources/recipes or from another package's recipes.

    Raises:
        UserError: "no-recipe"; the message lists those that fit. "bad-recipe" or "bad-job" for a
            damaged one.
    """
    path = _files().get(name)
    if path is None:
        what, _, which = name.rpartition("-")
        lengths = [known.rpartition("-")[2] for known in names() if known.rpartition("-")[0] == what]
        if lengths:
            raise UserError(
                f"{what} has no recipe {which!r}; choose {' or '.join(lengths)}.", code="no-recipe"
            )
        available = ", ".join(names())
        raise UserError(f"There is no recipe {name!r}; choose one of {available}.", code="no-recipe")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as a recipe ({error}); correct it or install its package again.",
            code="bad-recipe",
        ) from error
    tables = from_json(_Tables, table, str(path))
    return Recipe(name, tables.purpose, tables.loop, tables.method)


def _files() -> dict[str, Path]:
    """{name: file} of built-in recipes and of those from other packages."""
    built_in = resources() / "recipes"
    return {path.stem: path for folder in (*recipe_folders(), built_in) for path in folder.glob("*.toml")}


def override(recipe: Recipe, settings: dict[str, Any], loop_fields: set[str]) -> Recipe:
    """Override a recipe with the settings of a job.

    Args:
        settings: {name: value}; names in `loop_fields` override `recipe.loop`, all others `recipe.method`.
    """
    loop = {**recipe.loop, **{key: value for key, value in settings.items() if key in loop_fields}}
    method = {**recipe.method, **{key: value for key, value in settings.items() if key not in loop_fields}}
    return Recipe(recipe.name, recipe.purpose, loop, method)
