"""Progress and metrics of a running training."""

from __future__ import annotations

import math
import time

from torch import Tensor

from medssl.core.errors import UserError
from medssl.core.events import Emit, Metric, Progress
from medssl.tasks.training.loop_settings import Budget
from medssl.tasks.training.state import Position

REPORT_EVERY_S = 0.5
"""Interval of progress and metrics in seconds."""


class Report:
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
        """Add a step, and emit the averages when they are due.

        Args:
            loss: Loss of the step (a scalar).
            numbers: Further scalars by name.
        """
        for name, value in {"loss": loss, **numbers}.items():
            total, count = self.sums.get(name, (0, 0))
            self.sums[name] = total + value.detach(), count + 1
        if time.monotonic() - self.emitted_at > REPORT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Emit the averages of the steps since the last time.

        Raises:
            UserError: "diverged" if the loss is not finite.
        """
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
