"""The location prior in a checkpoint."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from medssl.nn.models import checkpoint
from medssl.tasks.inference.location_prior import LocationPrior

PREFIX = "location_prior"
"""Prefix of its tensor names in a checkpoint."""


def tensors_of(location_prior: LocationPrior) -> dict[str, Tensor]:
    """The tensors to save in a checkpoint, of any shape, by name."""
    parts = {field.name: getattr(location_prior, field.name) for field in fields(location_prior)}
    return checkpoint.pack(PREFIX, parts)


def read_location_prior(path: Path, device: torch.device) -> LocationPrior | None:
    """Load the location prior of a checkpoint.

    Returns:
        The prior on the device; None if the checkpoint has none.

    Raises:
        UserError: "no-checkpoint" or "foreign-checkpoint".
    """
    tensors = checkpoint.unpack(PREFIX, checkpoint.load(path, under=f"{PREFIX}.")[0])
    return LocationPrior(**tensors).to(device) if tensors else None
