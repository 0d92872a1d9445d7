"""A painted slice that a fine-tuning does not learn from, and how well it is segmented meanwhile.

The loss is that of slices the network knows by heart; one whose labels it has never seen says how good it
is elsewhere. It costs the training a slice, so it must be asked for. The network's own guesses on that slice
(pseudo_labels.py) are learned from like those on any other.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
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

LEAST = 4
"""Complete slices that show a structure, below which each is needed to learn from."""
LOOKS = 40
"""How often the slice is segmented in a training, at most."""
SHARE = 0.03
"""Of the time of a training; a look that would cost more waits."""


@dataclass(frozen=True)
class ValidationSlice:
    """The slice, with as many slices around it as segmenting it takes, in work order.

    images: (slices, rows, columns), the slice is number `place` of these; target: uint8 (rows, columns) with
    0 background, 1..K classes.
    """

    scan: str
    index: int
    images: Tensor
    place: int
    target: Tensor
    spacing_mm: tuple[float, float, float]

    @property
    def classes(self) -> list[int]:
        """Numbers of the classes that it shows."""
        return [label for label in self.target.unique().tolist() if label]

    @full_precision
    def dice(self, network: Network, plan: Plan) -> dict[int, float]:
        """Dice of each class that the slice shows, seen from the side that is painted."""
        device, plan = self.images.device, replace(plan, multiplanar=False)
        found = segment_work(network, plan, self.images, self.spacing_mm, device)
        return metrics.dice(found[self.place].cpu().numpy(), self.target.cpu().numpy(), self.classes)


def take_validation_slice(
    dataset: DeviceDataset, plan: Plan, before: dict[str, Any] | None, emit: Emit
) -> tuple[DeviceDataset, ValidationSlice | None]:
    """The pool without the labels of one complete slice, and that slice; None where none can be spared.

    before: the card of the fine-tuning that this one goes on from. What that has learned from is no test any
    more: then only the slice that it held back is taken.
    """
    if before is not None:
        place = _place_before(dataset, before.get("validation_slice"))
        why = "the weights it starts from have learned from all slices that are painted"
    else:
        showing = slices_that_show(dataset)
        place = choose(showing)
        wanted = f"{LEAST} complete {AXIS_NAMES[plan.slice_axis]} slices that show the structures"
        why = f"that takes {wanted}, and there are {len(showing)}"
    if place is None:
        emit(Notice(f"No slice is held back: {why}."))
        return dataset, None
    scan, index = place
    around = radius(plan, dataset.spacing_mm[scan])
    first, last = max(0, index - around), min(len(dataset.images[scan]), index + around + 1)
    targets = list(dataset.targets)
    held = ValidationSlice(
        dataset.ids[scan],
        index,
        dataset.images[scan][first:last].to(dataset.device),
        index - first,
        targets[scan][index].clone(),
        dataset.spacing_mm[scan],
    )
    targets[scan] = targets[scan].clone()
    targets[scan][index] = IGNORE
    emit(Notice(f"{_name(held, plan)} is held back: nothing is learned from it, and its Dice is shown."))
    return replace(dataset, targets=tuple(targets)), held


def radius(plan: Plan, spacing_mm: Sequence[float]) -> int:
    """Slices on both sides of one that segmenting it takes, in a scan of this spacing in work order."""
    if plan.dims == 3:
        return math.ceil(plan.patch_vox[0] * plan.spacing_mm[0] / spacing_mm[0])
    return plan.patch_vox[0] // 2 + 1  # one more than the network sees: scores are smoothed


def slices_that_show(dataset: DeviceDataset) -> list[tuple[int, int, frozenset[int]]]:
    """(scan, slice, classes) of all complete slices across the first axis that show a class."""
    found = []
    for scan, target in enumerate(dataset.targets):
        for index in complete_slices(target):
            classes = frozenset(target[index].unique().tolist()) - {0}
            if classes:
                found.append((scan, index, classes))
    return found


def choose(showing: Sequence[tuple[int, int, frozenset[int]]]) -> tuple[int, int] | None:
    """(scan, slice) of the one to hold back: most classes, then nearest to the middle of them all.

    No class may lose its only slice. None where there are fewer than LEAST.
    """
    if len(showing) < LEAST:
        return None
    count = Counter(label for _, _, classes in showing for label in classes)
    spared = [n for n, (_, _, classes) in enumerate(showing) if all(count[label] > 1 for label in classes)]
    if not spared:
        return None
    middle = (len(showing) - 1) / 2
    best = min(spared, key=lambda n: (-len(showing[n][2]), abs(n - middle)))
    return showing[best][:2]


def _place_before(dataset: DeviceDataset, held: dict[str, Any] | None) -> tuple[int, int] | None:
    if not held or held["scan"] not in dataset.ids:
        return None
    place = dataset.ids.index(held["scan"]), held["index"]
    return place if place in [each[:2] for each in slices_that_show(dataset)] else None


def _name(held: ValidationSlice, plan: Plan) -> str:
    return f"{AXIS_NAMES[plan.slice_axis].capitalize()} slice {held.index} of {held.scan}"


class ValidationMonitor:
    """Looks at the held slice now and then while a training runs, and at its end."""

    def __init__(self, held: ValidationSlice, plan: Plan, names: Sequence[str], emit: Emit) -> None:
        """names: of the classes 1, 2, ..."""
        self.held, self.plan, self.names = held, plan, names
        self.emit = emit
        self.began, self.spent_s, self.longest_s = time.monotonic(), 0.0, 0.0
        self.due = 0.0

    @property
    def card(self) -> dict[str, Any]:
        """Which slice it is, for whoever goes on from these weights."""
        return {"scan": self.held.scan, "index": self.held.index}

    def look(self, network: Network, plan: Plan) -> dict[int, float]:
        """Dice by class."""
        begin = time.monotonic()
        found = self.held.dice(network, plan)
        took = time.monotonic() - begin
        self.spent_s, self.longest_s = self.spent_s + took, max(self.longest_s, took)
        return found

    def update_when_due(self, network: Network, fraction: float) -> dict[str, Tensor]:
        """The mean Dice for the curve, LOOKS times in a training as long as that is cheap; else nothing."""
        if fraction < self.due or self.spent_s + self.longest_s > SHARE * (time.monotonic() - self.began):
            return {}
        self.due = fraction + 1 / LOOKS
        return {"dice": torch.tensor(fmean(self.look(network, self.plan).values()))}

    def report(self, network: Network, plan: Plan, step: int) -> dict[str, Any]:
        """Look for the last time, say what came of it, and return it for the card."""
        found = self.look(network, plan)
        mean = fmean(found.values())
        self.emit(Metric(step, {"dice": mean}))
        each = ", ".join(f"{self.names[label - 1]} {value:.2f}" for label, value in found.items())
        said = f"{_name(self.held, self.plan)}, which it did not learn from: Dice {mean:.2f}"
        self.emit(Notice(f"{said} ({each})." if len(found) > 1 else f"{said}."))
        return {"validation_slice": {**self.card, "dice": mean}}
