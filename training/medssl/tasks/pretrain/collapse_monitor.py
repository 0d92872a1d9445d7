"""How a pre-training is doing: do its features collapse, what are they worth, would more steps help?

Three numbers of the network that fine-tuning would start from, on patches that are drawn once by the seed,
each beside the same number of the network's random weights:

- spread: how far unit vectors of the deepest level differ, 1 where they fill the sphere, 0 where all are one;
- rank: along how many directions these differ (effective rank: Roy and Vetterli, EUSIPCO 2007);
- probe: in which share of painted voxels a linear classifier on the features of all levels finds the class,
  on slices that it was not fitted on (linear_probe.py); only where at least two slices are painted.

A fourth is the method's own: the spread of the vectors that its loss compares. A method can collapse there
while the encoder below, whose norms forbid constant maps, still looks alive; it then learns nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.events import Emit, Event, Metric, Notice
from medssl.core.project.project import Project
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import cut, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods import Method
from medssl.nn.methods.common import feature_std, network_of
from medssl.nn.models.unet import Network
from medssl.tasks.pretrain.linear_probe import draw_painted, probe, surely, voxel_features

PATCHES = 24
"""Patches for spread and rank; with those of the probe about as much work as a training step."""
LOOKS = (0.25, 0.5, 0.75)
"""When (share of the training) to look, besides the start and the end."""
SHARE = 0.03
"""Of the time of a training; a look that would cost more is left out."""

ENOUGH_STEPS = 500
"""Before that a training that fell still had not enough steps to show that more would be of no use."""
NOTICED = 0.01
"""A change of the probe that counts: one painted voxel in a hundred."""

# Collapsed is what falls below one of these: of rank and spread a share of what random weights have; of the
# method's own spread a number, and half of the most it was (pooled features are alike before any training:
# 0.15 at first with simclr, moco and lrc). Seen on 20 to 180 scans, 60 to 1500 steps on a CPU:
#                                                                    rank       spread     its own
#   healthy: pgl, mae, mae+pgl, byol, simclr, moco, lrc, sal, alice  0.29-0.94  0.97-1.02  0.38-0.96
#   pgl without predictor, teacher equal to student                  0.49-0.62  0.98       0.80 to 0.06
#   sal without what keeps the cells of a slice apart                0.44-0.46  0.98       0.80 to 0.15
#   lrc on a moco that came to its chance level                      0.61       1.00       0.53 to 0.15
#   encoder drawn towards one constant vector for 60 to 240 steps    0.04-0.10  0.37-0.57  -
LOW_RANK, LOW_SPREAD, LOW_OUTPUT = 0.15, 0.6, 0.25


@dataclass(frozen=True)
class Sample:
    """The network's numbers at one moment."""

    feature_std: float
    rank: float
    slices: Tensor | None = None
    """What each painted slice adds to the probe."""

    @property
    def probe(self) -> float | None:
        return None if self.slices is None else float(self.slices.sum())

    def numbers(self) -> dict[str, float]:
        """For curves; "feature_std" alone would be the method's own."""
        numbers = {"encoder_std": self.feature_std, "rank": self.rank}
        return numbers if self.probe is None else {**numbers, "probe": self.probe}


class CollapseMonitor:
    """Watches one pre-training."""

    def __init__(
        self,
        project: Project,
        method: Method,
        dataset: DeviceDataset,
        seed: int,
        emit: Emit,
        heard: Callable[[], list[Event]],
    ) -> None:
        """Draw the patches and look at the method's network, as it is before the first step.

        `heard()` is all that the run has said so far, resumed parts included.
        """
        self.method, self.emit, self.heard = method, emit, heard
        self.network = network_of(method.modules)
        self.began, self.spent_s, self.longest_s = time.monotonic(), 0.0, 0.0
        self.due = list(LOOKS)
        self.warned = False
        generator = Generator().manual_seed(seed)
        views = sample_anywhere(
            dataset, replace(method.plan, batch=PATCHES), method.plan.patch_vox, generator
        )
        self.patches = shown(cut(dataset, views, method.plan))
        self.painted = draw_painted(project, method.plan, dataset.device, generator)
        self.start = self.look(self.network)

    @full_precision
    def look(self, network: Network) -> Sample:
        """The numbers of a network on the patches."""
        begin = time.monotonic()
        batch = self.method.plan.batch  # read anew: it is halved where memory is short
        deepest = torch.cat([_deepest(network, images) for images in self.patches.split(batch)])
        slices = None
        if self.painted is not None:
            vectors = voxel_features(network, self.painted, batch)
            slices = probe(vectors, self.painted.label, self.painted.place)
        sample = Sample(float(feature_std(deepest)), effective_rank(deepest), slices)
        took = time.monotonic() - begin
        self.spent_s, self.longest_s = self.spent_s + took, max(self.longest_s, took)
        return sample

    def update_when_due(self, fraction: float) -> dict[str, Tensor]:
        """Numbers for the curves at LOOKS, as long as they are cheap; else nothing."""
        if not self.due or fraction < self.due[0]:
            return {}
        self.due = [each for each in self.due if each > fraction]
        if self.spent_s + self.longest_s > SHARE * (time.monotonic() - self.began):
            return {}
        sample = self.look(self.network)
        if not self.warned and has_collapsed(self.start, sample, curve_of(self.heard(), "feature_std")):
            self.warned = True
            self.emit(
                Notice("The features are collapsing: nearly all places look the same to the network by now.")
            )
        return {name: torch.tensor(value) for name, value in sample.numbers().items()}

    def report(self, step: int) -> dict[str, Any]:
        """Look for the last time, say in a few sentences what that means, and return both for the card."""
        sample = self.look(self.network)
        self.emit(Metric(step, sample.numbers()))
        heard = self.heard()
        output = curve_of(heard, "feature_std")
        collapsed = has_collapsed(self.start, sample, output)
        losses, probes = curve_of(heard, "loss"), curve_of(heard, "probe")
        if sample.probe is not None:
            probes[step] = sample.probe
        words = in_words(self.start, sample, collapsed, outlook(losses, probes))
        self.emit(Notice(words))
        return {
            "collapsed": collapsed,
            "feature_std": sample.feature_std,
            "output_std": output[max(output)] if output else None,
            "rank": sample.rank,
            "rank_at_start": self.start.rank,
            "probe": sample.probe,
            "probe_at_start": self.start.probe,
            "words": words,
        }


