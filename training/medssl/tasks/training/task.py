"""What a training defines for the loop: pre-training and fine-tuning are `Task`s."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Generator, Tensor, nn


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
