"""The one step loop: schedule, precision, stop, out-of-memory, events, checkpoints, resume.

Pre-training and fine-tuning are `Task`s: they say what a step computes. How steps are run is said here.
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
from medssl.nn import devices
from medssl.nn.models import checkpoint
from medssl.tasks import planner
from medssl.tasks.snapshots import Snapshots

T = TypeVar("T")

REPORT_EVERY_S = 0.5


class Task(Protocol):
    """What differs between trainings."""

    modules: nn.ModuleDict
    """All that is saved; parameters that require gradients are trained."""
    extra_state: dict[str, Tensor]
    """What is saved besides, for whoever uses the weights; a resumed training makes it anew."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer; "rate" scales the learning rate of a group."""

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step, and numbers worth a curve ("loss" if it is to be another one there).

        `fraction` of the training is over.
        """

    def after_step(self, fraction: float) -> None:
        """What follows an optimizer step (moving averages)."""

    def shrink(self) -> str | None:
        """Halve what a step needs of memory and say how in a sentence; None if it cannot get smaller."""


@dataclass(frozen=True)
class LoopSettings:
    """How steps are taken, whatever they compute."""

    learning_rate: float = 1e-3
    weight_decay: float = 3e-2
    warmup: float = 0.05
    """Share of the training over which the learning rate rises linearly; then it falls as a cosine."""
    clip: float = 12.0
    """Largest norm of the gradient."""
    precision: str = "fp32"
    checkpoint_every_s: float = 20.0
    """Seconds of work that a crash may cost."""
    snapshots_s: tuple[float, ...] = ()
    """Also keep the weights after so many seconds of training, each in a file of its own beside the
    checkpoint (snapshots.py); 0 is before the first step."""


def settings_for(name: str, own: dict[str, Any], kind: type[T], plan: Plan) -> tuple[LoopSettings, T]:
    """The loop's settings and the task's (a `kind`) from the recipe `name`, overridden by a job's `own`.

    Raises UserError ("no-recipe", "bad-job") for what neither of them knows.
    """
    rest = {key: value for key, value in own.items() if key not in planner.SETTINGS}
    recipe = recipes.override(recipes.read(name), rest, {each.name for each in fields(LoopSettings)})
    loop = jobs.from_json(LoopSettings, {**recipe.loop, "precision": plan.precision}, "the settings")
    return loop, jobs.from_json(kind, recipe.method, "the settings")


@dataclass(frozen=True)
class Budget:
    """A training ends after so many steps or minutes, whichever comes first."""

    steps: int | None = None
    minutes: float | None = None

    def fraction(self, step: int, elapsed_s: float) -> float:
        """How much of the training is over, 0 .. 1."""
        by_time = 0.0 if self.minutes is None else _share(elapsed_s, 60 * self.minutes)
        by_steps = 0.0 if self.steps is None else _share(step, self.steps)
        return max(by_steps, by_time)


def _share(done: float, total: float) -> float:
    return min(1.0, done / total) if total > 0 else 1.0


@dataclass
class Position:
    """Where a training stands; what `--resume` goes on from."""

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
) -> tuple[Position, bool]:
    """Run steps until the budget is spent or somebody asks to stop; leave a checkpoint at `path`.

    `card` goes into each checkpoint together with step and time. `resume` are the tensors of a
    checkpoint of the same training; `card` then says at which step it was. `spent_s` of the budget went
    into preparation. `on_end(step)` is asked at the end, stopped or not, what else the last card says; and
    for
    each snapshot, which costs the training no time.

    Returns where the training stands and whether it was stopped. Raises UserError ("diverged",
    "memory", "disk-full").
    """
    optimizer = make_optimizer(task, settings)
    position = Position(elapsed_s=spent_s)
    if resume:
        position = Position(card["step"], card["elapsed_s"])
        task.modules.load_state_dict(checkpoint.unpack("modules", resume))
        checkpoint.restore_optimizer(optimizer, checkpoint.unpack("optimizer", resume))
        generator.set_state(resume["generator"])
        emit(Notice(f"Going on from step {position.step}, {position.elapsed_s:.0f} s into the training."))

    def weights() -> dict[str, Tensor]:
        return {**checkpoint.pack("modules", task.modules.state_dict()), **task.extra_state}

    def stand() -> dict[str, Any]:
        return {**card, "step": position.step, "elapsed_s": position.elapsed_s}

    def save() -> None:
        tensors = {
            **weights(),
            **checkpoint.pack("optimizer", checkpoint.optimizer_tensors(optimizer)),
            "generator": generator.get_state(),
        }
        checkpoint.save(path, tensors, stand())
        emit(Checkpoint(position.step, str(path)))

    def keep_snapshots() -> None:
        said = on_end(position.step) if on_end else {}
        snapshots.keep(position.elapsed_s, weights(), {**stand(), **said})

    save()
    snapshots = Snapshots(settings.snapshots_s, path, position.elapsed_s if resume else None)
    if snapshots.due(position.elapsed_s):
        keep_snapshots()
    begin = time.monotonic() - position.elapsed_s
    report = _Report(emit, phase, budget, position)
    saved_at = time.monotonic()
    stopped = False
    while (fraction := budget.fraction(position.step, position.elapsed_s)) < 1:
        if stopped := should_stop():
            break
        done = step_or_shrink(task, optimizer, settings, generator, fraction, emit)
        if done is None:
            continue
        position.step += 1
        position.elapsed_s = time.monotonic() - begin
        report.add(*done)
        if snapshots.due(position.elapsed_s):
            keep_snapshots()
            begin = time.monotonic() - position.elapsed_s
        if time.monotonic() - saved_at > settings.checkpoint_every_s:
            report.flush()  # which refuses numbers that are none: they must not replace good weights
            save()
            saved_at = time.monotonic()
    report.flush()
    if on_end is not None:
        card = {**card, **on_end(position.step)}
    save()
    return position, stopped


def make_optimizer(task: Task, settings: LoopSettings) -> torch.optim.Optimizer:
    """AdamW on all that the task trains."""
    return torch.optim.AdamW(
        task.parameter_groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def step_or_shrink(
    task: Task,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    generator: Generator,
    fraction: float,
    emit: Emit,
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """A step's loss and numbers; None where memory was short, and from now on a step needs less."""
    try:
        return step(task, optimizer, settings, generator, fraction)
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
    # Out here the failed step's tensors are free, and can be given back.
    optimizer.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    how = task.shrink()
    if how is None:
        raise UserError(
            "The device has too little memory even for the smallest step; close other programs or choose "
            "--device cpu.",
            code="memory",
        )
    emit(Notice(how))
    return None


