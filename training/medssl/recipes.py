"""Recipes: named sets of numbers in resources/recipes/*.toml, and how a job's own settings override them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from medssl.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """`purpose` is the line that lists show; the tables are keyword arguments of the settings classes."""

    name: str
    purpose: str
    loop: dict[str, Any]
    method: dict[str, Any]


def resources() -> Path:
    """The folder of recipes and icons: in the installed package, or in the checkout."""
    installed = Path(str(files("medssl"))) / "resources"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "resources"


def read(name: str) -> Recipe:
    """The recipe resources/recipes/<name>.toml.

    Raises UserError ("no-recipe") that lists those there are.
    """
    path = resources() / "recipes" / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.toml")))
        raise UserError(f"There is no recipe {name!r}; choose one of {known}.", code="no-recipe") from None
    return Recipe(name, table["purpose"], table.get("loop", {}), table.get("method", {}))


def override(recipe: Recipe, settings: dict[str, Any], loop_fields: set[str]) -> Recipe:
    """The recipe with a job's own settings: names of `loop_fields` go to the loop, others to the method."""
    loop = {**recipe.loop, **{key: value for key, value in settings.items() if key in loop_fields}}
    method = {**recipe.method, **{key: value for key, value in settings.items() if key not in loop_fields}}
    return Recipe(recipe.name, recipe.purpose, loop, method)
