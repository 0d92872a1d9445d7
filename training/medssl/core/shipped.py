"""Weights that are part of the program: what trainings and feature maps start from. No torch is loaded here.

resources/weights/shapes.safetensors    a checkpoint without optimizer
resources/weights/shapes.json           its card: command, seed, steps, machine, commit, SHA-256 of the file
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from medssl.core import migrations
from medssl.core.errors import UserError
from medssl.core.files import read_json, sha256_of
from medssl.core.recipes import resources

SHAPES, RANDOM = "shapes", "random"
"""Names of weights that are no run of a project: pre-trained on made-up shapes, and drawn by the seed."""

_INSTEAD = "install napari-medssl again, or start from random weights (--weights random)"


def weights_file() -> Path:
    """The shipped weights, checked against their card.

    Raises UserError ("shipped-weights") where they are missing or not what the card says.
    """
    path = resources() / "weights" / f"{SHAPES}.safetensors"
    try:
        changed = path.stat()
        wanted = read_json(path.with_suffix(".json"))["sha256"]
    except (OSError, UserError, KeyError, TypeError) as error:
        raise UserError(
            f"The weights that belong to this program are missing ({path}); {_INSTEAD}.",
            code="shipped-weights",
        ) from error
    if _hash(path, changed.st_mtime_ns, changed.st_size) != wanted:
        raise UserError(
            f"The weights that belong to this program are damaged ({path}); {_INSTEAD}.",
            code="shipped-weights",
        )
    return path


def card() -> dict[str, Any]:
    """What is known of the shipped weights; {} where their card is missing or damaged."""
    try:
        found = read_json(resources() / "weights" / f"{SHAPES}.json")
    except UserError:
        return {}
    return migrations.card(found) if isinstance(found, dict) else {}


@lru_cache(maxsize=4)
def _hash(path: Path, changed_ns: int, size: int) -> str:
    return sha256_of(path)
