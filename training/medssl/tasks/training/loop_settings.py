"""Settings and length of a training, read from recipe and job."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from medssl.core import jobs, recipes
from medssl.core.jobs import Plan
from medssl.core.settings import PLAN_NAMES, NotNegative, Positive, Share

T = TypeVar("T")


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
    cuda_graphs: bool = False
    """Whether a network on CUDA replays recorded passes instead of launching each kernel (cuda_graphs.py)."""
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
