"""Comparing methods on a data set with few annotated slices.

The protocol: every fifth of the sorted cases (of some data sets every third) is a test case, never
pre-trained on and never annotated. The seed draws two scans from the rest, on which the simulated annotator
completes axial slices. Every method gets the same time, pre-training and fine-tuning together; random weights
may fine-tune for all of it. Or every method gets the same time for fine-tuning, after a pre-training that
came before, while people painted (`Settings.pretrain_minutes`). One *cell* is one method under one seed
(experiment.py runs it). Under `Early` settings fine-tuning is judged on its way, too.

A method is named `weights` or `weights:semi_supervised`: what fine-tuning starts from and what it does with
voxels that
nobody painted. Weights are "random", "shapes" (those that ship), a pre-training method on the scans from
random weights ("pgl"), or from the shipped ones ("shapes+pgl"). Without `semi_supervised`, fine-tuning does
what it does
anyway.

Settings are never tuned on test cases: `Settings.judge` "validation" judges on labelled scans that are
neither test cases nor annotated, and holds them out as if they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from medssl.benchmarking.dataset import TEST_EVERY, Dataset, split
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.errors import UserError
from medssl.core.jobs import SemiSupervised
from medssl.core.labels.evaluate import reference_labels
from medssl.core.project.project import Annotation, Project
from medssl.core.shipped import RANDOM, SHAPES

PRETRAIN_SHARE = 0.4
"""Of a pre-trained cell's time, the part for pre-training; fine-tuning has the rest."""

ANNOTATED_SCANS = 2
ALL = 0
"""As a number of slices: every slice of every scan that may be annotated."""
VALIDATION_SCANS = 30
"""At most so many validation scans, and no more than a third of what could be."""


@dataclass(frozen=True)
class Settings:
    """What all cells of a study share."""

    slices: int
    """Annotated slices in all, spread over two scans; one lies on the first of these. Or ALL."""
    minutes: float
    """Training time of a cell."""
    device: str = "auto"
    judge: Literal["test", "validation"] = "test"
    pretrain_share: float = PRETRAIN_SHARE
    pretrain_minutes: float = 0.0
    """Pre-training on top of `minutes`, once for all seeds, since nothing that is painted matters to it; 0
    takes `pretrain_share` of `minutes` instead."""
    pretrain_recipe: str = "quick"
    finetune_recipe: str = "quick"
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Overrides of the pre-training's recipe."""
    finetune: dict[str, Any] = field(default_factory=dict)

    def concerning(self, method: str) -> Settings:
        """Without what the method has nothing to do with: its cells stay the same."""
        if Combination.of(method).pretraining is None:
            return replace(self, pretrain_share=0.0, pretrain_minutes=0.0, pretrain_recipe="", pretrain={})
        return replace(self, pretrain_share=0.0) if self.pretrain_minutes else self


@dataclass(frozen=True)
class Early(Settings):
    """Of a study that asks how good a fine-tuning is while it goes on; painted scans are not judged."""

    marks_s: tuple[float, ...] = ()
    """Seconds of fine-tuning after which it is judged, besides its end."""
    max_judged: int = 0
    """Judge at most so many scans, evenly from all that there are; 0 for all."""


@dataclass(frozen=True)
class Combination:
    """A method's name taken apart."""

    weights: str
    semi_supervised: SemiSupervised | None

    @property
    def pretraining(self) -> str | None:
        """The method of the pre-training on the scans; None where there is none."""
        if self.weights in (RANDOM, SHAPES):
            return None
        return self.weights.removeprefix(f"{SHAPES}+")

    @property
    def start(self) -> str:
        """What that pre-training, or the fine-tuning without one, starts from."""
        return SHAPES if self.weights.startswith(SHAPES) else RANDOM

    @classmethod
    def of(cls, method: str) -> Combination:
        """Read "weights" or "weights:semi".

        Raises UserError ("no-method") for a `semi_supervised` that is unknown.
        """
        weights, _, semi_supervised = method.partition(":")
        if semi_supervised and semi_supervised not in get_args(SemiSupervised):
            raise UserError(
                f"{method!r} ends in none of {', '.join(get_args(SemiSupervised))}; write one of them after "
                "the colon.",
                code="no-method",
            )
        return cls(weights, semi_supervised or None)  # type: ignore[arg-type]  # it is one of them


@dataclass(frozen=True)
class Material:
    """A data set and the project that its scans are in."""

    project: Project
    dataset: Dataset
    scan_ids: dict[Path, str]
    """{image file: scan id}."""
    test_every: int = TEST_EVERY

    @property
    def references(self) -> dict[str, Path]:
        """{scan id: label file} of the test cases."""
        return self._labels(split(self.dataset.pairs, self.test_every)[0])

    @property
    def rest(self) -> dict[str, Path]:
        """{scan id: label file} of the labelled cases that are no test cases."""
        return self._labels(split(self.dataset.pairs, self.test_every)[1])

    def _labels(self, pairs: tuple[tuple[Path, Path], ...]) -> dict[str, Path]:
        return {self.scan_ids[image]: labels for image, labels in pairs}


