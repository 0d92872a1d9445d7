"""Fine-tuning: train a segmentation network on a project's annotations from pre-trained or random weights."""

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
from medssl.core.project.cards import card_with_ids, card_without_names
from medssl.core.project.channels import having
from medssl.core.project.contents import fingerprints
from medssl.core.project.project import Project, Run
from medssl.core.project.training_data import training_data
from medssl.core.project.training_start import check_annotations
from medssl.nn import devices, distributed
from medssl.nn.data.device_dataset import load_device_dataset
from medssl.nn.models.unet import build
from medssl.tasks.plan import overrides, planner
from medssl.tasks.plan.channels import with_channels
from medssl.tasks.segment import semi_supervised
from medssl.tasks.segment.annotated_crops import orientations
from medssl.tasks.segment.finetune_step import Finetuning
from medssl.tasks.segment.fit_location_prior import fit_location_prior
from medssl.tasks.segment.interpolated_labels import InterpolatedLabels
from medssl.tasks.segment.live_preview import LivePreview
from medssl.tasks.segment.pseudo_labels import MAX_NAMES
from medssl.tasks.segment.smoothing_width import SmoothingWidth
from medssl.tasks.segment.validation_slice import ValidationMonitor, take_validation_slice
from medssl.tasks.start import Stored, load_start, load_weights, note_of_start, plan_from
from medssl.tasks.training.loop import train
from medssl.tasks.training.loop_settings import Budget, LoopSettings, settings_for


