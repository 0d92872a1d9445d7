"""Shipped weights, from which trainings and feature maps start. Does not import torch.

resources/weights/shapes.safetensors    a checkpoint without optimizer
resources/weights/shapes.json           its card: command, seed, steps, machine, commit, SHA-256 of the file
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medssl.core import migrations
from medssl.core.errors import UserError
from medssl.core.files import cached_sha256
from medssl.core.json_files import read_json
from medssl.core.recipes import resources

SHAPES, RANDOM = "shapes", "random"
"""Names of weights that are not a run of a project: pre-trained on synthetic shapes, and random
initialisation."""

_REMEDY = "install napari-medssl again, or start from random weights (--weights random)"


def weights_file() -> Path:
    """Path of the shipped weights, verified against the SHA-256 in their card.

    Raises:
        UserError: "shipped-weights" if they are missing or damaged; "not-readable".
    """
    path = resources() / "weights" / f"{SHAPES}.safetensors"
    try:
        expected, actual = read_json(path.with_suffix(".json"))["sha256"], cached_sha256(path)
    except (OSError, UserError, KeyError, TypeError) as error:
        if isinstance(error, UserError) and error.code == "not-readable":
            raise
        raise UserError(
            f"The shipped weights are missing ({path}); {_REMEDY}.",
            code="shipped-weights",
        ) from error
    if actual != expected:
        raise UserError(
            f"The shipped weights are damaged ({path}); {_REMEDY}.",
            code="shipped-weights",
        )
    return path


def card() -> dict[str, Any]:
    """Model card of the shipped weights; {} if it is missing or damaged."""
    try:
        fields = read_json(resources() / "weights" / f"{SHAPES}.json")
    except UserError:
        return {}
    return migrations.card(fields) if isinstance(fields, dict) else {}
