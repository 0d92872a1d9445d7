"""Self-training: the network labels what nobody painted and learns from its own guesses, in rounds.

Pseudo-labels as in Lee (ICML workshop 2013), made by the moving average of the weights on undisturbed
images and learned under strong changes of shape and grey values (Xie et al., arXiv 1911.04252), which is
what makes guesses worth more than they cost. True labels always win over guesses.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from medssl.config import Plan
from medssl.errors import UserError
from medssl.events import Emit, Notice
from medssl.networks import Network
from medssl.partial import AnnotatedVoxels
from medssl.pool import Pool
from medssl.predict import segment_work
from medssl.project import IGNORE

VOXELS_A_ROUND = {"cpu": 1_200_000, "cuda": 200_000_000}
"""How much is labelled in a round: a few seconds' work on the device."""
SLICES_A_SCAN = 16
"""Of each scan only so many neighbouring slices are labelled in a round: more scans for the same time."""


class Guesses:
    """Pseudo-labels of a part of the scans, drawn anew in each round."""

    def __init__(self, scans: Pool, emit: Emit) -> None:
        self.scans, self.emit = scans, emit
        self.pool = scans
        self.voxels: AnnotatedVoxels | None = None
        """Where to cut patches; None before the first round, or where nothing was found."""

    def refresh(self, network: Network, plan: Plan, generator: Generator) -> None:
        """Let `network` label scans, drawn by the generator, until the round is full."""
        order = torch.randperm(len(self.scans), generator=generator).tolist()
        left = VOXELS_A_ROUND.get(self.scans.device.type, VOXELS_A_ROUND["cpu"])
        chosen: list[tuple[int, int, int]] = []
        for index in order:
            slices, rows, columns = self.scans.images[index].shape
            count = min(slices, SLICES_A_SCAN)
            if chosen and left < count * rows * columns:
                break
            left -= count * rows * columns
            first = int(torch.randint(slices - count + 1, (1,), generator=generator))
            chosen.append((index, first, first + count))
        network.eval()
        targets = [self._labelled(network, plan, *part) for part in chosen]
        self.pool = replace(
            self.scans,
            ids=tuple(self.scans.ids[index] for index, _, _ in chosen),
            images=tuple(self.scans.images[index] for index, _, _ in chosen),
            spacing_mm=tuple(self.scans.spacing_mm[index] for index, _, _ in chosen),
            targets=tuple(targets),
        )
        try:
            self.voxels = AnnotatedVoxels.of(self.pool)
            self.emit(
                Notice(
                    f"The network labelled slices of {len(chosen)} of {len(self.scans)} scans to learn from."
                )
            )
        except UserError:
            # So far it sees background only; the painted slices alone go on teaching it.
            self.voxels = None

    def _labelled(self, network: Network, plan: Plan, index: int, first: int, last: int) -> Tensor:
        """The scan's targets with guesses on slices first..last - 1 where nothing is annotated."""
        scans = self.scans
        part = scans.images[index][first:last]
        targets = scans.targets[index].clone()
        guess = segment_work(network, plan, part, scans.spacing_mm[index], scans.device)
        targets[first:last] = torch.where(targets[first:last] == IGNORE, guess, targets[first:last])
        return targets
