"""What others would use for the same slices, in the same grid and judged in the same way."""

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
    """What peers get besides their assignment."""

    work: Path
    """A scratch folder of the cell's own."""
    nnunet_env: Path
    """Where nnU-Net's environment is, or is to be made."""
    should_stop: Callable[[], bool]
    mirroring: bool = True
    """Whether nnU-Net predicts mirrored copies too, as it does by default."""


Peer = Callable[[Assignment, Bench], Outcome]

PEERS: dict[str, Peer] = {
    "forest": lambda assignment, _: random_forest(assignment),
    "forest+position": lambda assignment, _: random_forest(assignment, position=True),
    "interpolation": lambda assignment, _: interpolated(assignment),
    "nnunet_2d": partial(run_nnunet, configuration="2d"),
    "nnunet_3d_fullres": partial(run_nnunet, configuration="3d_fullres"),
}
