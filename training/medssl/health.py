"""How a pre-training is doing: do its features collapse, what are they worth, would more steps help?

Three numbers of the network that fine-tuning would start from, on patches that are drawn once by the seed,
each beside the same number of the network's random weights:

- spread: how far unit vectors of the deepest level differ, 1 where they fill the sphere, 0 where all are one;
- rank: along how many directions these differ (effective rank: Roy and Vetterli, EUSIPCO 2007);
- probe: in which share of painted voxels a linear classifier on the features of all levels finds the class,
  on slices that it was not fitted on (probe.py); only where at least two slices are painted.

A fourth is the method's own: the spread of the vectors that its loss compares. A method can collapse there
while the encoder below, whose norms forbid constant maps, still looks alive; it then learns nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.devices import full_precision
from medssl.events import Emit, Event, Metric, Notice
from medssl.methods import Method
from medssl.methods.parts import spread
from medssl.networks import Network
from medssl.pool import Pool
from medssl.probe import draw_painted, probe, voxel_features
from medssl.project import Project
from medssl.views import cut, sample_anywhere, shown

PATCHES = 24
"""Patches for spread and rank; with those of the probe about as much work as a training step."""
LOOKS = (0.25, 0.5, 0.75)
"""When (share of the training) to look, besides the start and the end."""
SHARE = 0.03
"""Of the time of a training; a look that would cost more is left out."""

NOTICED = 0.01
"""A change of the probe that counts: one painted voxel in a hundred."""

# Collapsed is what falls below one of these: of rank and spread a share of what random weights have, of the
# method's own spread a number. Seen on hippocampus scans and on phantoms, 60 to 1500 steps on a CPU:
#                                                                    rank       spread     its own
#   healthy: pgl, mae, mae+pgl, byol, simclr, sal, whole trainings   0.31-0.92  0.97-1.02  0.78-0.96
#   pgl without predictor, teacher equal to student (to 0.08 in 60 steps, then further down)
#                                                                    0.49-0.62  0.98       0.06-0.08
#   sal without what keeps the cells of a slice apart                0.44-0.46  0.98       0.15-0.20
#   encoder drawn towards one constant vector for 60 to 240 steps    0.04-0.10  0.37-0.57  -
LOW_RANK, LOW_SPREAD, LOW_OUTPUT = 0.15, 0.6, 0.25


@dataclass(frozen=True)
class Look:
    """The network's numbers at one moment."""

    spread: float
    rank: float
    probe: float | None = None


class Health:
    """Watches one pre-training."""

    def __init__(
        self, project: Project, method: Method, start: Network, pool: Pool, seed: int, emit: Emit
    ) -> None:
        """Draw the patches and look at `start`, the network as it is before the first step."""
        self.method, self.emit = method, emit
        self.began, self.spent_s = time.monotonic(), 0.0
        self.due = list(LOOKS)
        self.output: Tensor | None = None
        """Moving average of the method's own spread, left on the device; None where it says none."""
        self.warned = False
        generator = Generator().manual_seed(seed)
        views = sample_anywhere(pool, replace(method.plan, batch=PATCHES), method.plan.patch_vox, generator)
        self.patches = shown(cut(pool, views, method.plan))
        self.painted = draw_painted(project, method.plan, pool.device, generator)
        self.start = self.look(start.to(pool.device))

    @full_precision
    def look(self, network: Network) -> Look:
        """The numbers of a network on the patches."""
        begin = time.monotonic()
        batch = self.method.plan.batch  # read anew: it is halved where memory is short
        deepest = torch.cat([_deepest(network, images) for images in self.patches.split(batch)])
        worth = None
        if self.painted is not None:
            vectors = voxel_features(network, self.painted, batch)
            worth = probe(vectors, self.painted.label, self.painted.place)
        found = Look(float(spread(deepest)), effective_rank(deepest), worth)
        self.spent_s += time.monotonic() - begin
        return found

    def look_when_due(self, fraction: float) -> dict[str, Tensor]:
        """Numbers for the curves at LOOKS, as long as they are cheap; else nothing."""
        if not self.due or fraction < self.due[0]:
            return {}
        self.due = [each for each in self.due if each > fraction]
        if self.spent_s > SHARE * (time.monotonic() - self.began):
            return {}
        found = self.look(self.method.modules["network"])
        if self.collapsed(found) and not self.warned:
            self.warned = True
            self.emit(
                Notice("The features are collapsing: nearly all places look the same to the network by now.")
            )
        return {name: torch.tensor(value) for name, value in numbers_of(found).items()}

    def remember(self, numbers: dict[str, Tensor]) -> None:
        """Take in what the method says of a step."""
        if "spread" in numbers:
            new = numbers["spread"].detach().float()
            self.output = new if self.output is None else self.output.lerp(new, 0.1)

    def collapsed(self, found: Look) -> bool:
        """Whether these numbers are those of features that say the same everywhere."""
        return (
            found.rank < LOW_RANK * self.start.rank
            or found.spread < LOW_SPREAD * self.start.spread
            or (self.output is not None and float(self.output) < LOW_OUTPUT)
        )

    def verdict(self, step: int, heard: Sequence[Event]) -> dict[str, Any]:
        """Look for the last time, say in a sentence what that means, and return both for the card.

        `heard` is what the run has said so far, resumed parts included.
        """
        found = self.look(self.method.modules["network"])
        self.emit(Metric(step, numbers_of(found)))
        collapsed = self.collapsed(found)
        losses, probes = curve_of(heard, "loss"), curve_of(heard, "probe")
        if found.probe is not None:
            probes[step] = found.probe
        words = in_words(self.start, found, collapsed, outlook(losses, probes))
        self.emit(Notice(words))
        return {
            "collapsed": collapsed,
            "spread": found.spread,
            "rank": found.rank,
            "rank_at_start": self.start.rank,
            "probe": found.probe,
            "probe_of_random": self.start.probe,
            "words": words,
        }


