"""Profile a training before it starts: time and memory of a few of its steps, for the estimate (estimate.py).

The steps themselves are run, because their cost differs between methods by more than any rule would predict.
They use a few of the scans; the memory of the remaining scans is computed.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from medssl.core import environment, estimate, jobs
from medssl.core.errors import UserError
from medssl.core.estimate import Estimate
from medssl.core.events import Emit, Event
from medssl.core.jobs import EstimateJob, FinetuneJob, Plan, PretrainJob, TrainingJob
from medssl.core.project.channels import having
from medssl.core.project.project import Project
from medssl.core.project.training_start import check_annotations
from medssl.nn import devices
from medssl.nn.data.device_dataset import DeviceDataset, image_bytes
from medssl.nn.methods import find
from medssl.tasks.inference.predict import top1_posterior
from medssl.tasks.pretrain import pretrain
from medssl.tasks.segment import finetune
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels
from medssl.tasks.segment.finetune_step import Finetuning
from medssl.tasks.segment.pseudo_labels import Settings
from medssl.tasks.start import load_start, plan_from
from medssl.tasks.training import loop
from medssl.tasks.training.loop_settings import LoopSettings, settings_for
from medssl.tasks.training.optimizer import optimizer_for
from medssl.tasks.training.task import Task

WARM_UP, STEPS, LONGEST_S = 2, 6, 4.0
"""Number of warm-up steps, number of timed steps, and maximum seconds of them."""
SCANS, SLICES = 3, 8
"""Scans that are loaded, and slices of one that are labelled, to see how long one takes."""


def profile(
    project: Project, job: EstimateJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Estimate a training that has not started, or return its cached estimate.

    Args:
        project: The project.
        job: The training.
        emit: Not used: events of the profiled steps are not reported.
        should_stop: Called between steps.

    Returns:
        {"stopped", "estimate": Estimate as JSON}; without "estimate" if stopped.

    Raises:
        UserError: "bad-job" for a job that does not train, and the errors of the training itself.
    """
    training = jobs.job_of(job.training, "the training")
    if not isinstance(training, TrainingJob):
        raise UserError(
            f"{jobs.kind_of(training)} is not a training; estimate a pretrain or finetune job.",
            code="bad-job",
        )
    result = estimate.load(project, training)
    if result is None:
        result = measure(project, training, should_stop)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # on the command line the training runs in the same process
        if should_stop():
            return {"stopped": True}
        estimate.save(project, training, result)
    return {"stopped": False, "estimate": jobs.to_json(result)}


