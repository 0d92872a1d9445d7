"""One cell of a study: a method learns from what the seed had annotated, segments, and is judged."""

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
"""Runs a job to its end and returns its result; raises Stopped where it was stopped."""


class Stopped(Exception):
    """The user stopped the running job; what is finished is kept."""


@dataclass(frozen=True)
class Moment:
    """A fine-tuning on its way."""

    prediction: Callable[[str], np.ndarray]
    """Labels (Z, Y, X) of a judged scan."""
    reached: dict[str, Any] = field(default_factory=dict)
    """The "step" and the "elapsed_s", as far as they are known; a step may end somewhat later than asked."""


@dataclass(frozen=True)
class Outcome:
    """What a method made of its assignment."""

    prediction: Callable[[str], np.ndarray]
    """Labels (Z, Y, X) of a scan."""
    seconds: dict[str, float]
    on_the_way: dict[float, Moment] = field(default_factory=dict)
    """What it had learned after so many seconds of fine-tuning."""
    painted_only: bool = False
    """It can only segment the scans that were annotated."""
    runs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """Of our own trainings: "semi_supervised", and how many "cores" fine-tuning had of this process's own."""


def run_cell(material: Material, method: str, seed: int, settings: Settings, work: Work) -> Cell:
    """Annotate, pre-train unless the weights are random, fine-tune, segment, judge."""
    assignment = assign(material, method, seed, settings)
    return judge(assignment, train(assignment, work))


def train(assignment: Assignment, work: Work) -> Outcome:
    """Pre-training and fine-tuning by this engine."""
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
            results["pretrain"] = _done_before(project, pretraining) or work(pretraining)
        else:
            minutes -= settings.minutes * settings.pretrain_share
            results["pretrain"] = work(pretraining)
    ends_marked = bool(marks) and marks[-1] >= 60 * minutes  # else its end is segmented by the job itself
    job = FinetuneJob(
        **common,
        weights=results["pretrain"]["run"] if results else combination.start,
        minutes=minutes,
        recipe=settings.finetune_recipe,
        settings={**settings.finetune, **({"snapshots_s": list(marks)} if marks else {})},
        semi_supervised=combination.semi_supervised or FinetuneJob.semi_supervised,
        predict_scans=() if ends_marked else assignment.scans,
    )
    began = time.monotonic(), time.process_time()
    results["finetune"] = work(job)
    cores = (time.process_time() - began[1]) / max(1e-9, time.monotonic() - began[0])
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
    """What the run's weights make of the scans after so many seconds; all are segmented at once.

    Raises UserError ("no-checkpoint") where it ended before.
    """
    from medssl.tasks.inference.predict import Trained  # torch
    from medssl.tasks.snapshots import snapshot_file

    project = assignment.material.project
    scans = assignment.scans if seconds == assignment.marks_s[-1] else assignment.judged
    trained = Trained.of(snapshot_file(run.checkpoint, seconds), run.id, assignment.settings.device)
    labels = {scan_id: trained.labels(project, scan_id) for scan_id in scans}
    reached = {name: round(trained.card[name], 1) for name in ("step", "elapsed_s")}
    return Moment(labels.__getitem__, reached)


def _done_before(project: Project, job: PretrainJob) -> dict[str, Any] | None:
    """What `work` said of this very pre-training on these very scans; None if it was not, or not whole."""
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
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
    """Compare the predictions with the reference labels; the finished cell.

    A method that can go on in painted scans only is judged on these, and the cell says so.
    """
    material, settings = assignment.material, assignment.settings
    painted = {scan: labels for scan, labels in assignment.painted.items() if scan in assignment.scans}
    scores = _scores(material, assignment.painted if outcome.painted_only else assignment.judged, outcome)
    of_class = {name: _of_class(of_it) for name, of_it in scores.items()}
    return Cell(
        dataset=material.dataset.name,
        method=assignment.method,
        seed=assignment.seed,
        settings=asdict(settings),
        judged_on="painted" if outcome.painted_only else settings.judge,
        annotated=assignment.annotated,
        seconds={phase: round(value, 1) for phase, value in outcome.seconds.items()},
        **_in_line(scores["dice"]),
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
    """{measure: scores} on some scans."""
    classes = material.project.classes
    measured = {}
    for scan_id, labels in references.items():
        scan = material.project.scans[scan_id]
        measured[scan_id] = measure(
            outcome.prediction(scan_id),
            reference_labels(scan, labels),
            [each.id for each in classes],
            scan.geometry.spacing_mm,
        )
    return {
        name: Scores(classes, {scan_id: of_scan[name] for scan_id, of_scan in measured.items()})
        for name in MEASURES
    }


def _in_line(scores: Scores) -> dict[str, Any]:
    """Dice as a line has it."""
    return {
        "dice": round(scores.mean, 4),
        "dice_of_class": _of_class(scores),
        "dice_of_scan": {scan_id: _number(scores.of_scan(scan_id)) for scan_id in scores.values},
    }


def _of_class(scores: Scores) -> dict[str, float | None]:
    return {each.name: _number(scores.of_class(each.id)) for each in scores.classes}


def _dice_alone(assignment: Assignment, prediction: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """Dice of the judged scans, as a line has it."""
    project = assignment.material.project
    ids = [each.id for each in project.classes]
    found = {
        scan_id: dice(prediction(scan_id), reference_labels(project.scans[scan_id], labels), ids)
        for scan_id, labels in assignment.judged.items()
    }
    return _in_line(Scores(project.classes, found))


def _dice_on_painted(material: Material, painted: Mapping[str, Path], outcome: Outcome) -> float:
    """Mean Dice on the annotated scans as they would be exported: what was painted stays as it was."""
    classes = material.project.classes
    values = {}
    for scan_id, labels in painted.items():
        reference = reference_labels(material.project.scans[scan_id], labels)
        annotation = material.project.annotation(scan_id)
        assert annotation is not None  # it is one of those that the study painted
        target = annotation.target()
        labels_zyx = np.where(target != IGNORE, target, outcome.prediction(scan_id))
        values[scan_id] = dice(labels_zyx, reference, [each.id for each in classes])
    return Scores(classes, values).mean


def _number(value: float) -> float | None:
    """Rounded for a line of JSON, which has no NaN."""
    return None if math.isnan(value) else round(value, 4)
