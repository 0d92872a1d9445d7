"""Runs one cell of an experiment: train a method on the annotations of a seed, segment, evaluate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from medssl.benchmarking.metrics import MEASURES, measure
from medssl.benchmarking.protocol import Assignment, Combination, Material, Settings, assign
from medssl.benchmarking.results_log import Cell
from medssl.benchmarking.surroundings import surroundings
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, Job, PretrainJob, to_json
from medssl.core.labels.evaluate import Scores, reference_labels
from medssl.core.labels.metrics import dice
from medssl.core.project.project import IGNORE, Project, Run

Work = Callable[[Job], dict[str, Any]]
"""Runs a job and returns its result; raises Stopped if the job was stopped."""


class Stopped(Exception):
    """The user stopped the running job; finished results are kept."""


@dataclass(frozen=True)
class Moment:
    """State of a fine-tuning before its end."""

    prediction: Callable[[str], np.ndarray]
    """Maps a scan id to its labels (Z, Y, X)."""
    reached: dict[str, Any] = field(default_factory=dict)
    """"step" and "elapsed_s" if known; the snapshot is taken at the first step after the requested time."""


@dataclass(frozen=True)
class Outcome:
    """Result of a method."""

    prediction: Callable[[str], np.ndarray]
    """Maps a scan id to its labels (Z, Y, X)."""
    seconds: dict[str, float]
    """Times by phase, and "wall"."""
    on_the_way: dict[float, Moment] = field(default_factory=dict)
    """{seconds of fine-tuning: state at that time}."""
    painted_only: bool = False
    """The method can only segment annotated scans."""
    runs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """For this engine: "semi_supervised", and the "cores" that fine-tuning used (CPU time per wall time)."""


def run_cell(material: Material, method: str, seed: int, settings: Settings, work: Work) -> Cell:
    """Annotate, pre-train if the method does, fine-tune, segment and evaluate.

    Args:
        material: data set and project.
        method: name as in protocol.Combination.
        seed: seed of the annotated scans and of the training.
        settings: settings of the experiment.
        work: runs a job.
    """
    assignment = assign(material, method, seed, settings)
    return judge(assignment, train(assignment, work))


def train(assignment: Assignment, work: Work) -> Outcome:
    """Pre-train and fine-tune with this engine."""
    project, settings = assignment.material.project, assignment.settings
    combination = Combination.of(assignment.method)
    common: dict[str, Any] = {
        "project": str(project.root), "seed": assignment.seed, "device": settings.device
    }  # fmt: skip
    results: dict[str, dict[str, Any]] = {}
    minutes, marks = settings.minutes, assignment.marks_s
    begin = time.monotonic()
    if combination.pretraining:
        pretraining = PretrainJob(
            **common,
            method=combination.pretraining,
            weights=combination.start,
            minutes=settings.pretrain_minutes or settings.minutes * settings.pretrain_share,
            recipe=settings.pretrain_recipe,
            settings=settings.pretrain,
        )
        if settings.pretrain_minutes:
            pretraining = replace(pretraining, seed=0)
            results["pretrain"] = _finished_pretraining(project, pretraining) or work(pretraining)
        else:
            minutes -= settings.minutes * settings.pretrain_share
            results["pretrain"] = work(pretraining)
    ends_marked = bool(marks) and marks[-1] >= 60 * minutes  # otherwise the job segments the scans at its end
    job = FinetuneJob(
        **common,
        weights=results["pretrain"]["run"] if results else combination.start,
        minutes=minutes,
        recipe=settings.finetune_recipe,
        settings={**settings.finetune, **({"snapshots_s": list(marks)} if marks else {})},
        semi_supervised=combination.semi_supervised or FinetuneJob.semi_supervised,
        predict_scans=() if ends_marked else assignment.scans,
    )
    start = time.monotonic(), time.process_time()
    results["finetune"] = work(job)
    cores = (time.process_time() - start[1]) / max(1e-9, time.monotonic() - start[0])
    run = project.run(results["finetune"]["run"])
    plan = run.card.get("plan", {})
    on_the_way = {mark: _after(assignment, run, mark) for mark in marks}
    end = on_the_way[marks[-1]].prediction if ends_marked else None
    return Outcome(
        prediction=end or (lambda scan_id: _saved(project, run.id, scan_id)),
        on_the_way=on_the_way,
        seconds={
            **{phase: result["seconds"] for phase, result in results.items()},
            "wall": time.monotonic() - begin,
        },
        runs={phase: result["run"] for phase, result in results.items()},
        steps={phase: result["step"] for phase, result in results.items() if "step" in result},
        notes={"semi_supervised": job.semi_supervised, "cores": round(cores, 2)},
        plan={name: plan.get(name) for name in ("dims", "patch_vox", "batch", "precision", "threads")},
    )


def _after(assignment: Assignment, run: Run, seconds: float) -> Moment:
    """Segment the scans with the weights of a run after some seconds of fine-tuning.

    Raises:
        UserError: "no-checkpoint" if the run ended before.
    """
    from medssl.tasks.inference.predict import Trained  # torch
    from medssl.tasks.training.snapshots import snapshot_file

    project = assignment.material.project
    scans = assignment.scans if seconds == assignment.marks_s[-1] else assignment.judged
    trained = Trained.of(snapshot_file(run.checkpoint, seconds), run.id, assignment.settings.device)
    labels = {scan_id: trained.labels(project, scan_id) for scan_id in scans}
    reached = {name: round(trained.card[name], 1) for name in ("step", "elapsed_s")}
    return Moment(labels.__getitem__, reached)


def _finished_pretraining(project: Project, job: PretrainJob) -> dict[str, Any] | None:
    """Result of an identical, finished pre-training on the same scans; None if there is none."""
    scans = [scan.sha256 for scan in project.scans.values() if not scan.held_out]
    for run in project.runs("pretrain"):
        if (
            run.job == to_json(job)
            and run.collapse_report
            and run.card["scans"] == scans
            and run.checkpoint.exists()
        ):
            return {"run": run.id, "step": run.card["step"], "seconds": run.card["elapsed_s"]}
    return None


def _saved(project: Project, run_id: str, scan_id: str) -> np.ndarray:
    prediction = project.prediction(run_id, scan_id)
    if prediction is None:
        raise UserError(
            f"Run {run_id} has not predicted {scan_id}; run the cell again.", code="no-prediction"
        )
    return prediction


def judge(assignment: Assignment, outcome: Outcome) -> Cell:
    """Compare the predictions with the reference labels and return the finished cell.

    A method that can only segment annotated scans is evaluated on these (`Cell.judged_on`).
    """
    material, settings = assignment.material, assignment.settings
    painted = {scan: labels for scan, labels in assignment.painted.items() if scan in assignment.scans}
    scores = _scores(material, assignment.painted if outcome.painted_only else assignment.judged, outcome)
    of_class = {name: _of_class(metric_scores) for name, metric_scores in scores.items()}
    return Cell(
        dataset=material.dataset.name,
        method=assignment.method,
        seed=assignment.seed,
        settings=asdict(settings),
        judged_on="painted" if outcome.painted_only else settings.judge,
        annotated=assignment.annotated,
        seconds={phase: round(value, 1) for phase, value in outcome.seconds.items()},
        **_dice_fields(scores["dice"]),
        hausdorff95_mm=_number(scores["hausdorff95_mm"].mean),
        hausdorff95_mm_of_class=of_class["hausdorff95_mm"],
        volume_error=_number(scores["volume_error"].mean),
        volume_error_of_class=of_class["volume_error"],
        dice_on_painted_scans=_number(_dice_on_painted(material, painted, outcome)),
        after_s={
            f"{mark:g}": {**_dice_alone(assignment, moment.prediction), **moment.reached}
            for mark, moment in outcome.on_the_way.items()
        },
        runs=outcome.runs,
        steps=outcome.steps,
        plan=outcome.plan,
        notes=outcome.notes,
        machine=surroundings(settings.device),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def _scores(material: Material, references: Mapping[str, Path], outcome: Outcome) -> dict[str, Scores]:
    """{metric: scores} on some scans."""
    classes = material.project.classes
    measured = {}
    for scan_id, labels in references.items():
        scan = material.project.scans[scan_id]
        measured[scan_id] = measure(
            outcome.prediction(scan_id),
            reference_labels(scan, labels),
            [label_class.id for label_class in classes],
            scan.geometry.spacing_mm,
        )
    return {
        name: Scores(classes, {scan_id: values[name] for scan_id, values in measured.items()})
        for name in MEASURES
    }


def _dice_fields(scores: Scores) -> dict[str, Any]:
    """The fields of a cell with Dice scores."""
    return {
        "dice": round(scores.mean, 4),
        "dice_of_class": _of_class(scores),
        "dice_of_scan": {scan_id: _number(scores.of_scan(scan_id)) for scan_id in scores.values},
    }


def _of_class(scores: Scores) -> dict[str, float | None]:
    return {entry.name: _number(scores.of_class(entry.id)) for entry in scores.classes}


def _dice_alone(assignment: Assignment, prediction: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """The fields of a cell with Dice scores, on the judged scans."""
    project = assignment.material.project
    ids = [label_class.id for label_class in project.classes]
    scores = {
        scan_id: dice(prediction(scan_id), reference_labels(project.scans[scan_id], labels), ids)
        for scan_id, labels in assignment.judged.items()
    }
    return _dice_fields(Scores(project.classes, scores))


def _dice_on_painted(material: Material, painted: Mapping[str, Path], outcome: Outcome) -> float:
    """Mean Dice on the annotated scans as they would be exported: annotated voxels keep their labels."""
    classes = material.project.classes
    values = {}
    for scan_id, labels in painted.items():
        reference = reference_labels(material.project.scans[scan_id], labels)
        annotation = material.project.annotation(scan_id)
        assert annotation is not None  # the protocol annotated it
        target = annotation.target()
        labels_zyx = np.where(target != IGNORE, target, outcome.prediction(scan_id))
        values[scan_id] = dice(labels_zyx, reference, [label_class.id for label_class in classes])
    return Scores(classes, values).mean


def _number(value: float) -> float | None:
    """Rounded; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 4)
