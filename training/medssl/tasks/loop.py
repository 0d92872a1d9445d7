"""The training loop: schedule, precision, stopping, out-of-memory, events, checkpoints, resuming.

Pre-training and fine-tuning are `Task`s, which define what a step computes; this module runs the steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn

from medssl.core import jobs, recipes
from medssl.core.errors import UserError
from medssl.core.events import Checkpoint, Emit, Metric, Notice, Progress
from medssl.core.jobs import Plan
from medssl.core.settings import PLAN_NAMES, NotNegative, Positive, Share
from medssl.nn import devices, distributed
from medssl.nn.methods.common import stage_fraction
from medssl.nn.models import checkpoint
from medssl.tasks.optimizer import make_optimizer, optimizer_tensors, restore_optimizer, schedule
from medssl.tasks.patient_saver import PatientSaver
from medssl.tasks.snapshots import Snapshots

T = TypeVar("T")

REPORT_EVERY_S = 0.5
"""Interval of progress and metrics in seconds."""


class Task(Protocol):
    """What a training defines for the loop."""

    modules: nn.ModuleDict
    """Everything saved in a checkpoint; parameters that require gradients are trained."""
    extra_state: dict[str, Tensor]
    """What is saved besides, for whoever uses the weights; a resumed training makes it anew."""

    @property
    def stages(self) -> tuple[float, ...]:
        """Shares of the training at which its stages begin; each has a schedule of its own."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer; "rate" scales the learning rate of a group.

        Their parameters in this order are those of `modules` that checkpoints number (optimizer.py).
        """

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of one step.

        Args:
            generator: Source of all random draws of the step.
            fraction: Completed fraction of the training, 0 .. 1.

        Returns:
            The loss (a scalar with a graph) and scalars to log; "loss" among them replaces the loss there.
        """

    def after_step(self, fraction: float) -> None:
        """Update what follows an optimizer step, such as moving averages."""

    def shrink(self) -> str | None:
        """Halve the memory of a step; returns a sentence for the user, None if it is minimal already."""


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop, shared by all trainings."""

    learning_rate: Positive = 1e-3
    """Highest learning rate of AdamW."""
    weight_decay: NotNegative = 3e-2
    """Weight decay of the weights of convolutions and linear layers (optimizer.py)."""
    warmup: Share = 0.05
    """Fraction of a stage over which the learning rate rises linearly; then it falls as a cosine."""
    clip: Positive = 12.0
    """Maximum norm of the gradient."""
    precision: str = "fp32"
    checkpoint_every_s: float = 20.0
    """Checkpoint interval in seconds."""
    snapshots_s: tuple[float, ...] = ()
    """Times in seconds of training at which the weights are also saved to a snapshot file beside the
    checkpoint (snapshots.py); 0 is before the first step."""


def settings_for(
    name: str, overrides: dict[str, Any], settings_type: type[T], plan: Plan
) -> tuple[LoopSettings, T]:
    """Read the settings of the loop and of the task from a recipe.

    Args:
        name: The recipe, e.g. "mae-quick".
        overrides: A job's settings; those of the planner are ignored here.
        settings_type: The dataclass of the task's settings.
        plan: Gives the precision.

    Returns:
        The loop's settings, and the task's as a `settings_type`.

    Raises:
        UserError: "no-recipe" for an unknown recipe, "bad-job" for an unknown setting.
    """
    remaining = {key: value for key, value in overrides.items() if key not in PLAN_NAMES}
    loop_names = {field.name for field in fields(LoopSettings)}
    recipe = recipes.override(recipes.read(name), remaining, loop_names)
    loop = jobs.settings_of(LoopSettings, {**recipe.loop, "precision": plan.precision})
    return loop, jobs.settings_of(settings_type, recipe.method)


@dataclass(frozen=True)
class Budget:
    """Length of a training: it ends after `steps` or `minutes`, whichever comes first."""

    steps: int | None = None
    minutes: float | None = None

    def fraction(self, step: int, elapsed_s: float) -> float:
        """Completed fraction of the training, 0 .. 1."""
        by_time = 0.0 if self.minutes is None else _fraction(elapsed_s, 60 * self.minutes)
        by_steps = 0.0 if self.steps is None else _fraction(step, self.steps)
        return max(by_steps, by_time)


def _fraction(done: float, total: float) -> float:
    return min(1.0, done / total) if total > 0 else 1.0


@dataclass
class Position:
    """Steps and seconds that a training has completed; `--resume` continues from them."""

    step: int = 0
    elapsed_s: float = 0.0


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
    groups = task.parameter_groups()
    optimizer = make_optimizer(task.modules, groups, settings.learning_rate, settings.weight_decay)
    trained = [parameter for group in groups for parameter in group["params"]]
    position = Position(elapsed_s=spent_s)
    if resume:
        position = Position(card["step"], card["elapsed_s"])
        task.modules.load_state_dict(checkpoint.unpack("modules", resume))
        restore_optimizer(optimizer, trained, checkpoint.unpack("optimizer", resume))
        generator.set_state(resume["generator"])
        emit(Notice(f"Resuming at step {position.step}, after {position.elapsed_s:.0f} s of training."))
    distributed.start_alike(task.modules.state_dict().values())

    def weights() -> dict[str, Tensor]:
        return {**checkpoint.pack("modules", task.modules.state_dict()), **task.extra_state}

    def current_card() -> dict[str, Any]:
        return {**card, "step": position.step, "elapsed_s": position.elapsed_s, "run": path.parent.name}

    def save() -> None:
        if not distributed.leads():
            return
        tensors = {
            **weights(),
            **checkpoint.pack("optimizer", optimizer_tensors(optimizer, trained)),
            "generator": generator.get_state(),
        }
        need_here()
        checkpoint.save(path, tensors, current_card())
        emit(Checkpoint(position.step, str(path)))

    saver = PatientSaver(save, emit, should_stop)

    def save_snapshots() -> None:
        final = on_end(position.step) if on_end else {}
        snapshots.save(position.elapsed_s, weights(), {**current_card(), **final})

    saver.save()
    times_s = settings.snapshots_s if distributed.leads() else ()
    snapshots = Snapshots(times_s, path, position.elapsed_s if resume else None)
    if snapshots.due(position.elapsed_s):
        save_snapshots()
    begin = time.monotonic() - position.elapsed_s
    report = _Report(emit, phase, budget, position)
    saved_at = time.monotonic()
    while True:
        try:
            fraction = budget.fraction(position.step, position.elapsed_s)
            fraction, stopped = distributed.go_on(fraction, should_stop)
            if stopped or fraction >= 1:
                break
            done = step_or_shrink(task, optimizer, settings, generator, fraction, emit)
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
        card = {**card, **on_end(position.step)}
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
        with autocast(device, settings.precision):
            loss, numbers = task.loss(generator, fraction)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
    optimizer.step()
    task.after_step(fraction)
    # A gradient that is not finite has already corrupted the weights: the loss must show it.
    return loss.detach() + 0 * norm, numbers


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 for the precision "bf16", else nothing; never fp16, which would need loss scaling."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


class _Report:
    """Averages scalars on the device and emits them twice a second.

    Reading them in every step would make the step wait for the device.
    """

    def __init__(self, emit: Emit, phase: str, budget: Budget, position: Position) -> None:
        self.emit, self.phase, self.budget, self.position = emit, phase, budget, position
        self.sums: dict[str, tuple[Tensor, int]] = {}
        """By name: the sum, and the number of steps in it, because some steps lack some scalars."""
        self.emitted_at = 0.0
        self.resumed_at = position.elapsed_s
        self.resumed_fraction = budget.fraction(position.step, position.elapsed_s)

    def add(self, loss: Tensor, numbers: dict[str, Tensor]) -> None:
        for name, value in {"loss": loss, **numbers}.items():
            total, count = self.sums.get(name, (0, 0))
            self.sums[name] = total + value.detach(), count + 1
        if time.monotonic() - self.emitted_at > REPORT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if not self.sums:
            return
        values = {name: float(total) / count for name, (total, count) in self.sums.items()}
        self.sums, self.emitted_at = {}, time.monotonic()
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"The training diverged before step {self.position.step}: its loss is not finite. Start it "
                "again with a smaller learning rate.",
                code="diverged",
            )
        self.emit(Metric(self.position.step, values))
        fraction = self.budget.fraction(self.position.step, self.position.elapsed_s)
        completed = fraction - self.resumed_fraction
        spent_s = self.position.elapsed_s - self.resumed_at
        remaining_s = spent_s * (1 - fraction) / completed if completed > 0 else None
        self.emit(Progress(self.phase, fraction, self.position.step, remaining_s))