@dataclass(frozen=True)
class Assignment:
    """What a method is to do: learn from the project's annotations, segment the judged scans."""

    material: Material
    method: str
    seed: int
    settings: Settings
    annotated: dict[str, list[int]]
    """{scan id: completed axial slices}; none are named where all of them are."""
    judged: dict[str, Path]
    """{scan id: label file}; held out of all training."""

    @property
    def painted(self) -> dict[str, Path]:
        """{scan id: label file} of what is annotated in part."""
        return {scan: self.material.rest[scan] for scan, slices in self.annotated.items() if slices}

    @property
    def marks_s(self) -> tuple[float, ...]:
        """When to read off how good the method is on its way, in seconds of fine-tuning; rising."""
        return tuple(sorted(self.settings.marks_s)) if isinstance(self.settings, Early) else ()

    @property
    def scans(self) -> tuple[str, ...]:
        """What to segment: the judged scans, and those that are annotated in part unless time is short."""
        return tuple(self.judged) if isinstance(self.settings, Early) else (*self.judged, *self.painted)


def gather(
    project: Project, dataset: Dataset, tell: Callable[[float], None], test_every: int = TEST_EVERY
) -> Material:
    """Add the data set's scans to the project, test cases held out; scans already there are not read again.

    Args:
        tell: is told the fraction done.
    """
    known = {scan.source: scan.id for scan in project.scans.values()}
    test = {image for image, _ in split(dataset.pairs, test_every)[0]}
    images = [image for image, _ in dataset.pairs] + list(dataset.unlabelled)
    scan_ids = {}
    for position, image in enumerate(images):
        path = image.resolve()
        scan_ids[image] = known.get(str(path)) or project.add_scan(path, held_out=image in test).id
        tell((position + 1) / len(images))
    return Material(project, dataset, scan_ids, test_every)


def assign(material: Material, method: str, seed: int, settings: Settings) -> Assignment:
    """Annotate for the seed, hold out what is judged, let everything else take part."""
    judged = material.references
    if settings.judge == "validation":
        judged = validation_scans(material, draw_scans(material, seed))
    annotated = annotate_for(material, seed, settings.slices, judged)
    held_out = {*material.references, *judged}
    for scan in list(material.project.scans.values()):
        if scan.held_out != (scan.id in held_out):
            material.project.hold_out(scan.id, scan.id in held_out)
    if isinstance(settings, Early) and settings.max_judged:
        judged = dict(list(judged.items())[:: math.ceil(len(judged) / settings.max_judged)])
    return Assignment(material, method, seed, settings.concerning(method), annotated, judged)


def validation_scans(material: Material, annotated: Collection[str]) -> dict[str, Path]:
    """{scan id: label file} of scans to judge settings on, evenly from those that are no test cases.

    Raises UserError ("too-small").
    """
    free = [(scan_id, labels) for scan_id, labels in material.rest.items() if scan_id not in annotated]
    chosen = dict(free[:: max(3, math.ceil(len(free) / VALIDATION_SCANS))])
    if not chosen:
        raise UserError(
            f"{material.dataset.name} has too few labelled scans to judge on any but the test scans.",
            code="too-small",
        )
    return chosen


def draw_scans(material: Material, seed: int) -> list[str]:
    """The scans that are annotated for a seed. Raises UserError ("too-small")."""
    rest = list(material.rest)
    if len(rest) < ANNOTATED_SCANS:
        raise UserError(
            f"{material.dataset.name} has {len(rest)} labelled scans besides the test scans; "
            f"at least {ANNOTATED_SCANS} are needed.",
            code="too-small",
        )
    drawn = np.random.default_rng(seed).choice(len(rest), size=ANNOTATED_SCANS, replace=False)
    return [rest[index] for index in sorted(int(index) for index in drawn)]


def annotate_for(
    material: Material, seed: int, slices: int, judged: Container[str] = ()
) -> dict[str, list[int]]:
    """Replace all annotations of the project by those of the seed's two scans, or of ALL but the judged ones.

    Returns {scan id: completed axial slices}, none of ALL. Raises UserError ("too-small").
    """
    project, rest = material.project, material.rest
    drawn = draw_scans(material, seed)
    for scan_id in project.annotated():
        nothing = np.zeros(project.image(scan_id).shape, dtype=np.uint8)
        project.save_annotation(scan_id, Annotation(labels=nothing, complete=()))
    completed: dict[str, list[int]] = {}
    for scan_id in [scan for scan in rest if scan not in judged] if slices == ALL else drawn:
        labels = reference_labels(project.scans[scan_id], rest[scan_id])
        if slices == ALL:
            project.save_annotation(scan_id, annotate(labels, range(len(labels))))
            completed[scan_id] = []
            continue
        part = len(completed)
        count = slices // ANNOTATED_SCANS + (part < slices % ANNOTATED_SCANS)
        if count:
            completed[scan_id] = list(choose_slices(labels, count))
            project.save_annotation(scan_id, annotate(labels, completed[scan_id]))
    return completed