def measure(project: Project, training: TrainingJob, should_stop: Callable[[], bool]) -> Estimate:
    """Run the steps of a training and measure their time and memory.

    Args:
        project: The project.
        training: The training to profile.
        should_stop: Called between steps.

    Raises:
        UserError: The errors of the training itself.
    """
    device = devices.choose(training.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    made = make(project, training, device)
    plan, settings, task, share = made.plan, made.settings, made.task, made.share
    optimizer = optimizer_for(task, settings)
    first_s = later_s = _seconds(task, optimizer, settings, 0.0, should_stop)
    if share < 1:
        if isinstance(task, Finetuning):
            task.rounds = _AnnotationsAsPseudoLabels(task.dataset, task.voxels)  # type: ignore[assignment]
        later_s = _seconds(task, optimizer, settings, (1 + share) / 2, should_stop)
    needed, there = _memory(device)
    if needed:
        names, count = plan.channel_names, plan.n_channels
        all_scans, few = ([*some.scans] for some in (_taking_part(project, names), _few(project, names)))
        all_bytes, few_bytes = (image_bytes(project, scans, device, count) for scans in (all_scans, few))
        needed += max(0, all_bytes - few_bytes)
        if isinstance(task, pretrain.Pretraining):
            needed += task.method.kept_bytes(len(all_scans)) - task.method.kept_bytes(len(few))
    return Estimate(
        first_s,
        later_s,
        share,
        made.aside_s,
        needed,
        there,
        device.type,
        plan.threads,
        plan.precision,
        made.aside_share,
    )


@dataclass(frozen=True)
class Made:
    """A training on a few of the scans, and what `Estimate` says of all of them."""

    plan: Plan
    settings: LoopSettings
    task: Task
    share: float = 1.0
    aside_s: float = 0.0
    aside_share: float = 1.0


def make(project: Project, training: TrainingJob, device: torch.device) -> Made:
    """Build a training on a few of the scans, with a short preparation, as its job would on all of them.

    Args:
        project: The project.
        training: The training.
        device: Where to train.

    Raises:
        UserError: The errors of the training itself.
    """
    if isinstance(training, PretrainJob):
        return _pretraining(project, training, device)
    assert isinstance(training, FinetuneJob)
    return _finetuning(project, training, device)


def _pretraining(project: Project, training: PretrainJob, device: torch.device) -> Made:
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
    training = pretrain.with_weights(training)
    start = load_start(project, training.weights)
    plan, _ = plan_from(project, scans, device, training.settings, start)
    torch.set_num_threads(plan.threads)
    method, recipe = find(training.method), f"{training.method}-{training.recipe}"
    asked = settings_for(recipe, training.settings, method.Settings, plan)[1]
    slices = sum(project.scans[scan].geometry.shape_zyx[plan.slice_axis] for scan in scans)
    short, times = method.trial(asked, slices)
    training = replace(training, settings={**training.settings, **short})
    few = list(_few(project, plan.channel_names).scans)
    settings, task = pretrain.make_task(project, few, training, plan, device, start, _unheard)
    begin = time.monotonic()
    task.method.prepare(task.dataset, _unheard)
    aside_s = times * (time.monotonic() - begin)
    return Made(plan, settings, task, (*task.stages, 1.0)[1], aside_s)


def _finetuning(project: Project, training: FinetuneJob, device: torch.device) -> Made:
    scans = check_annotations(project)
    start = load_start(project, training.weights)
    plan, _ = finetune.make_plan(project, scans, device, training, start, None)
    torch.set_num_threads(plan.threads)
    few = _few(project, plan.channel_names)
    try:
        settings, task = finetune.make_task(few, training, plan, device, _unheard, start)
    except UserError:  # a few scans may lack foreground or background
        settings, task = finetune.make_task(project, training, plan, device, _unheard, start)
    if task.rounds is None or not isinstance(task.settings, Settings):
        return Made(plan, settings, task)
    # Cost of the rounds of pseudo-labels.
    images, spacing = task.dataset.slices(0, 0, SLICES), task.dataset.spacing_mm[0]
    begin = time.monotonic()
    top1_posterior(task.average, replace(plan, multiplanar=False), images, spacing, device).best.cpu()
    voxel_s = (time.monotonic() - begin) / images[0].numel()
    voxels = _voxels(project, plan.channel_names)
    round_s = voxel_s * task.rounds.pseudo_labels.predictions_a_round(task.plan, voxels)
    rounds, round_share = task.settings.rounds, task.settings.max_round_share
    return Made(plan, settings, task, rounds[0], round_s * len(rounds), round_share)


def _unheard(event: Event) -> None:
    """An Emit that discards events: the training itself will report them."""


def _few(project: Project, channels: Sequence[str]) -> Project:
    """The project with a few of its scans, annotated ones first, because fine-tuning needs them."""
    annotated = project.annotated()
    few = _taking_part(project, channels)
    chosen = sorted(few.scans.values(), key=lambda scan: scan.id not in annotated)[:SCANS]
    few.scans = {scan.id: scan for scan in chosen}
    return few


def _taking_part(project: Project, channels: Sequence[str]) -> Project:
    """The project without the held-out scans and those that lack a channel."""
    remaining = copy.copy(project)
    chosen = having((scan for scan in project.scans.values() if not scan.held_out), channels)
    remaining.scans = {scan: project.scans[scan] for scan in chosen}
    return remaining


def _voxels(project: Project, channels: Sequence[str]) -> int:
    """Number of voxels of all scans that take part."""
    scans = _taking_part(project, channels).scans.values()
    return sum(torch.Size(scan.geometry.shape_zyx).numel() for scan in scans)


class _AnnotationsAsPseudoLabels:
    """Uses the annotations as pseudo-labels: a step costs as much as with real ones."""

    def __init__(self, dataset: DeviceDataset, voxels: AnnotatedVoxels) -> None:
        self.orientations = [(dataset, voxels)]

    def pseudo_labels_at(self, *given: object) -> _AnnotationsAsPseudoLabels:
        return self

    def draw_orientation(self, generator: Generator) -> tuple[DeviceDataset, AnnotatedVoxels]:
        return self.orientations[0]

    def remember(self, loss: Tensor) -> None:
        pass


def _seconds(
    task: Task,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    fraction: float,
    should_stop: Callable[[], bool],
) -> float:
    """Median seconds of a few steps, shrunk as in the training where memory does not suffice."""
    generator = Generator().manual_seed(0)
    times: list[float] = []
    device = next(task.modules.parameters()).device
    start = time.monotonic()
    while len(times) < WARM_UP + STEPS and not (
        len(times) > WARM_UP and (should_stop() or time.monotonic() - start > LONGEST_S)
    ):
        begin = time.monotonic()
        done = loop.step_or_shrink(task, optimizer, settings, generator, fraction, _unheard)
        devices.wait(device)
        if done is not None:
            times.append(time.monotonic() - begin)
    return statistics.median(times[WARM_UP:])


def _memory(device: torch.device) -> tuple[int, int]:
    """Peak memory and total memory in bytes; 0 where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
    return environment.peak_memory(), environment.memory()
