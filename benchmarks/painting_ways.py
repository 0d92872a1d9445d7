"""The ways to segment a scan that benchmarks/painting_time.py compares, with a simulated user.

The user looks at each slice once before the first correction, and knows from then on, at no cost, which slice
has most mistakes, also after an interpolation has changed others; each corrected slice is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from medssl.benchmarking.mouse_painting import POINT_S, Effort, paint
from medssl.benchmarking.simulated_annotator import choose_slices
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan
from medssl.core.labels.shape_interpolation import interpolate
from scipy.ndimage import binary_opening, binary_propagation, label

SLICES_PER_FIRST, MIN_FIRST_SLICES = 8, 5
"""Slices of the structures for each one that is painted first, and the minimum of these."""
Curve = list[tuple[Effort, float]]
"""What had been done, and the Dice, after each step."""


@dataclass(frozen=True)
class Case:
    """A scan and its reference labels."""

    image: Path
    scan: np.ndarray
    """Grey values (Z, Y, X)."""
    labels: np.ndarray
    """Labels of the classes that lie inside the scan, uint8 (Z, Y, X)."""
    classes: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    until: float = 1.0
    """The Dice with which the user is content."""

    @classmethod
    def read(cls, image: Path, until: float = 1.0) -> Case:
        """Read a scan of a folder imagesTr and the labels of the same name in labelsTr.

        Args:
            until: The Dice with which the user is content.
        """
        volume = read_scan(image)
        labels = read_labels(image.parents[1] / "labelsTr" / image.name).array.astype(np.uint8)
        inside = np.setdiff1d(labels, labels[[0, -1]])
        kept = np.where(np.isin(labels, inside), labels, 0).astype(np.uint8)
        return cls(image, volume.array, kept, tuple(inside.tolist()), volume.geometry.spacing_mm, until)

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self.image.name.removesuffix(".nii.gz")

    @property
    def all_slices(self) -> tuple[int, ...]:
        """All slices in which somebody would paint."""
        return choose_slices(self.labels, len(self.labels))

    @property
    def first_slices(self) -> tuple[int, ...]:
        """The slices that are painted before anything is interpolated or learned."""
        return choose_slices(
            self.labels, max(MIN_FIRST_SLICES, round(len(self.all_slices) / SLICES_PER_FIRST) + 1)
        )


class User:
    """Somebody who paints a scan; `curve` has what was done."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.shown = np.zeros_like(case.labels)
        """Labels that are painted, interpolated or predicted, uint8 (Z, Y, X)."""
        self.complete: set[int] = set()
        self.effort, self.curve = Effort(), Curve()
        self._overlap = np.zeros((len(self.shown), len(case.classes), 2), int)
        self.count(range(len(self.shown)))

    def count(self, slices: Sequence[int]) -> None:
        """Take note of slices that have changed."""
        for index in slices:
            shown, true = self.shown[index], self.case.labels[index]
            for number, class_id in enumerate(self.case.classes):
                both = ((shown == class_id) & (true == class_id)).sum()
                total = (shown == class_id).sum() + (true == class_id).sum()
                self._overlap[index, number] = 2 * both, total

    @property
    def dice(self) -> float:
        """Mean Dice of the classes in the whole scan."""
        overlap, total = self._overlap.sum(0).T
        return float((overlap / total).mean())

    def step(self, effort: Effort) -> None:
        """Something was done that changes the labels."""
        self.effort += effort
        self.curve.append((self.effort, self.dice))

    def complete_slice(self, index: int, target: np.ndarray, reached: Effort, anew: bool = False) -> None:
        """Paint a slice until it has the labels `target` (rows, columns), and press K or U.

        Args:
            anew: What is shown need not be accepted. Where that is quicker, and where correcting would take
                longer for pointing at each mistake alone, the whole slice is painted without it.
        """
        shown, spacing_mm = self.shown[index], self.case.spacing_mm[1:]
        ways = [paint(np.zeros_like(shown), self.case.labels[index], spacing_mm)] if anew else []
        if not ways or label(shown != target)[1] * POINT_S < ways[0][1].seconds:
            ways.append(paint(shown, target, spacing_mm))
        self.shown[index], effort = min(ways, key=lambda way: way[1].seconds)
        self.complete.add(index)
        self.count([index])
        self.step(reached + effort + Effort(keys=1))

    def paint_whole(self, slices: Sequence[int], reached: Effort) -> None:
        """Paint slices, one after the other."""
        for index in slices:
            if self.dice < self.case.until:
                self.complete_slice(index, self.case.labels[index], reached + Effort(looks=1))

    def correct(self, after_each: Callable[[int], Sequence[int]] | None = None) -> None:
        """Look through the other slices of the structures, then correct the worst one until content.

        Args:
            after_each: Called with each slice that was corrected; returns all slices that have changed. None
                for a prediction, which nobody has to accept.
        """
        truth = self.case.labels
        rest = {*np.flatnonzero((self.shown | truth).any((1, 2))).tolist()} - self.complete
        self.effort += Effort(keys=len(rest), looks=len(rest))
        for visible in (thick, np.asarray):
            wrong = {index: visible(self.shown[index] != truth[index]) for index in range(len(truth))}
            while True:
                worst = max(wrong, key=lambda index: int(wrong[index].sum()))
                if not wrong[worst].any() or self.dice >= self.case.until:
                    break
                target = np.where(wrong[worst], truth[worst], self.shown[worst])
                self.complete_slice(worst, target, Effort(clicks=1, looks=1), anew=after_each is None)
                for index in after_each(worst) if after_each else [worst]:
                    wrong[index] = visible(self.shown[index] != truth[index])

    def interpolate(self, guided: bool, around: int | None = None) -> Sequence[int]:
        """Press *Interpolate*: fill between complete slices, or between the three around one of them.

        Returns:
            The slices that may have changed.
        """
        slices = sorted(self.complete)
        if around is not None:
            place = slices.index(around)
            slices = slices[max(place - 1, 0) : place + 2]
        slab = slice(slices[0], slices[-1] + 1)
        self.shown[slab] = interpolate(
            self.shown[slab],
            [index - slices[0] for index in slices],
            self.case.classes,
            self.case.spacing_mm[1:],
            self.case.scan[slab] if guided else None,
            self.case.spacing_mm[0],
        )
        changed = range(slab.start, slab.stop)
        self.count(changed)
        self.step(Effort(clicks=1))
        return changed

    def propose(self, prediction: np.ndarray) -> None:
        """Show a prediction, uint8 (Z, Y, X), in the slices that are not complete."""
        rest = [index for index in range(len(self.shown)) if index not in self.complete]
        self.shown[rest] = prediction[rest]
        self.count(rest)
        self.step(Effort(clicks=1))