def curve_of(heard: Sequence[Event], name: str) -> dict[int, float]:
    """A number by step; a run that was killed and resumed says some steps twice, and the later counts."""
    said = [each for each in heard if isinstance(each, Metric) and name in each.values]
    curve = {each.step: each.values[name] for each in said}
    return dict(sorted(curve.items()))


def numbers_of(found: Look) -> dict[str, float]:
    """For curves; "spread" alone would be the method's own."""
    numbers = {"encoder_spread": found.spread, "rank": found.rank}
    return numbers if found.probe is None else {**numbers, "probe": found.probe}


@torch.no_grad()
def _deepest(network: Network, images: Tensor) -> Tensor:
    padded, _ = network.pad(images)
    return network.encode(padded)[-1].float()


def effective_rank(features: Tensor) -> float:
    """Along how many directions the unit vectors of a map (B, C, ...) differ, 1 .. C.

    exp of the entropy of the covariance's eigenvalues as shares of their sum (Roy and Vetterli, 2007); 1
    where all are the same.
    """
    unit = F.normalize(features.cpu().double(), dim=1, eps=1e-6).movedim(1, -1).flatten(0, -2)
    eigenvalues = torch.linalg.eigvalsh(torch.atleast_2d(unit.T.cov(correction=0))).clamp(min=0)
    if eigenvalues.sum() < 1e-9:
        return 1.0
    shares = eigenvalues / eigenvalues.sum()
    return float(torch.special.entr(shares).sum().exp())


def settled(losses: Sequence[float]) -> bool | None:
    """Whether from the middle third to the last the loss fell by no more than its noise; None if too few.

    Noise is twice the standard error of the two means; how far one number strays comes from the differences
    of neighbours, which a slow trend leaves alone (von Neumann, 1941).
    """
    if len(losses) < 24:
        return None
    third = len(losses) // 3
    middle, last = losses[-2 * third : -third], losses[-third:]
    squares = [(two - one) ** 2 for one, two in pairwise((*middle, *last))]
    noise = 2 * math.sqrt(statistics.fmean(squares) / third)
    return statistics.fmean(middle) - statistics.fmean(last) <= noise


def outlook(losses: dict[int, float], probes: dict[int, float]) -> str:
    """Whether more steps would help, as a sentence; nothing where it cannot be told. Both curves by step.

    Where slices are painted they decide: losses that compare two networks rise and fall for reasons of their
    own.
    """
    end = max(probes, default=0)
    before = [worth for step, worth in probes.items() if 0 < step <= end * 2 / 3]
    if before:
        if probes[end] < max(before) + NOTICED:
            return "This got no better over the last third: more steps would hardly help."
        return "This was still getting better: more steps may help."
    enough = settled(list(losses.values()))
    if enough is None:
        return ""
    return (
        "The loss has stopped falling: more steps would hardly help."
        if enough
        else ("The loss was still falling: more steps may help.")
    )


def in_words(start: Look, end: Look, collapsed: bool, outlook: str) -> str:
    """The numbers as a few plain sentences."""
    if collapsed:
        return (
            "This pre-training has collapsed: nearly all places look the same to the network. It is not "
            "offered for fine-tuning; train again with a smaller learning rate, or with MAE."
        )
    said = ["No collapse: the features differ from place to place."]
    if end.probe is not None and start.probe is not None:
        found, random = round(100 * end.probe), round(100 * start.probe)
        than = "better than" if found > random + 1 else "worse than" if found < random - 1 else "as well as"
        said.append(
            f"On painted slices they tell the classes apart in {found} of 100 voxels, {than} random weights "
            f"({random})."
        )
    return " ".join([*said, *([outlook] if outlook else [])])
