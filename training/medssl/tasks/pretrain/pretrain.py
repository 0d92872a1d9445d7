"""Pre-training: train a self-supervised method on all scans that are not held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from medssl.core import jobs
from medssl.core.events import Emit, Event, Metric, Started, read_log
from medssl.core.jobs import Plan, PretrainJob
from medssl.core.project.cards import card_without_names
from medssl.core.project.contents import fingerprints
from medssl.core.project.project import Project, Run
from medssl.core.recipes import default_weights
from medssl.core.shipped import RANDOM
from medssl.nn import devices, distributed
from medssl.nn.data.device_dataset import DeviceDataset, load_device_dataset
from medssl.nn.methods import Method, find
from medssl.nn.models import checkpoint
from medssl.nn.models.network_weights import load_matching
from medssl.nn.models.unet import Network, build
from medssl.tasks.plan import patch_size, planner
from medssl.tasks.plan.channels import with_channels
from medssl.tasks.pretrain.collapse_monitor import CollapseMonitor
from medssl.tasks.start import Stored, load_start, load_weights, note_of_start, plan_from
from medssl.tasks.training.loop import train
from medssl.tasks.training.loop_settings import Budget, LoopSettings, settings_for


class Pretraining:
    """A method as a Task of the loop.

    Args:
        method: The method.
        dataset: Scans to train on; empty for a method that needs none.
        monitor: Evaluates the features during the training; None for no evaluation.
    """

    def __init__(
        self, method: Method, dataset: DeviceDataset, monitor: CollapseMonitor | None = None
    ) -> None:
        self.method, self.dataset, self.monitor = method, dataset, monitor
        self.modules: nn.ModuleDict = method.modules
        self.extra_state: dict[str, Tensor] = {}

    @property
    def stages(self) -> tuple[float, ...]:
        return self.method.stages

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [each for each in self.modules.parameters() if each.requires_grad]}]

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the method (a scalar) and scalars to log, at a completed fraction of the training."""
        if self.monitor is None:
            return self.method.loss(self.dataset, generator, fraction)
        measures = self.monitor.update_when_due(fraction)
        loss, numbers = self.method.loss(self.dataset, generator, fraction)
        return loss, {**numbers, **measures}

    def after_step(self, fraction: float) -> None:
        """Update the moving averages of the method."""
        self.method.after_step(fraction)

    def shrink(self) -> str | None:
        """Halve the batch or the patch; returns the notice, None if they are minimal."""
        # Most methods compare the views of a batch with each other, so a batch needs at least two.
        plan = patch_size.smaller(self.method.plan, least_batch=2)
        if plan is None:
            return None
        self.method.plan = plan
        return patch_size.in_words(plan)


