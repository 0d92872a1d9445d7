"""The state of a running training: what its checkpoints hold, and how it is resumed from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from medssl.nn.models import checkpoint
from medssl.tasks.training.loop_settings import LoopSettings
from medssl.tasks.training.optimizer import optimizer_for, optimizer_tensors, restore_optimizer
from medssl.tasks.training.task import Task


@dataclass
class Position:
    """Steps and seconds that a training has completed; `--resume` continues from them."""

    step: int = 0
    elapsed_s: float = 0.0


class TrainingState:
    """Task, optimizer, random generator and position of a training.

    Args:
        task: What a step computes.
        settings: Settings of the loop.
        generator: Source of all random draws.
        path: Checkpoint file.
        card: Model card; step and time are added when it is saved.
        spent_s: Seconds of the budget that preparation has used.
    """

    def __init__(
        self,
        task: Task,
        settings: LoopSettings,
        generator: Generator,
        path: Path,
        card: dict[str, Any],
        spent_s: float = 0.0,
    ) -> None:
        self.optimizer = optimizer_for(task, settings)
        self.position = Position(elapsed_s=spent_s)
        self._trained = [parameter for group in task.parameter_groups() for parameter in group["params"]]
        self._task, self._generator, self._path, self.card = task, generator, path, card

    def resume(self, tensors: dict[str, Tensor]) -> None:
        """Continue from a checkpoint of this training, whose card is `card`.

        Args:
            tensors: Tensors of the checkpoint by name (any shape).
        """
        self.position.step, self.position.elapsed_s = self.card["step"], self.card["elapsed_s"]
        self._task.modules.load_state_dict(checkpoint.unpack("modules", tensors))
        restore_optimizer(self.optimizer, self._trained, checkpoint.unpack("optimizer", tensors))
        self._generator.set_state(tensors["generator"])

    def weights(self) -> dict[str, Tensor]:
        """Tensors that whoever uses the weights needs, by name (any shape)."""
        return {**checkpoint.pack("modules", self._task.modules.state_dict()), **self._task.extra_state}

    def current_card(self) -> dict[str, Any]:
        """The model card at this position."""
        position = {"step": self.position.step, "elapsed_s": self.position.elapsed_s}
        return {**self.card, **position, "run": self._path.parent.name}

    def save(self) -> None:
        """Write the checkpoint."""
        optimizer = checkpoint.pack("optimizer", optimizer_tensors(self.optimizer, self._trained))
        tensors = {**self.weights(), **optimizer, "generator": self._generator.get_state()}
        checkpoint.save(self._path, tensors, self.current_card())