def thick(wrong: np.ndarray) -> np.ndarray:
    """The connected mistakes, bool (rows, columns), that are two pixels wide somewhere."""
    core = binary_opening(wrong, np.ones((2, 2)))
    return np.asarray(binary_propagation(core, mask=wrong), bool)


def brush_alone(case: Case) -> Curve:
    """Paint slice after slice; the next one is one key away."""
    user = User(case)
    user.paint_whole(case.all_slices, Effort(keys=1))
    return user.curve


def with_fill(case: Case, guided: bool) -> Curve:
    """Paint some slices, interpolate, and correct."""
    user = User(case)
    user.paint_whole(case.first_slices, Effort(clicks=1))
    user.interpolate(guided)
    user.correct(lambda index: user.interpolate(guided, index))
    return user.curve


def with_proposals(case: Case, prediction: np.ndarray, slices: Sequence[int]) -> Curve:
    """Paint some slices, then correct a prediction, uint8 (Z, Y, X)."""
    user = User(case)
    user.paint_whole(slices, Effort(clicks=1))
    user.propose(prediction)
    user.correct()
    return user.curve


BY_HAND: dict[str, Callable[[Case], Curve]] = {
    "brush alone": brush_alone,
    "shapes": partial(with_fill, guided=False),
    "guided fill": partial(with_fill, guided=True),
}
