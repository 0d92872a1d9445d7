"""The training loop: schedule, stopping, out-of-memory, checkpoints in intervals, resuming.

What a step computes is defined by a `Task` (task.py): pre-training or fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.events import Checkpoint, Emit, Notice
from medssl.nn import devices, distributed
from medssl.nn.methods.common import stage_fraction
from medssl.nn.models.cuda_graphs import forget_passes
from medssl.tasks.training.loop_settings import Budget, LoopSettings
from medssl.tasks.training.optimizer import schedule
from medssl.tasks.training.patient_saver import PatientSaver
from medssl.tasks.training.report import Report
from medssl.tasks.training.snapshots import Snapshots
from medssl.tasks.training.state import Position, TrainingState
from medssl.tasks.training.task import Task


def train(
    task: Task,
    settings: LoopSettings,
    budget: Budget,
    generator: Generator,
    path: Path,
    card: dict[str, Any],
    emit: Emit,
    should_stop: Callable[[], bool],
    phase: str,
    resume: dict[str, Tensor] | None = None,
    spent_s: float = 0.0,
    on_end: Callable[[int], dict[str, Any]] | None = None,
    need_here: Callable[[], None] = lambda: None,
) -> tuple[Position, bool]:
    """Run steps until the budget is spent or a stop is requested, and save checkpoints.

    Args:
        task: What a step computes.
        settings: Settings of the loop.
        budget: Length of the training.
        generator: Source of all random draws; its state is saved in checkpoints.
        path: Checkpoint file, overwritten in intervals and at the end.
        card: Saved in each checkpoint together with step and time.
        emit: Receives Progress, Metric, Checkpoint and Notice events.
        should_stop: Called before each step.
        phase: Name of the training in Progress events.
        resume: Tensors by name from a checkpoint of this training (any shape); `card` then holds its step and
            time.
        spent_s: Seconds of the budget that preparation has used.
        on_end: Called with the step at the end, stopped or not, and for each snapshot; returns what to add to
            the card. Its time for snapshots does not count as training time.
        need_here: Called before each checkpoint; raises UserError ("project-gone") where the project has
            vanished. The training then goes on, and waits at its end.

    Returns:
        The position of the training, and whether it was stopped.

    Raises:
        UserError: "diverged", "memory", "disk-full", "not-writable", "no-folder", "project-gone" or
            "process-lost".
    """
    state = TrainingState(task, settings, generator, path, card, spent_s)
    position = state.position
    if resume:
        state.resume(resume)
        emit(Notice(f"Resuming at step {position.step}, after {position.elapsed_s:.0f} s of training."))
    distributed.start_alike(task.modules.state_dict().values())

    def save() -> None:
        if distributed.leads():
            need_here()
            state.save()
            emit(Checkpoint(position.step, str(path)))

    def save_snapshots() -> None:
        final = on_end(position.step) if on_end else {}
        snapshots.save(position.elapsed_s, state.weights(), {**state.current_card(), **final})

    saver = PatientSaver(save, emit, should_stop)
    saver.save()
    times_s = settings.snapshots_s if distributed.leads() else ()
    snapshots = Snapshots(times_s, path, position.elapsed_s if resume else None)
    if snapshots.due(position.elapsed_s):
        save_snapshots()
    begin = time.monotonic() - position.elapsed_s
    report = Report(emit, phase, budget, position)
    saved_at = time.monotonic()
    while True:
        try:
            fraction = budget.fraction(position.step, position.elapsed_s)
            fraction, stopped = distributed.go_on(fraction, should_stop)
            if stopped or fraction >= 1:
                break
            done = step_or_shrink(task, state.optimizer, settings, generator, fraction, emit)
        except distributed.Lost:
            saver.save(wait=False)  # that of the last step that all have completed
            raise
        if done is None:
            continue
        position.step += 1
        position.elapsed_s = time.monotonic() - begin
        if distributed.leads():
            report.add(*done)
        if snapshots.due(position.elapsed_s):
            save_snapshots()
            begin = time.monotonic() - position.elapsed_s
        if time.monotonic() - saved_at > settings.checkpoint_every_s:
            report.flush()  # raises for a loss that is not finite: it must not replace good weights
            saver.save(wait=False)
            saved_at = time.monotonic()
    report.flush()
    if on_end is not None and distributed.leads():
        state.card = {**state.card, **on_end(position.step)}
    saver.save()
    return position, stopped


def step_or_shrink(
    task: Task,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    generator: Generator,
    fraction: float,
    emit: Emit,
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Run one step, or shrink the task where memory does not suffice.

    Returns:
        The loss (a scalar) and scalars to log; None if memory did not suffice and the task was shrunk.

    Raises:
        UserError: "memory" if the task cannot shrink any further.
    """
    try:
        return step(task, optimizer, settings, generator, fraction)
    except (RuntimeError, MemoryError) as error:
        # A process that fails on its own after the others have taken the step cannot go back.
        alone = distributed.world() > 1 and not isinstance(error, distributed.ShortMemory)
        if alone or not devices.out_of_memory(error):
            raise
    # Outside of the except clause the tensors of the failed step are no longer referenced.
    optimizer.zero_grad(set_to_none=True)
    forget_passes(task.modules)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    distributed.start_alike(task.modules.state_dict().values())  # they gave up at different places
    message = task.shrink()
    if message is None:
        raise UserError(
            "The device does not have enough memory even for the smallest batch; close other programs or "
            "choose --device cpu.",
            code="memory",
        )
    emit(Notice(message))
    return None


def step(
    task: Task,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    generator: Generator,
    fraction: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    rate = settings.learning_rate * schedule(stage_fraction(task.stages, fraction), settings.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)
    device = next(task.modules.parameters()).device
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with distributed.all_or_none(generator):
        with devices.autocast(device, settings.precision):
            loss, numbers = task.loss(generator, fraction)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
    optimizer.step()
    task.after_step(fraction)
    # A gradient that is not finite has already corrupted the weights: the loss must show it.
    return loss.detach() + 0 * norm, numbers