def step(
    task: Task,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    generator: Generator,
    fraction: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    rate = settings.learning_rate * schedule(fraction, settings.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)
    device = next(task.modules.parameters()).device
    with autocast(device, settings.precision):
        loss, numbers = task.loss(generator, fraction)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
    optimizer.step()
    task.after_step(fraction)
    # A gradient that is no number has spoilt the weights already: the loss must not hide it.
    return loss.detach() + 0 * norm, numbers


def schedule(fraction: float, warmup: float) -> float:
    """Factor of the learning rate: linear rise, then half a cosine down to 0."""
    if fraction < warmup:
        return max(0.02, fraction / warmup)
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / max(1e-9, 1 - warmup)))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 where the plan says so; never fp16, which would need loss scaling."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


class _Report:
    """Collects numbers on the device and says them twice a second: asking at each step would make it wait."""

    def __init__(self, emit: Emit, phase: str, budget: Budget, position: Position) -> None:
        self.emit, self.phase, self.budget, self.position = emit, phase, budget, position
        self.sums: dict[str, tuple[Tensor, int]] = {}
        """Of every number: its sum, and over how many steps; some steps do not have all of them."""
        self.said_at = 0.0
        self.resumed_at = position.elapsed_s
        self.resumed_fraction = budget.fraction(position.step, position.elapsed_s)

    def add(self, loss: Tensor, numbers: dict[str, Tensor]) -> None:
        for name, value in {"loss": loss, **numbers}.items():
            total, count = self.sums.get(name, (0, 0))
            self.sums[name] = total + value.detach(), count + 1
        if time.monotonic() - self.said_at > REPORT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if not self.sums:
            return
        values = {name: float(total) / count for name, (total, count) in self.sums.items()}
        self.sums, self.said_at = {}, time.monotonic()
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"The training diverged before step {self.position.step} (its loss is no number any more); "
                "start it again with a smaller learning rate.",
                code="diverged",
            )
        self.emit(Metric(self.position.step, values))
        fraction = self.budget.fraction(self.position.step, self.position.elapsed_s)
        gone = fraction - self.resumed_fraction
        spent = self.position.elapsed_s - self.resumed_at
        left = spent * (1 - fraction) / gone if gone > 0 else None
        self.emit(Progress(self.phase, fraction, self.position.step, left))