def finetune(
    project: Project,
    run: Run,
    job: FinetuneJob,
    emit: Emit,
    should_stop: Callable[[], bool],
    resume: Stored | None = None,
    in_view: Callable[[], SliceInView | None] | None = None,
) -> dict[str, Any]:
    """Train on the project's annotations; the result is the checkpoint in the run's folder.

    Args:
        project: The project with annotated scans.
        run: Where to save the checkpoint.
        job: What to train.
        emit: Receives the events of the training.
        should_stop: Called after every step.
        resume: Tensors and card of the run's checkpoint, to continue it.
        in_view: Returns the slice on the screen, of which previews are emitted (live_preview.py).

    Returns:
        {"run", "step", "seconds", "stopped"}.

    Raises:
        UserError: "no-annotation", "no-classes", "one-class" and others before the first step; those of
            `loop.train` later.
    """
    scans = check_annotations(project)
    classes = [label.id for label in project.classes]
    device = devices.choose(job.device)
    start = load_start(project, job.weights)
    plan, reasons = planner.agreed(lambda: make_plan(project, scans, device, job, start, resume))
    torch.set_num_threads(plan.threads)
    emit(Started(run.id, jobs.to_json(plan), reasons))
    others = [scan.id for scan in project.scans.values() if not scan.held_out]
    scans = with_channels(project, scans, plan.channel_names, emit, others)
    loop_settings, task = make_task(project, job, plan, device, emit, start, resume)
    if in_view is not None:
        task.live = LivePreview(project, classes, device, emit, in_view)
    card: dict[str, Any] = {
        "kind": "finetune",
        "plan": jobs.to_json(task.plan),
        "job": jobs.to_json(job),
        "settings": jobs.to_json(task.settings),
        "classes": [{"id": label.id, "name": label.name} for label in project.classes],
        "scans": scans,
        "training_data": training_data(project.scans[scan] for scan in scans),
        "weights": job.weights,
        **note_of_start(plan, start),
        **({"validation_slice": task.validation.card} if task.validation else {}),
    }

    def public(fields: dict[str, Any]) -> dict[str, Any]:
        return fields if job.with_names else card_without_names(fields, fingerprints(project.scans))

    card = public(card)
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
        on_end=lambda step: public(task.on_end(card["plan"], step)),
        need_here=project.need_here,
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
    """Build everything that the first step needs on the device.

    Args:
        project: The project with annotated scans.
        job: What to train.
        plan: How the network sees the scans.
        device: Where to train.
        emit: Receives notices.
        start: The checkpoint to start from; None for random weights.
        resume: Tensors and card of the run's checkpoint, to continue it.

    Returns:
        The loop's settings, and the task.

    Raises:
        UserError: "one-class", "bad-job", "memory" and others.
    """
    classes = [label.id for label in project.classes]
    recipe, settings_type = semi_supervised.find(job.semi_supervised)
    loop_settings, settings = settings_for(f"{recipe}-{job.recipe}", job.settings, settings_type, plan)
    scans = having((project.scans[scan] for scan in project.annotated()), plan.channel_names)
    dataset = load_device_dataset(project, scans, plan, device, class_ids=classes)
    held_out, validation = None, None
    if settings.validation_slice:  # before anything is learned from labels, the smoothing width too
        cards = [
            card_with_ids(stored[1], fingerprints(project.scans)) for stored in (resume, start) if stored
        ]
        previous = next((card for card in cards if card["kind"] == "finetune"), None)
        dataset, held_out = take_validation_slice(dataset, plan, previous, emit, project.titles)
    smoothing_width = (
        SmoothingWidth.of(project, dataset, plan, job.seed) if settings.posterior_smoothing else None
    )
    plan = replace(plan, smoothing_sigma_mm=smoothing_width.widest_mm if smoothing_width else 0.0)
    if held_out and distributed.leads():
        names = [label.name for label in project.classes]
        validation = ValidationMonitor(held_out, plan, names, emit)
    annotated = list(orientations(dataset, replace(plan, multiplanar=settings.multiplanar)))
    plan = replace(plan, multiplanar=len(annotated) > 1)
    interpolated = (
        InterpolatedLabels.of(project, dataset, plan, classes) if settings.interpolated_weight else None
    )
    network = build(plan, len(classes) + 1, job.seed)
    pretrained = set()
    if start:  # a head is kept only if it was trained for the same classes
        same_classes = [label["id"] for label in start[1].get("classes", [])] == classes
        pretrained = load_weights(network, plan, start, emit, skip=() if same_classes else ("head.",))
    terms = semi_supervised.terms(job, plan, settings, annotated[0][1], len(classes) + 1, emit)
    location_prior = fit_location_prior(dataset, len(classes)) if settings.location_prior else None
    if location_prior is not None:
        stable = zip(project.classes, location_prior.reach_mm.isfinite().tolist(), strict=True)
        listed = ", ".join([label.name for label, is_stable in stable if is_stable][:MAX_NAMES])
        emit(
            Notice(
                f"Stable relative position in the annotated scans: {listed}. Distant detections are "
                "down-weighted."
            )
        )
    rounds = semi_supervised.rounds(
        job.semi_supervised, project, dataset, plan, settings, network, emit, location_prior, smoothing_width
    )
    task = Finetuning(
        network,
        plan,
        settings,
        annotated,
        pretrained,
        rounds,
        terms,
        validation,
        interpolated,
        location_prior,
        smoothing_width,
    )
    task.modules.to(device)
    if settings.first_head and resume is None and not any(name.startswith("head.") for name in pretrained):
        task.fit_head(Generator().manual_seed(job.seed))
    return loop_settings, task


def _check_classes(run: Run, card: dict[str, Any], classes: list[int]) -> None:
    if [label["id"] for label in card["classes"]] != classes:
        raise UserError(
            f"The classes of the project have changed since {run.id}, which cannot be resumed; start a new "
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
    """The plan of the checkpoint to resume, else the plan for the checkpoint to start from.

    Args:
        project: The project.
        scans: Ids of the annotated scans.
        device: Where to train.
        job: What to train.
        start: The checkpoint to start from; None for random weights.
        resume: The checkpoint to resume; None for a new training.

    Returns:
        The plan, and one sentence per decision.
    """
    if resume is None:
        pixels = planner.PIXELS_A_STEP_FINETUNING_CPU
        return plan_from(project, scans, device, job.settings, start, pixels)
    plan = jobs.from_json(Plan, resume[1]["plan"], "the checkpoint's card")
    return overrides.adapt(plan, device, job.settings), ["as in the resumed run"]
