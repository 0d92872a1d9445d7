"""Collapse monitor: do the features of a pre-training collapse, how good are they, would more steps help?

Three measures of the network that fine-tuning would start from, on crops that are drawn once by the seed,
each compared with the same measure of the initial weights:

- feature_std: standard deviation of the unit vectors of the deepest level, 1 for uniformly distributed
  vectors, 0 for identical ones;
- rank: the number of directions in which these vary (effective rank: Roy and Vetterli, EUSIPCO 2007);
- probe: balanced accuracy of a linear classifier on the features of all levels, on annotated slices that it
  was not fitted on (linear_probe.py); only with at least two annotated slices.

A fourth comes from the method: the standard deviation of the vectors that its loss compares. A method can
collapse there, and learn nothing, while the encoder's features still vary because its norms forbid constant
maps.
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
from medssl.nn import distributed
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import cut, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods import Method
from medssl.nn.methods.common import feature_std, network_of
from medssl.nn.models.unet import Network
from medssl.tasks.pretrain.linear_probe import compare_slices, draw_annotated, probe, voxel_features

PATCHES = 24
"""Number of crops for feature_std and rank; with the probe about as much work as a training step."""
CHECK_AT = (0.25, 0.5, 0.75)
"""Fractions of the training at which to evaluate, besides the start and the end."""
TIME_FRACTION = 0.03
"""Maximum fraction of the training time; an evaluation that would exceed it is skipped."""

MIN_STEPS = 500
"""Minimum number of steps after which a flat curve means that more steps would not help."""
MIN_IMPROVEMENT = 0.01
"""Minimum relevant change of the probe: one annotated voxel in a hundred."""

# Features count as collapsed below one of these thresholds: rank and feature_std relative to the initial
# weights; the method's own std absolute, and half of its maximum (pooled features are similar before any
# training: 0.15 at first with simclr, moco and lrc). Observed on 20 to 180 scans, 60 to 1500 steps on a CPU:
#                                                                    rank       std        method's std
#   healthy: pgl, mae, mae+pgl, byol, simclr, moco, lrc, sal, alice  0.29-0.94  0.97-1.02  0.38-0.96
#   pgl without predictor, teacher equal to student                  0.49-0.62  0.98       0.80 to 0.06
#   sal without the term that separates the cells of a slice         0.44-0.46  0.98       0.80 to 0.15
#   lrc on a moco at chance level                                    0.61       1.00       0.53 to 0.15
#   encoder trained towards a constant vector for 60 to 240 steps    0.04-0.10  0.37-0.57  -
LOW_RANK, LOW_SPREAD, LOW_OUTPUT = 0.15, 0.6, 0.25


@dataclass(frozen=True)
class Sample:
    """Measures of the network at one step."""

    feature_std: float
    """Standard deviation of the unit vectors of the deepest level, 0 .. 1."""
    rank: float
    """Effective rank of these vectors."""
    slices: Tensor | None = None
    """Contribution of each annotated slice to the accuracy of the probe, (slices,)."""

    @property
    def probe(self) -> float | None:
        """Balanced accuracy of the linear probe, 0 .. 1; None without annotation."""
        return None if self.slices is None else float(self.slices.sum())

    def numbers(self) -> dict[str, float]:
        """Scalars to log; "feature_std" is the name of the method's own."""
        numbers = {"encoder_std": self.feature_std, "rank": self.rank}
        return numbers if self.probe is None else {**numbers, "probe": self.probe}


