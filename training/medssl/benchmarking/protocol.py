"""Protocol for comparing methods on a data set with few annotated slices.

Every fifth of the sorted cases (every third in some data sets) is a test case, which is never used for
pre-training and never annotated. The seed draws two of the other scans, on which the simulated annotator
completes axial slices. All methods get the same total time for pre-training and fine-tuning; random weights
use all of it for fine-tuning. Alternatively, all methods get the same fine-tuning time, after a pre-training
that ran earlier, during annotation (`Settings.pretrain_minutes`). One *cell* is one method with one seed
(run by experiment.py). `Early` settings also evaluate fine-tuning before its end.

A method is named `weights` or `weights:semi_supervised`: the initial weights of fine-tuning and its use of
unannotated voxels. Weights are "random", "shapes" (shipped), a method of pre-training on the scans from
random weights ("pgl"), or the same from the shipped weights ("shapes+pgl"). Without `semi_supervised`, the
default of fine-tuning applies.

Settings are never tuned on test cases: with `Settings.judge` "validation", labelled scans that are neither
test cases nor annotated are held out and evaluated instead.
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
"""Fraction of a cell's time for pre-training; the rest is for fine-tuning."""

ANNOTATED_SCANS = 2
ALL = 0
"""As a number of slices: all slices of all scans that may be annotated."""
VALIDATION_SCANS = 30
"""Maximum number of validation scans; at most a third of the candidates are used."""


@dataclass(frozen=True)
class Settings:
    """Settings shared by all cells of an experiment."""

    slices: int
    """Total number of annotated slices on two scans (a single one is on the first), or ALL."""
    minutes: float
    """Training time of a cell."""
    device: str = "auto"
    judge: Literal["test", "validation"] = "test"
    """Scans to evaluate."""
    pretrain_share: float = PRETRAIN_SHARE
    """Fraction of `minutes` for pre-training."""
    pretrain_minutes: float = 0.0
    """Pre-training time in addition to `minutes`. It runs once for all seeds, since it does not depend on
    annotations. 0 uses `pretrain_share` instead."""
    pretrain_recipe: str = "quick"
    finetune_recipe: str = "quick"
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Settings that override the recipe of pre-training."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Settings that override the recipe of fine-tuning."""

    def concerning(self, method: str) -> Settings:
        """Copy with defaults for settings that do not affect a method, so that its cells compare equal."""
        if Combination.of(method).pretraining is None:
            return replace(self, pretrain_share=0.0, pretrain_minutes=0.0, pretrain_recipe="", pretrain={})
        return replace(self, pretrain_share=0.0) if self.pretrain_minutes else self


@dataclass(frozen=True)
class Early(Settings):
    """Settings of an experiment that also evaluates fine-tuning before its end, on the judged scans only."""

    marks_s: tuple[float, ...] = ()
    """Seconds of fine-tuning after which to evaluate, in addition to the end."""
    max_judged: int = 0
    """Maximum number of scans to evaluate, spaced evenly; 0 for all."""


@dataclass(frozen=True)
class Combination:
    """The parts of a method's name."""

    weights: str
    semi_supervised: SemiSupervised | None

    @property
    def pretraining(self) -> str | None:
        """Method of pre-training on the scans; None without pre-training."""
        if self.weights in (RANDOM, SHAPES):
            return None
        return self.weights.removeprefix(f"{SHAPES}+")

    @property
    def start(self) -> str:
        """Initial weights of the pre-training, or of the fine-tuning without pre-training."""
        return SHAPES if self.weights.startswith(SHAPES) else RANDOM

    @classmethod
    def of(cls, method: str) -> Combination:
        """Parse "weights" or "weights:semi_supervised".

        Raises:
            UserError: "no-method" for an unknown `semi_supervised`.
        """
        weights, _, semi_supervised = method.partition(":")
        if semi_supervised and semi_supervised not in get_args(SemiSupervised):
            raise UserError(
                f"{method!r} has an unknown suffix; after the colon, write one of "
                f"{', '.join(get_args(SemiSupervised))}.",
                code="no-method",
            )
        return cls(weights, semi_supervised or None)  # type: ignore[arg-type]  # checked above


@dataclass(frozen=True)
class Material:
    """A data set and the project with its scans."""

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
        """{scan id: label file} of the labelled cases that are not test cases."""
        return self._labels(split(self.dataset.pairs, self.test_every)[1])

    def _labels(self, pairs: tuple[tuple[Path, Path], ...]) -> dict[str, Path]:
        return {self.scan_ids[image]: labels for image, labels in pairs}


