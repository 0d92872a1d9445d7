"""Other programs ("peers") that segment from the same annotated slices, judged in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medssl.benchmarking.experiment import Outcome
from medssl.benchmarking.protocol import Assignment

from peers.forest import random_forest
from peers.interpolation import interpolated
from peers.nnunet import run_nnunet


@dataclass(frozen=True)
class Bench:
    """The working environment of a peer."""

    work: Path
    """Scratch folder of the cell."""
    nnunet_env: Path
    """Virtual environment of nnU-Net; created if it does not exist."""
    should_stop: Callable[[], bool]
    mirroring: bool = True
    """Whether nnU-Net averages over mirrored copies (its default)."""


Peer = Callable[[Assignment, Bench], Outcome]

PEERS: dict[str, Peer] = {
    "forest": lambda assignment, _: random_forest(assignment),
    "forest+position": lambda assignment, _: random_forest(assignment, position=True),
    "interpolation": lambda assignment, _: interpolated(assignment),
    "nnunet_2d": partial(run_nnunet, configuration="2d"),
    "nnunet_3d_fullres": partial(run_nnunet, configuration="3d_fullres"),
}