class CollapseMonitor:
    """Evaluates the features of a pre-training at its start, during it, and at its end.

    Args:
        project: The project, with annotations for the linear probe.
        method: The method, whose network is evaluated first as it is before the first step.
        dataset: Scans to draw crops from.
        seed: Determines the crops.
        emit: Receives notices and metrics.
        events: Returns all events of the run so far, those before a resume included.
    """

    def __init__(
        self,
        project: Project,
        method: Method,
        dataset: DeviceDataset,
        seed: int,
        emit: Emit,
        events: Callable[[], list[Event]],
    ) -> None:
        self.method, self.emit, self.events = method, emit, events
        self.network = network_of(method.modules)
        self.began, self.spent_s, self.longest_s = time.monotonic(), 0.0, 0.0
        self.due = list(CHECK_AT)
        self.warned = False
        generator = Generator().manual_seed(seed)
        crops = sample_anywhere(
            dataset, replace(method.plan, batch=PATCHES), method.plan.patch_vox, generator
        )
        self.patches = shown(cut(dataset, crops, method.plan))
        self.annotated = draw_annotated(project, method.plan, dataset.device, generator)
        self.start = self.evaluate(self.network)

    @full_precision
    def evaluate(self, network: Network) -> Sample:
        """Measure a network on the crops."""
        begin = time.monotonic()
        batch = self.method.plan.batch  # read each time: it is halved when memory does not suffice
        deepest = torch.cat([_deepest(network, images) for images in self.patches.split(batch)])
        slices = None
        if self.annotated is not None:
            vectors = voxel_features(network, self.annotated, batch)
            slices = probe(vectors, self.annotated.label, self.annotated.slice_id)
        with distributed.alone():  # only rank 0 is here
            sample = Sample(float(feature_std(deepest)), effective_rank(deepest), slices)
        elapsed_s = time.monotonic() - begin
        self.spent_s, self.longest_s = self.spent_s + elapsed_s, max(self.longest_s, elapsed_s)
        return sample

    def update_when_due(self, fraction: float) -> dict[str, Tensor]:
        """Evaluate at CHECK_AT, within TIME_FRACTION of the training time.

        Args:
            fraction: Completed fraction of the training, 0 .. 1.

        Returns:
            Scalars to log; empty if no evaluation is due.
        """
        if not self.due or fraction < self.due[0]:
            return {}
        self.due = [start for start in self.due if start > fraction]
        if self.spent_s + self.longest_s > TIME_FRACTION * (time.monotonic() - self.began):
            return {}
        sample = self.evaluate(self.network)
        if not self.warned and has_collapsed(self.start, sample, curve_of(self.events(), "feature_std")):
            self.warned = True
            self.emit(
                Notice("The features are collapsing: nearly all locations have the same features by now.")
            )
        return {name: torch.tensor(value) for name, value in sample.numbers().items()}

    def report(self, step: int) -> dict[str, Any]:
        """Evaluate at the end, emit a summary as a Notice, and return both for the model card."""
        sample = self.evaluate(self.network)
        self.emit(Metric(step, sample.numbers()))
        events = self.events()
        output = curve_of(events, "feature_std")
        collapsed = has_collapsed(self.start, sample, output)
        losses, probes = curve_of(events, "loss"), curve_of(events, "probe")
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
    """Whether the features are nearly the same everywhere.

    Args:
        start: Measures of the initial weights.
        sample: Current measures.
        output: By step, the standard deviation of the vectors that the method's loss compares; empty if the
            method does not log it.
    """
    if sample.rank < LOW_RANK * start.rank or sample.feature_std < LOW_SPREAD * start.feature_std:
        return True
    if not output:
        return False
    return output[max(output)] < min(LOW_OUTPUT, max(output.values()) / 2)


def curve_of(events: Sequence[Event], name: str) -> dict[int, float]:
    """A logged scalar by step; of steps that a killed and resumed run logged twice, the later counts."""
    metrics = [event for event in events if isinstance(event, Metric) and name in event.values]
    curve = {metric.step: metric.values[name] for metric in metrics}
    return dict(sorted(curve.items()))


@torch.no_grad()
def _deepest(network: Network, images: Tensor) -> Tensor:
    padded, _ = network.pad(images)
    return network.encode(padded)[-1].float()