@dataclass(frozen=True)
class Assignment:
    """Task of a method: learn from the project's annotations, segment the judged scans."""

    material: Material
    method: str
    seed: int
    settings: Settings
    annotated: dict[str, list[int]]
    """{scan id: complete axial slices}; an empty list if all slices are complete."""
    judged: dict[str, Path]
    """{scan id: label file} of the scans to evaluate; held out of all training."""

    @property
    def painted(self) -> dict[str, Path]:
        """{scan id: label file} of partly annotated scans."""
        return {scan: self.material.rest[scan] for scan, slices in self.annotated.items() if slices}

    @property
    def marks_s(self) -> tuple[float, ...]:
        """Seconds of fine-tuning after which to evaluate, in ascending order."""
        return tuple(sorted(self.settings.marks_s)) if isinstance(self.settings, Early) else ()

    @property
    def scans(self) -> tuple[str, ...]:
        """Scans to segment: the judged ones and, except with `Early` settings, the partly annotated ones."""
        return tuple(self.judged) if isinstance(self.settings, Early) else (*self.judged, *self.painted)


def gather(
    project: Project, dataset: Dataset, tell: Callable[[float], None], test_every: int = TEST_EVERY
) -> Material:
    """Add the scans of a data set to a project, with test cases held out; existing scans are reused.

    Args:
        project: project to add the scans to.
        dataset: data set.
        tell: called with the fraction that is done.
        test_every: interval of the test cases, see `dataset.split`.
    """
    existing = {scan.source: scan.id for scan in project.scans.values()}
    test = {image for image, _ in split(dataset.pairs, test_every)[0]}
    images = [image for image, _ in dataset.pairs] + list(dataset.unlabelled)
    scan_ids = {}
    for position, image in enumerate(images):
        path = image.resolve()
        scan_ids[image] = existing.get(str(path)) or project.add_scan(path, held_out=image in test).id
        tell((position + 1) / len(images))
    return Material(project, dataset, scan_ids, test_every)


def assign(material: Material, method: str, seed: int, settings: Settings) -> Assignment:
    """Annotate the scans of a seed, hold out the judged scans, and include all others in training."""
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
    """Choose validation scans at even intervals from those that are neither test cases nor annotated.

    Returns:
        {scan id: label file}.

    Raises:
        UserError: "too-small" if there are too few.
    """
    free = [(scan_id, labels) for scan_id, labels in material.rest.items() if scan_id not in annotated]
    chosen = dict(free[:: max(3, math.ceil(len(free) / VALIDATION_SCANS))])
    if not chosen:
        raise UserError(
            f"{material.dataset.name} has too few labelled scans for validation; add labelled scans, or "
            "evaluate on the test scans.",
            code="too-small",
        )
    return chosen


def draw_scans(material: Material, seed: int) -> list[str]:
    """Draw the scans that are annotated for a seed.

    Raises:
        UserError: "too-small" if there are too few labelled scans.
    """
    rest = list(material.rest)
    if len(rest) < ANNOTATED_SCANS:
        raise UserError(
            f"{material.dataset.name} has {len(rest)} labelled scans other than test scans; "
            f"at least {ANNOTATED_SCANS} are needed.",
            code="too-small",
        )
    drawn = np.random.default_rng(seed).choice(len(rest), size=ANNOTATED_SCANS, replace=False)
    return [rest[index] for index in sorted(int(index) for index in drawn)]


def annotate_for(
    material: Material, seed: int, slices: int, judged: Container[str] = ()
) -> dict[str, list[int]]:
    """Replace the annotations of the project with those of a seed.

    Args:
        material: data set and project.
        seed: draws the two scans to annotate.
        slices: total number of slices to annotate; ALL annotates all scans completely.
        judged: scans that ALL leaves out.

    Returns:
        {scan id: complete axial slices}; empty lists with ALL.

    Raises:
        UserError: "too-small" if there are too few labelled scans.
    """
    project, rest = material.project, material.rest
    drawn = draw_scans(material, seed)
    for scan_id in project.annotated():
        empty = np.zeros(project.image(scan_id).shape, dtype=np.uint8)
        project.save_annotation(scan_id, Annotation(labels=empty, complete=()))
    completed: dict[str, list[int]] = {}
    for scan_id in [scan for scan in rest if scan not in judged] if slices == ALL else drawn:
        labels = reference_labels(project.scans[scan_id], rest[scan_id])
        if slices == ALL:
            project.save_annotation(scan_id, annotate(labels, range(len(labels))))
            completed[scan_id] = []
            continue
        position = len(completed)
        count = slices // ANNOTATED_SCANS + (position < slices % ANNOTATED_SCANS)
        if count:
            completed[scan_id] = list(choose_slices(labels, count))
            project.save_annotation(scan_id, annotate(labels, completed[scan_id]))
    return completed
