"""Comparing initialisations on a data set with few annotated slices: random weights against pre-trained ones.

The protocol: every fifth of the sorted cases is a test case, never pre-trained on and never annotated. The
seed draws two scans from the rest, on which the simulated annotator completes axial slices. Every
initialisation gets the same time, pre-training and fine-tuning together; random weights may fine-tune for all
of it. One *cell* is one initialisation under one seed. Finished cells are kept in `cells.jsonl`, so that a
study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.annotator import annotate, choose_slices
from medssl.config import FinetuneJob, Job, PretrainJob
from medssl.dataset import Dataset, split
from medssl.errors import UserError
from medssl.evaluate import evaluate, reference_labels
from medssl.files import write_whole
from medssl.project import Annotation, Project

PRETRAIN_SHARE = 0.4
"""Of a pre-trained cell's time, the part for pre-training; fine-tuning has the rest."""

ANNOTATED_SCANS = 2
RANDOM = "random"

Work = Callable[[Job], dict[str, Any]]
"""Runs a job to its end and returns its result; raises Stopped where it was stopped."""


class Stopped(Exception):
    """The user stopped the running job; what is finished is kept."""


@dataclass(frozen=True)
class Settings:
    """What all cells of a study share."""

    slices: int
    """Annotated slices in all, spread over two scans."""
    minutes: float
    """Training time of a cell."""
    device: str = "auto"
    pretrain_share: float = PRETRAIN_SHARE


@dataclass(frozen=True)
class Cell:
    """One initialisation under one seed, finished."""

    initialisation: str
    seed: int
    settings: dict[str, Any]
    annotated: dict[str, list[int]]
    """{scan id: completed axial slices}."""
    pretrain_run: str | None
    finetune_run: str
    seconds: dict[str, float]
    """Training time of "pretrain" and "finetune", and the "wall" time of all, planning and predicting too."""
    dice: float
    dice_of_class: dict[str, float]


@dataclass(frozen=True)
class Material:
    """A data set and the project that its scans are in."""

    project: Project
    dataset: Dataset
    scan_ids: dict[Path, str]
    """{image file: scan id}."""

    @property
    def references(self) -> dict[str, Path]:
        """{scan id: label file} of the test cases."""
        return {self.scan_ids[image]: labels for image, labels in split(self.dataset.pairs)[0]}


def gather(project: Project, dataset: Dataset, tell: Callable[[float], None]) -> Material:
    """Add the data set's scans to the project, test cases held out; scans already there are not read again.

    Args:
        tell: is told the fraction done.
    """
    known = {scan.source: scan.id for scan in project.scans.values()}
    test = {image for image, _ in split(dataset.pairs)[0]}
    images = [image for image, _ in dataset.pairs] + list(dataset.unlabelled)
    scan_ids = {}
    for position, image in enumerate(images):
        path = image.resolve()
        scan_ids[image] = known.get(str(path)) or project.add_scan(path, held_out=image in test).id
        tell((position + 1) / len(images))
    return Material(project, dataset, scan_ids)


