"""Fine-tuning: from a project's annotations and pre-trained or random weights to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, SliceInView, Started
from medssl.core.jobs import FinetuneJob, Plan
from medssl.core.project.project import Project, Run
from medssl.nn import devices
from medssl.nn.data.device_dataset import load_device_dataset
from medssl.nn.models.unet import build
from medssl.tasks import planner
from medssl.tasks.inference.location_prior import fit_location_prior
from medssl.tasks.loop import Budget, LoopSettings, settings_for, train
from medssl.tasks.segment import semi_supervised
from medssl.tasks.segment.annotated_crops import orientations
from medssl.tasks.segment.finetune_step import Finetuning
from medssl.tasks.segment.interpolated_labels import InterpolatedLabels
from medssl.tasks.segment.live_preview import LivePreview
from medssl.tasks.segment.pseudo_labels import NAMED
from medssl.tasks.segment.smoothing_width import SmoothingWidth
from medssl.tasks.segment.validation_slice import ValidationMonitor, take_validation_slice
from medssl.tasks.start import Stored, load_start, load_weights, plan_from


def finetune(
    project: Project,
    run: Run,
    job: FinetuneJob,
    emit: Emit,
    should_stop: Callable[[], bool],
    resume: Stored | None = None,
    in_view: Callable[[], SliceInView | None] | None = None,
) -> dict[str, Any]:
    """Train on the project's annotations; the checkpoint in the run's folder is the result.

    in_view: the slice on the screen, of which there are previews meanwhile (live_preview.py).

    Raises UserError ("no-annotation", "no-classes", "one-class", ...) before the first step.
    """
    scans = check_annotations(project)
    classes = [label.id for label in project.classes]
    device = devices.choose(job.device)
    start = load_start(project, job.weights)
    plan, reasons = make_plan(project, scans, device, job, start, resume)
    torch.set_num_threads(plan.threads)
    emit(Started(run.id, jobs.to_json(plan), reasons))
    loop_settings, task = make_task(project, job, plan, device, emit, start, resume)
    if in_view is not None:
        task.live = LivePreview(project, classes, device, emit, in_view)
    card: dict[str, Any] = {
        "kind": "finetune",
        "plan": jobs.to_json(task.plan),
        "job": jobs.to_json(job),
        "settings": jobs.to_json(task.settings),
        "classes": [{"id": each.id, "name": each.name} for each in project.classes],
        "scans": scans,
        "weights": job.weights,
        **({"validation_slice": task.validation.card} if task.validation else {}),
    }
    tensors, card = (resume[0], {**resume[1], **card}) if resume else (None, card)
    if resume:
        _check_classes(run, resume[1], classes)
        task.steps = card["step"]
    budget, generator = Budget(job.steps, job.minutes), Generator().manual_seed(job.seed)
    position, stopped = train(
        task,
        loop_settings,
        budget,
        generator,
        run.checkpoint,
        card,
        emit,
        should_stop,
        "fine-tuning",
        tensors,
        on_end=lambda step: task.on_end(card["plan"], step),
    )
    return {"run": run.id, "step": position.step, "seconds": position.elapsed_s, "stopped": stopped}


def make_task(
    project: Project,
    job: FinetuneJob,
    plan: Plan,
    device: torch.device,
    emit: Emit,
    start: Stored | None = None,
    resume: Stored | None = None,
) -> tuple[LoopSettings, Finetuning]:
    """All that the first step needs, on the device.

    Raises UserError ("one-class", "bad-job", "memory", ...).
    """
    classes = [label.id for label in project.classes]
    recipe, kind = semi_supervised.find(job.semi_supervised)
    loop_settings, settings = settings_for(f"{recipe}-{job.recipe}", job.settings, kind, plan)
    dataset = load_device_dataset(project, project.annotated(), plan, device, class_ids=classes)
    smoothing_width = (
        SmoothingWidth.of(project, dataset, plan, job.seed) if settings.posterior_smoothing else None
    )
    plan, validation = (
        replace(plan, smoothing_sigma_mm=smoothing_width.widest_mm if smoothing_width else 0.0),
        None,
    )
    if settings.validation_slice:
        before = next((each[1] for each in (resume, start) if each and each[1]["kind"] == "finetune"), None)
        dataset, held = take_validation_slice(dataset, plan, before, emit)
        names = [label.name for label in project.classes]
        validation = ValidationMonitor(held, plan, names, emit) if held else None
    painted = list(orientations(dataset, replace(plan, multiplanar=settings.multiplanar)))
    plan = replace(plan, multiplanar=len(painted) > 1)
    between = InterpolatedLabels.of(project, dataset, plan, classes)
    network = build(plan, len(classes) + 1, job.seed)
    pretrained = set()
    if start:  # a head is kept only if it was trained for the same classes
        same = [each["id"] for each in start[1].get("classes", [])] == classes
        pretrained = load_weights(network, plan, start, emit, skip=() if same else ("head.",))
    terms = semi_supervised.terms(job, plan, settings, painted[0][1], len(classes) + 1, emit)
    location_prior = fit_location_prior(dataset, len(classes)) if settings.location_prior else None
    if location_prior is not None:
        keeping = zip(project.classes, location_prior.reach_mm.isfinite().tolist(), strict=True)
        listed = ", ".join([label.name for label, kept in keeping if kept][:NAMED])
        emit(
            Notice(
                f"In the painted scans these keep their places among each other: {listed}. What is found far "
                "from there counts for less."
            )
        )
    rounds = semi_supervised.rounds(
        job.semi_supervised, project, dataset, plan, settings, network, emit, location_prior, smoothing_width
    )
    task = Finetuning(
        network,
        plan,
        settings,
        painted,
        pretrained,
        rounds,
        terms,
        validation,
        between,
        location_prior,
        smoothing_width,
    )
    task.modules.to(device)
    if settings.first_head and resume is None and not any(name.startswith("head.") for name in pretrained):
        task.fit_head(Generator().manual_seed(job.seed))
    return loop_settings, task


def check_annotations(project: Project) -> list[str]:
    """The annotated scans.

    Raises UserError ("no-classes", "no-annotation") where there is nothing to learn.
    """
    if not project.classes:
        raise UserError(f"{project.root} has no class; add the structure to segment.", code="no-classes")
    scans = list(project.annotated())
    if not scans:
        raise UserError(
            f"{project.root} has no annotation; paint some slices of a scan and mark them complete.",
            code="no-annotation",
        )
    return scans


def _check_classes(run: Run, card: dict[str, Any], classes: list[int]) -> None:
    if [each["id"] for each in card["classes"]] != classes:
        raise UserError(
            f"The classes have changed since {run.id}, which cannot go on with others; start a new "
            "fine-tuning from its weights.",
            code="wrong-run",
        )


def make_plan(
    project: Project,
    scans: list[str],
    device: torch.device,
    job: FinetuneJob,
    start: Stored | None,
    resume: Stored | None,
) -> tuple[Plan, list[str]]:
    """The plan as before where the training goes on, else the one that its start asks for."""
    if resume is None:
        return plan_from(project, scans, device, job.settings, start)
    plan = jobs.from_json(Plan, resume[1]["plan"], "the checkpoint's card")
    return planner.adapt(plan, device, job.settings), ["as the run before"]