def has_collapsed(start: Sample, sample: Sample, output: dict[int, float]) -> bool:
    """Whether these numbers are those of features that say the same everywhere.

    output: by step, the spread of what the method's loss compares; empty where it says none.
    """
    if sample.rank < LOW_RANK * start.rank or sample.feature_std < LOW_SPREAD * start.feature_std:
        return True
    if not output:
        return False
    return output[max(output)] < min(LOW_OUTPUT, max(output.values()) / 2)


def curve_of(heard: Sequence[Event], name: str) -> dict[int, float]:
    """A number by step; a run that was killed and resumed says some steps twice, and the later counts."""
    said = [each for each in heard if isinstance(each, Metric) and name in each.values]
    curve = {each.step: each.values[name] for each in said}
    return dict(sorted(curve.items()))


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
    """Whether from the middle third to the last the loss fell by no more than its noise or a hundredth.

    Noise is twice the standard error of the two means; how far one number strays comes from the differences
    of neighbours, which a slow trend leaves alone (von Neumann, 1941). A hundredth is one of what the loss
    fell in all. None where noise is more than two of these, where too little was said, or where the loss
    rose in all (it compares with more and more as the queue of moco and lrc fills).
    """
    if len(losses) < 24:
        return None
    third = len(losses) // 3
    first, middle, last = losses[: third // 4], losses[-2 * third : -third], losses[-third:]
    squares = [(two - one) ** 2 for one, two in pairwise((*middle, *last))]
    noise = 2 * math.sqrt(statistics.fmean(squares) / third)
    hundredth = (statistics.fmean(first) - statistics.fmean(last)) / 100
    if hundredth < 0:
        return None
    if statistics.fmean(middle) - statistics.fmean(last) > max(noise, hundredth):
        return False
    return True if noise <= 2 * hundredth else None


def outlook(losses: dict[int, float], probes: dict[int, float]) -> str:
    """Whether more steps would help, as a sentence; nothing where it cannot be told. Both curves by step.

    Where slices are painted they decide: losses that compare two networks rise and fall for reasons of their
    own. As the learning rate falls towards the end, every curve becomes flat there; so few steps never are
    enough.
    """
    end = max((*losses, *probes), default=0)
    before = [worth for step, worth in probes.items() if 0 < step <= end * 2 / 3]
    if before and end in probes:
        what = "This got no better over the last third"
        better = "This was still getting better"
        enough: bool | None = probes[end] < max(before) + NOTICED
    else:
        what, better = "The loss has stopped falling", "The loss was still falling"
        enough = settled(list(losses.values()))
    if enough is False:
        return f"{better}: more steps may help."
    return f"{what}: more steps would hardly help." if enough and end >= ENOUGH_STEPS else ""


def in_words(start: Sample, end: Sample, collapsed: bool, outlook: str) -> str:
    """The numbers as a few plain sentences."""
    if collapsed:
        return (
            "This pre-training has collapsed: nearly all places look the same to the network. It is not "
            "offered for fine-tuning; train again with a smaller learning rate, or with MAE."
        )
    said = ["No collapse: the features differ from place to place."]
    if end.slices is not None and start.slices is not None:
        than = {1: "better than", 0: "no better than", -1: "worse than"}[surely(end.slices, start.slices)]
        accuracy, before = (100 * float(each.sum()) for each in (end.slices, start.slices))
        said.append(
            f"A linear classifier on annotated slices is right in {accuracy:.0f} % of voxels, {than} with "
            f"the weights it started from ({before:.0f} %)."
        )
    return " ".join([*said, *([outlook] if outlook else [])])