def annotate_for(material: Material, seed: int, slices: int) -> dict[str, list[int]]:
    """Replace all annotations of the project by those of the seed's two scans.

    Returns {scan id: completed axial slices}. Raises UserError ("too-small").
    """
    project, rest = material.project, split(material.dataset.pairs)[1]
    if len(rest) < ANNOTATED_SCANS:
        raise UserError(
            f"{material.dataset.name} has {len(rest)} labelled scans besides the test scans; "
            f"at least {ANNOTATED_SCANS} are needed.",
            code="too-small",
        )
    for scan_id in project.annotated():
        nothing = np.zeros(project.image(scan_id).shape, dtype=np.uint8)
        project.save_annotation(scan_id, Annotation(labels=nothing, complete=()))
    drawn = np.random.default_rng(seed).choice(len(rest), size=ANNOTATED_SCANS, replace=False)
    completed = {}
    for part, index in enumerate(sorted(int(index) for index in drawn)):
        image, labels_path = rest[index]
        scan_id = material.scan_ids[image]
        labels = reference_labels(project.scans[scan_id], labels_path)
        chosen = choose_slices(labels, slices // ANNOTATED_SCANS + (part < slices % ANNOTATED_SCANS))
        project.save_annotation(scan_id, annotate(labels, chosen))
        completed[scan_id] = list(chosen)
    return completed


def run_cell(material: Material, initialisation: str, seed: int, settings: Settings, work: Work) -> Cell:
    """Annotate, pre-train unless the weights are random, fine-tune, predict the test scans, evaluate."""
    project, references = material.project, material.references
    annotated = annotate_for(material, seed, settings.slices)
    common: dict[str, Any] = {"project": str(project.root), "seed": seed, "device": settings.device}
    seconds: dict[str, float] = {}
    weights = None
    minutes = settings.minutes
    begin = time.monotonic()
    if initialisation != RANDOM:
        pretraining = settings.minutes * settings.pretrain_share
        minutes -= pretraining
        result = work(PretrainJob(**common, method=initialisation, minutes=pretraining))
        weights, seconds["pretrain"] = result["run"], result["seconds"]
    result = work(FinetuneJob(**common, weights=weights, minutes=minutes, predict_scans=tuple(references)))
    run_id, seconds["finetune"] = result["run"], result["seconds"]
    seconds["wall"] = time.monotonic() - begin
    scores = evaluate(project, run_id, references)
    return Cell(
        initialisation=initialisation,
        seed=seed,
        settings=asdict(settings),
        annotated=annotated,
        pretrain_run=weights,
        finetune_run=run_id,
        seconds={phase: round(value, 1) for phase, value in seconds.items()},
        dice=scores.mean,
        dice_of_class={each.name: scores.of_class(each.id) for each in scores.classes},
    )


def read_cells(path: Path) -> list[Cell]:
    """The finished cells of a study, oldest first; none where the file is not there yet.

    Raises UserError ("unreadable").
    """
    if not path.exists():
        return []
    try:
        return [Cell(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged or from another version ({error}); delete it to run its cells again.",
            code="unreadable",
        ) from error


def write_cells(path: Path, cells: Sequence[Cell]) -> None:
    """Keep the finished cells, one JSON object a line."""
    text = "".join(json.dumps(asdict(cell)) + "\n" for cell in cells)
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def finished(cells: Sequence[Cell], initialisation: str, seed: int, settings: Settings) -> Cell | None:
    """The newest finished cell of this initialisation, seed and settings."""
    fitting = [
        cell
        for cell in cells
        if (cell.initialisation, cell.seed, cell.settings) == (initialisation, seed, asdict(settings))
    ]
    return fitting[-1] if fitting else None


@dataclass(frozen=True)
class Row:
    """One initialisation over its seeds."""

    initialisation: str
    seeds: tuple[int, ...]
    dice: float
    spread: float | None
    """Sample standard deviation over seeds; None for one seed."""
    dice_of_class: dict[str, float]
    seconds: dict[str, float]
    """Mean over seeds."""


def rows(cells: Sequence[Cell]) -> list[Row]:
    """The cells summed up over seeds, initialisations in the order in which they first occur."""
    result = []
    for initialisation in dict.fromkeys(cell.initialisation for cell in cells):
        of_it = [cell for cell in cells if cell.initialisation == initialisation]
        scores = [cell.dice for cell in of_it]
        result.append(
            Row(
                initialisation=initialisation,
                seeds=tuple(cell.seed for cell in of_it),
                dice=statistics.fmean(scores),
                spread=statistics.stdev(scores) if len(scores) > 1 else None,
                dice_of_class={
                    name: statistics.fmean(cell.dice_of_class[name] for cell in of_it)
                    for name in of_it[0].dice_of_class
                },
                seconds={
                    phase: statistics.fmean(cell.seconds[phase] for cell in of_it)
                    for phase in of_it[0].seconds
                },
            )
        )
    return result