def pretrain(
    project: Project,
    run: Run,
    job: PretrainJob,
    emit: Emit,
    should_stop: Callable[[], bool],
    resume: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train a method on the project's scans; the result is the checkpoint in the run's folder.

    Args:
        project: The project with the scans.
        run: Where to save the checkpoint.
        job: What to train.
        emit: Receives the events of the training.
        should_stop: Called after every step.
        resume: Tensors by name (any shape) and card of the run's checkpoint, to continue it.

    Returns:
        {"run", "step", "seconds", "stopped"}.

    Raises:
        UserError: "no-method", "no-scans", "bad-job" and others before the first step; those of `loop.train`
            later.
    """
    kind = find(job.method)  # before anything is loaded
    if resume:  # the card names the initial weights; cards older than the shipped weights mean random ones
        job = replace(job, weights=resume[1]["job"].get("weights") or RANDOM)
    job = with_weights(job)
    start = load_start(project, job.weights)
    device = devices.choose(job.device)
    scans = [scan.id for scan in project.scans.values() if not scan.held_out] if kind.NEEDS_SCANS else []

    def choose() -> tuple[Plan, list[str]]:
        if resume:
            return jobs.from_json(Plan, resume[1]["plan"], str(run.checkpoint)), ["as in the resumed run"]
        if not kind.NEEDS_SCANS:
            return planner.choose_without_scans(project, device, job.settings)
        return plan_from(project, scans, device, job.settings, start)

    plan, reasons = planner.agreed(choose)
    torch.set_num_threads(plan.threads)
    emit(Started(run.id, jobs.to_json(plan), reasons))
    scans = with_channels(project, scans, plan.channel_names, emit)
    loop_settings, task = make_task(project, scans, job, plan, device, start, emit)
    method, dataset = task.method, task.dataset
    monitor = None
    if kind.NEEDS_SCANS and distributed.leads():  # labels that are known cannot collapse unseen
        log = run.folder / "events.jsonl"
        task.monitor = monitor = CollapseMonitor(
            project, method, dataset, job.seed, emit, lambda: read_log(log)
        )
        if not resume:
            emit(Metric(0, monitor.start.numbers()))
    begin = time.monotonic()  # the evaluation of the initial weights is not training time
    with _until_stopped(emit, should_stop) as emit_or_stop:
        method.prepare(dataset, emit_or_stop)  # if stopped, the loop stops too and saves a checkpoint
    card = {
        "kind": "pretrain",
        "method": job.method,
        "plan": jobs.to_json(plan),
        "job": jobs.to_json(job),
        "scans": scans,
        **note_of_start(plan, start),
    }
    if not job.with_names:
        card = card_without_names(card, fingerprints(project.scans))
    tensors, card = (resume[0], {**resume[1], **card}) if resume else (None, card)
    position, stopped = train(
        task,
        loop_settings,
        Budget(job.steps, job.minutes),
        Generator().manual_seed(job.seed),
        run.checkpoint,
        card,
        emit,
        should_stop,
        "pre-training",
        tensors,
        spent_s=time.monotonic() - begin,
        on_end=(lambda step: {"collapse_report": monitor.report(step)}) if monitor else None,
        need_here=project.need_here,
    )
    return {"run": run.id, "step": position.step, "seconds": position.elapsed_s, "stopped": stopped}


def make_task(
    project: Project,
    scans: list[str],
    job: PretrainJob,
    plan: Plan,
    device: torch.device,
    start: Stored | None,
    emit: Emit,
) -> tuple[LoopSettings, Pretraining]:
    """Build everything that the method's `prepare` and the first step need on the device.

    Args:
        project: The project with the scans.
        scans: Ids of the scans to train on.
        job: What to train.
        plan: How the network sees the scans.
        device: Where to train.
        start: The checkpoint to start from; None for random weights.
        emit: Receives notices.

    Returns:
        The loop's settings, and the task.
    """
    kind = find(job.method)
    dataset = (
        load_device_dataset(project, scans, plan, device)
        if scans
        else DeviceDataset((), (), (), works_on=device)
    )
    loop_settings, settings = settings_for(f"{job.method}-{job.recipe}", job.settings, kind.Settings, plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)  # layers draw from the global generator when they are made
        method = kind(start_network(plan, job.seed, start, emit), plan, settings)
    if start is not None and start[1].get("method") in (job.method, *kind.SAME_TASK):
        # The heads of the same task are taken over, too.
        load_matching(method.modules, checkpoint.unpack("modules", start[0]), skip=("network.", "average."))
    method.modules.to(device)
    return loop_settings, Pretraining(method, dataset)


class _Stopped(Exception):
    """A stop was requested during the preparation."""


@contextmanager
def _until_stopped(emit: Emit, should_stop: Callable[[], bool]) -> Iterator[Emit]:
    """An Emit that raises `_Stopped` once a stop is requested, and so ends the preparation.

    A method may keep it: after the preparation it only emits.
    """
    preparing = True

    def emit_until_stopped(event: Event) -> None:
        emit(event)
        if preparing and should_stop():
            raise _Stopped

    with suppress(_Stopped):
        yield emit_until_stopped
    preparing = False


def with_weights(job: PretrainJob) -> PretrainJob:
    """The job with its initial weights filled in from the recipe."""
    return job if job.weights is not None else replace(job, weights=default_weights(job.method, job.recipe))


def start_network(plan: Plan, seed: int, start: Stored | None, emit: Emit) -> Network:
    """Build the network that a method starts from; its head reconstructs the input.

    Args:
        plan: Plan of the network.
        seed: Determines the random weights.
        start: The checkpoint to start from; None for random weights.
        emit: Receives notices.
    """
    network = build(plan, plan.in_channels, seed)
    if start is not None:
        load_weights(network, plan, start, emit, skip=("head.",))
    return network