def effective_rank(features: Tensor) -> float:
    """Effective rank of the unit vectors of a feature map.

    The exponential of the entropy of the covariance's normalized eigenvalues (Roy and Vetterli, 2007).

    Args:
        features: Feature map, (B, C, ...) float.

    Returns:
        1 (all vectors identical) .. C.
    """
    unit = F.normalize(features.cpu().double(), dim=1, eps=1e-6).movedim(1, -1).flatten(0, -2)
    eigenvalues = torch.linalg.eigvalsh(torch.atleast_2d(unit.T.cov(correction=0))).clamp(min=0)
    if eigenvalues.sum() < 1e-9:
        return 1.0
    normalized = eigenvalues / eigenvalues.sum()
    return float(torch.special.entr(normalized).sum().exp())


def settled(losses: Sequence[float]) -> bool | None:
    """Whether the loss fell from the middle third to the last by no more than its noise or a hundredth.

    Noise is twice the standard error of the two means, with the variance from differences of successive
    values, which a slow trend does not affect (von Neumann, 1941). A hundredth refers to the total decrease
    of the loss.

    Args:
        losses: Logged losses in order.

    Returns:
        None if the noise exceeds two hundredths, if there are fewer than 24 values, or if the loss rose in
        total (as with the growing queue of moco and lrc).
    """
    if len(losses) < 24:
        return None
    third = len(losses) // 3
    first, middle, last = losses[: third // 4], losses[-2 * third : -third], losses[-third:]
    squares = [(after - before) ** 2 for before, after in pairwise((*middle, *last))]
    noise = 2 * math.sqrt(statistics.fmean(squares) / third)
    hundredth = (statistics.fmean(first) - statistics.fmean(last)) / 100
    if hundredth < 0:
        return None
    if statistics.fmean(middle) - statistics.fmean(last) > max(noise, hundredth):
        return False
    return True if noise <= 2 * hundredth else None


def outlook(losses: dict[int, float], probes: dict[int, float]) -> str:
    """Whether more steps would help, as a sentence.

    With annotated slices the probe decides, because losses that compare two networks may rise or fall for
    other reasons. Every curve becomes flat at the end as the learning rate falls, so a short training never
    counts as long enough.

    Args:
        losses: Loss by step.
        probes: Accuracy of the linear probe by step.

    Returns:
        Empty if the curves do not tell.
    """
    end = max((*losses, *probes), default=0)
    before = [accuracy for step, accuracy in probes.items() if 0 < step <= end * 2 / 3]
    if before and end in probes:
        flat = "It did not improve over the last third"
        improving = "It was still improving"
        enough: bool | None = probes[end] < max(before) + MIN_IMPROVEMENT
    else:
        flat, improving = "The loss has stopped falling", "The loss was still falling"
        enough = settled(list(losses.values()))
    if enough is False:
        return f"{improving}: more steps may help."
    return f"{flat}: more steps would hardly help." if enough and end >= MIN_STEPS else ""


def in_words(start: Sample, end: Sample, collapsed: bool, outlook: str) -> str:
    """Summarize the measures in a few sentences.

    Args:
        start: Measures of the initial weights.
        end: Measures of the final weights.
        collapsed: Whether the features have collapsed.
        outlook: Sentence on more steps; may be empty.
    """
    if collapsed:
        return (
            "This pre-training has collapsed: nearly all locations have the same features. It is not "
            "offered for fine-tuning; train again with a smaller learning rate, or with MAE."
        )
    sentences = ["No collapse: the features vary between locations."]
    if end.slices is not None and start.slices is not None:
        order = compare_slices(end.slices, start.slices)
        than = {1: "better than", 0: "no better than", -1: "worse than"}[order]
        accuracy, initial = (100 * float(slices.sum()) for slices in (end.slices, start.slices))
        sentences.append(
            f"A linear classifier on annotated slices has an accuracy of {accuracy:.0f} %, {than} with the "
            f"initial weights ({initial:.0f} %)."
        )
    return " ".join([*sentences, *([outlook] if outlook else [])])
