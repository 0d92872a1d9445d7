"""Validation slice: an annotated slice excluded from fine-tuning, whose Dice is logged during training.

The training loss is measured on slices that the network has memorized; the Dice of an excluded slice
estimates the quality elsewhere. It costs the training a slice, so it is off by default. Pseudo-labels on that
slice (pseudo_labels.py) are used like those on any other slice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from medssl.core.events import Emit, Metric, Notice
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.jobs import Plan
from medssl.core.labels import metrics
from medssl.core.project.project import IGNORE
from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.nn.devices import full_precision
from medssl.nn.models.unet import Network
from medssl.tasks.inference.predict import segment_work
from medssl.tasks.inference.slabs import halo, slab_of

MIN_SLICES = 4
"""Minimum number of complete slices with a structure; with fewer, all are needed for training."""
EVALUATIONS = 40
"""Maximum number of times that the slice is segmented during a training."""
TIME_FRACTION = 0.03
"""Maximum fraction of the training time; an evaluation that would exceed it is postponed."""


@dataclass(frozen=True)
class ValidationSlice:
    """The slice with the adjacent slices that its segmentation needs, in work order."""

    scan: str
    index: int
    """Slice number in the scan."""
    images: Tensor
    """(channels, slices, rows, columns), the slice and its neighbours."""
    offset: int
    """Index of the slice in `images`."""
    target: Tensor
    """uint8 (rows, columns), 0 background, 1..K classes."""
    spacing_mm: tuple[float, float, float]
    title: str = ""
    """What a person calls the scan; empty for its id."""

    @property
    def classes(self) -> list[int]:
        """Numbers of the classes present in the slice."""
        return [label for label in self.target.unique().tolist() if label]

    @full_precision
    def dice(self, network: Network, plan: Plan) -> dict[int, float]:
        """Dice of each class present in the slice, predicted in the annotated orientation only."""
        device, plan = self.images.device, replace(plan, multiplanar=False)
        labels = segment_work(network, plan, self.images, self.spacing_mm, device)
        return metrics.dice(labels[self.offset].cpu().numpy(), self.target.cpu().numpy(), self.classes)


def take_validation_slice(
    dataset: DeviceDataset,
    plan: Plan,
    previous: dict[str, Any] | None,
    emit: Emit,
    titles: Mapping[str, str] | None = None,
) -> tuple[DeviceDataset, ValidationSlice | None]:
    """Exclude one complete slice from the training targets.

    Args:
        dataset: The annotated scans.
        plan: Plan of the network.
        previous: Card of the fine-tuning that this one continues. Slices that it was trained on are no
            longer independent, so only its own validation slice is used again.
        emit: Receives a Notice with the choice.
        titles: {scan id: the name that a person reads}.

    Returns:
        The dataset without the labels of that slice, and the slice; None if no slice is suitable.
    """
    if previous is not None:
        position = _previous_position(dataset, previous.get("validation_slice"))
        why = "the initial weights were trained on all annotated slices"
    else:
        candidates = foreground_slices(dataset)
        position = choose(candidates)
        required = f"{MIN_SLICES} complete {AXIS_NAMES[plan.slice_axis]} slices with the structures"
        why = f"it requires {required}, and there are {len(candidates)}"
    if position is None:
        emit(Notice(f"No validation slice: {why}."))
        return dataset, None
    scan, index = position
    margin = halo(plan, dataset.spacing_mm[scan])
    first, last = max(0, index - margin), min(len(dataset.images[scan]), index + margin + 1)
    targets = list(dataset.targets)
    held_out = ValidationSlice(
        dataset.ids[scan],
        index,
        slab_of(dataset.slices(scan, first, last), 0, last - first, dataset.device),
        index - first,
        targets[scan][index].clone(),
        dataset.spacing_mm[scan],
        (titles or {}).get(dataset.ids[scan], ""),
    )
    targets[scan] = targets[scan].clone()
    targets[scan][index] = IGNORE
    name = _name(held_out, plan)
    emit(Notice(f"Validation slice: {name}. It is excluded from training, and its Dice is shown."))
    return replace(dataset, targets=tuple(targets)), held_out


def foreground_slices(dataset: DeviceDataset) -> list[tuple[int, int, frozenset[int]]]:
    """(scan, slice, classes) of all complete slices along the first axis with foreground."""
    slices = []
    for scan, target in enumerate(dataset.targets):
        for index in complete_slices(target):
            classes = frozenset(target[index].unique().tolist()) - {0}
            if classes:
                slices.append((scan, index, classes))
    return slices


def choose(candidates: Sequence[tuple[int, int, frozenset[int]]]) -> tuple[int, int] | None:
    """Choose the validation slice: the most classes, then the nearest to the middle of the candidates.

    Args:
        candidates: Slices as `foreground_slices` gives them.

    Returns:
        (scan, slice); None if there are fewer than MIN_SLICES, or if each is the only one of some class.
    """
    if len(candidates) < MIN_SLICES:
        return None
    count = Counter(label for _, _, classes in candidates for label in classes)
    eligible = [
        n for n, (_, _, classes) in enumerate(candidates) if all(count[label] > 1 for label in classes)
    ]
    if not eligible:
        return None
    middle = (len(candidates) - 1) / 2
    best = min(eligible, key=lambda n: (-len(candidates[n][2]), abs(n - middle)))
    return candidates[best][:2]


def _previous_position(dataset: DeviceDataset, saved: dict[str, Any] | None) -> tuple[int, int] | None:
    """(scan, slice) of the validation slice in a card, if it is still complete."""
    if not saved or saved["scan"] not in dataset.ids:
        return None
    position = dataset.ids.index(saved["scan"]), saved["index"]
    return position if position in [candidate[:2] for candidate in foreground_slices(dataset)] else None


def _name(validation_slice: ValidationSlice, plan: Plan) -> str:
    scan = validation_slice.title or validation_slice.scan
    return f"{AXIS_NAMES[plan.slice_axis]} slice {validation_slice.index} of {scan}"


class ValidationMonitor:
    """Evaluates the validation slice during a training and at its end.

    Args:
        validation_slice: The slice.
        plan: Plan of the network.
        names: Names of the classes 1, 2, ...
        emit: Receives the metric and the notice at the end.
    """

    def __init__(
        self, validation_slice: ValidationSlice, plan: Plan, names: Sequence[str], emit: Emit
    ) -> None:
        self.validation_slice, self.plan, self.names = validation_slice, plan, names
        self.emit = emit
        self.began, self.spent_s, self.longest_s = time.monotonic(), 0.0, 0.0
        self.due = 0.0

    @property
    def card(self) -> dict[str, Any]:
        """Scan and index of the slice for the model card."""
        return {"scan": self.validation_slice.scan, "index": self.validation_slice.index}

    def evaluate(self, network: Network, plan: Plan) -> dict[int, float]:
        """Dice by class number."""
        begin = time.monotonic()
        dice = self.validation_slice.dice(network, plan)
        elapsed_s = time.monotonic() - begin
        self.spent_s, self.longest_s = self.spent_s + elapsed_s, max(self.longest_s, elapsed_s)
        return dice

    def update_when_due(self, network: Network, fraction: float) -> dict[str, Tensor]:
        """Evaluate EVALUATIONS times in a training, within TIME_FRACTION of its time.

        Args:
            network: The network to evaluate.
            fraction: Completed fraction of the training, 0 .. 1.

        Returns:
            {"dice": mean Dice of the classes}, a scalar; empty if no evaluation is due.
        """
        if fraction < self.due:
            return {}
        if self.spent_s + self.longest_s > TIME_FRACTION * (time.monotonic() - self.began):
            return {}
        self.due = fraction + 1 / EVALUATIONS
        return {"dice": torch.tensor(fmean(self.evaluate(network, self.plan).values()))}

    def report(self, network: Network, plan: Plan, step: int) -> dict[str, Any]:
        """Evaluate at the end of the training, emit the result, and return it for the card."""
        dice = self.evaluate(network, plan)
        mean = fmean(dice.values())
        self.emit(Metric(step, {"dice": mean}))
        by_class = ", ".join(f"{self.names[label - 1]} {value:.2f}" for label, value in dice.items())
        text = f"Dice {mean:.2f} on the validation slice, {_name(self.validation_slice, self.plan)}"
        self.emit(Notice(f"{text} ({by_class})." if len(dice) > 1 else f"{text}."))
        return {"validation_slice": {**self.card, "dice": mean}}
