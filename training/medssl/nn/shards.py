"""Shards of a batch: the rows that each of several processes computes, and what combines rows of all of them.

Sums over the batch go through `total`, which adds over the processes, forward and backward. Whatever is a
function of such sums is the same in all processes, and so is the loss (distributed.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medssl.nn import devices
from medssl.nn.distributed import add, rank, world


class _Total(torch.autograd.Function):
    """Sum over the processes; gradients are added, too, as the loss of each of them depends on it."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        whole = own.detach().clone(memory_format=torch.contiguous_format)
        add(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        add(whole)
        return whole


def total(own: Tensor) -> Tensor:
    """Sum over the processes, with gradients.

    Args:
        own: This process's part (any shape, the same for all).
    """
    return own if world() == 1 else _Total.apply(own)


def ratio(numerator: Tensor, denominator: Tensor, least: float = 1) -> Tensor:
    """A mean over the whole batch: the ratio of two sums over it.

    Args:
        numerator: Sum over this process's shard, a scalar.
        denominator: Number, or sum of the weights, of what was summed, a scalar.
        least: The denominator is at least this.

    Returns:
        Scalar.
    """
    if world() == 1:
        return numerator / denominator.clamp(min=least)
    over, under = total(torch.stack([numerator.float(), denominator.float()])).unbind()
    return over / under.clamp(min=least)


def mean(values: Tensor) -> Tensor:
    """Mean of all values (any shape) of the whole batch, a scalar."""
    if world() == 1:
        return values.mean()
    return ratio(values.sum(), values.new_full((), values.numel()))


def mean_row(rows: Tensor) -> Tensor:
    """Mean over the rows of the whole batch.

    Args:
        rows: Rows of this process's shard (n, C).

    Returns:
        Mean row (C,).
    """
    if world() == 1:
        return rows.mean(0)
    sums = total(torch.cat([rows.sum(0), rows.new_full((1,), len(rows))]))
    return sums[:-1] / sums[-1]


def std_row(rows: Tensor) -> Tensor:
    """Standard deviation (C,) of each column over the rows (n, C) of the whole batch."""
    if world() == 1:
        return rows.std(0)
    count = total(rows.new_full((), len(rows)))
    return (total((rows - mean_row(rows)).square().sum(0)) / (count - 1)).sqrt()


@dataclass(frozen=True)
class Shard:
    """The rows of a batch that this process computes."""

    count: int
    """Number of rows of the whole batch."""
    rows: Tensor
    """Indices of the own rows (n,) int64, on the CPU."""

    @classmethod
    def whole(cls, count: int) -> Shard:
        """All rows: what a process on its own computes, or what all compute alike."""
        return cls(count, torch.arange(count))

    def of(self, whole: Any) -> Any:
        """The own rows.

        Args:
            whole: The whole batch: a tensor (B, ...), or another object that rows can be taken from.
        """
        if len(self.rows) == self.count:
            return whole
        return whole[devices.send(self.rows, whole.device) if isinstance(whole, Tensor) else self.rows]

    def gathered(self, own: Tensor) -> Tensor:
        """The rows of all processes, with gradients; for vectors, as every process then has all of them.

        Args:
            own: Own rows (n, ...).

        Returns:
            The whole batch (B, ...), in its order.
        """
        if len(self.rows) == self.count:
            return own
        whole = own.new_zeros(self.count, *own.shape[1:], dtype=torch.float32)
        rows = devices.send(self.rows, own.device)
        return total(whole.index_copy(0, rows, own.float())).to(own.dtype)

    def and_then(self, other: Shard) -> Shard:
        """The shard of a batch that consists of two batches, one after the other."""
        return Shard(self.count + other.count, torch.cat([self.rows, self.count + other.rows]))

    def pairs(self) -> Shard:
        """The shard of a batch of first views, then of second views, of pairs that are shared out."""
        return self.and_then(self)

    def times(self, number: int) -> Shard:
        """The shard of a batch in which each row has become `number` consecutive ones."""
        return Shard(self.count * number, (self.rows[:, None] * number + torch.arange(number)).flatten())

    def among(self, chosen: Tensor) -> Shard:
        """The shard of a batch of the chosen rows alone.

        Args:
            chosen: Which rows of the whole batch are chosen (B,) bool, on the CPU.
        """
        if len(self.rows) == self.count:
            return Shard.whole(int(chosen.sum()))
        place = chosen.cumsum(0) - 1
        return Shard(int(chosen.sum()), place[self.rows][chosen[self.rows]])


def shard(count: int) -> Shard:
    """This process's shard of a batch: consecutive rows, as many for each process, or one fewer.

    Args:
        count: Number of rows of the whole batch, at least one for each process (`for_all`).
    """
    if world() == 1:
        return Shard.whole(count)
    return Shard(count, torch.arange(count).tensor_split(world())[rank()])


def for_all(count: int) -> int:
    """A number of rows that leaves at least one for each process."""
    return max(count, world())


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of inputs (B, C) or (B, C, ...) whose statistics are those of the whole batch."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each channel.

        Args:
            input: Rows of this process's shard (n, C) or (n, C, ...).
        """
        if world() == 1 or not self.training:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            values = input.float().movedim(1, -1)
            rows = values.flatten(0, -2)
            count = total(rows.new_full((), len(rows)))
            average = total(rows.sum(0)) / count
            variance = total((rows - average).square().sum(0)) / count
            self._remember(average.detach(), (variance * count / (count - 1)).detach())
            result = (values - average) * (variance + self.eps).rsqrt()
            if self.affine:
                result = result * self.weight + self.bias
        return result.movedim(-1, 1).to(input.dtype)

    @torch.no_grad()
    def _remember(self, average: Tensor, variance: Tensor) -> None:
        """Update the running statistics as torch does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(average, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
