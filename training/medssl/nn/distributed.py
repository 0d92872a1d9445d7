"""Several processes that train together: each computes a shard of every batch, and all get the whole loss.

All processes draw the same random numbers, for the whole batch. Each cuts and computes its own `Shard` of it.
What combines the rows of a batch (sums, means, batch norms, contrasted vectors) goes through `total`, which
adds over the processes, forward and backward. So each process has the loss of the whole batch, and the mean
of their gradients is its gradient. Whatever is computed by all of them alike, such as a loss that nobody has
split, is right as well, and only not faster.

With one process all of this returns its input: nothing is copied, rounded or waited for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch import distributed as dist

from medssl.core import ranks
from medssl.core.errors import UserError
from medssl.nn import devices

T = TypeVar("T")
WAIT = timedelta(minutes=10)
"""How long a process waits for another one: as long as rank 0 may evaluate or save meanwhile."""


class Lost(UserError):
    """Another process has ended, so that this training cannot go on."""

    def __init__(self) -> None:
        super().__init__(
            "A process of this training has ended or cannot be reached, so the others end as well; read its "
            "error output, then resume the run.",
            code="process-lost",
        )


class _Interrupted(RuntimeError):
    """Another process gave up the current step; the processes agree on why in `all_or_none`."""


class _Processes:
    """The processes that this one trains with, and how they exchange tensors."""

    tensors: Any = None
    """Group for tensors, on the device of the training; None for a process on its own."""
    alone: bool = False
    """Whether this process computes something that the others do not."""


_together = _Processes()


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() and not _together.alone else 1


def rank() -> int:
    """Number of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this process speaks, writes and decides: rank 0 does."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Compute what the other processes do not, so that nothing waits for them."""
    before, _together.alone = _together.alone, True
    try:
        yield
    finally:
        _together.alone = before


@contextmanager
def together() -> Iterator[None]:
    """Train with the processes that torchrun started beside this one; nothing for a single process."""
    if ranks.world() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank() % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=WAIT)
    _connect()
    try:
        yield
    finally:
        leave()


def leave() -> None:
    """Go on alone."""
    _together.tensors = None
    if dist.is_initialized():
        dist.destroy_process_group()


def _connect() -> None:
    """Open the group for tensors. NCCL needs a GPU for each process; gloo works everywhere."""
    own_gpu = torch.cuda.is_available() and ranks.local_world() <= torch.cuda.device_count()
    _together.tensors = dist.new_group(backend="cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=WAIT)


def _disconnect() -> None:
    """Close the group for tensors; whoever waits in it is told so."""
    group, _together.tensors = _together.tensors, None
    dist.destroy_process_group(group)
    del group  # gloo closes its connections with the last reference


def _exchange(exchange: Callable[..., Any], tensor: Tensor, *given: Any) -> None:
    """An exchange of a tensor, in place, which ends with `_Interrupted` where another process gives up."""
    try:
        exchange(tensor, *given, group=_together.tensors)
    except RuntimeError as error:
        raise _Interrupted(str(error)) from error


def _add(tensor: Tensor) -> None:
    """Add a tensor over the processes, in place."""
    _exchange(dist.all_reduce, tensor)


def dealt_out(
    number: int, compute: Callable[[int], Tensor], empty: Callable[[int], Tensor]
) -> Iterator[Tensor]:
    """Results that the processes compute in turn and all get.

    Args:
        number: Number of results.
        compute: Computes the result of a number from 0.
        empty: A tensor of the same shape and type, for processes that do not compute it.
    """
    mine = {n: compute(n) for n in range(number) if world() > 1 and n % world() == rank()}
    for n in range(number):
        if world() == 1:
            yield compute(n)
        else:
            result = mine.pop(n).contiguous() if n in mine else empty(n)
            _exchange(dist.broadcast, result, n % world())
            yield result


class _Total(torch.autograd.Function):
    """Sum over the processes; gradients are added, too, as the loss of each of them depends on it."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        whole = own.detach().clone(memory_format=torch.contiguous_format)
        _add(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        _add(whole)
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


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace the gradients by their means over the processes, in one exchange.

    Args:
        parameters: Parameters (any shape); those without a gradient have none in any process.
    """
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    _add(flat)
    flat /= world()
    parts = flat.split([gradient.numel() for gradient in gradients])
    means = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(gradients, means)


def start_alike(tensors: Iterable[Tensor]) -> None:
    """Give all processes the tensors (any shape) of rank 0, in place."""
    if world() > 1:
        for tensor in tensors:
            same = tensor.detach().contiguous()
            dist.broadcast(same, 0, group=_together.tensors)
            tensor.detach().copy_(same)


def _largest(*values: float) -> list[float]:
    """The largest of each value over the processes.

    Raises:
        Lost: A process has ended.
    """
    agreed = torch.tensor(values, dtype=torch.float64)
    try:
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
    except RuntimeError as error:
        raise Lost from error
    return agreed.tolist()


def go_on(fraction: float, should_stop: Callable[[], bool]) -> tuple[float, bool]:
    """Agree on the next step.

    Args:
        fraction: Completed fraction of the training; that of rank 0 counts.
        should_stop: Whether this process was asked to stop; one is enough.

    Returns:
        Fraction, and whether to stop.

    Raises:
        Lost: A process has ended.
    """
    stop = fraction < 1 and should_stop()
    if world() == 1:
        return fraction, stop
    fraction, asked = _largest(fraction if leads() else 0.0, float(stop))
    return fraction, fraction < 1 and bool(asked)


@contextmanager
def all_or_none(generator: Generator) -> Iterator[None]:
    """A part of a step that all processes complete, or none.

    Args:
        generator: Source of the draws; it is set back where the part was not completed.

    Raises:
        RuntimeError: That of short memory, in all processes, if it was short in one of them.
        Lost: A process has ended.
    """
    if world() == 1:
        yield
        return
    short = interrupted = False
    state = generator.get_state()
    try:
        yield
    except _Interrupted:
        interrupted = True
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
        short = True
    # Outside of the except clauses the tensors of the failed step are no longer referenced.
    if short or interrupted:
        _disconnect()  # the others may be waiting for this process
    complete = False
    try:
        some_short, some_interrupted = _largest(short, interrupted)
        complete = not (some_short or some_interrupted)
    finally:
        if not complete:
            generator.set_state(state)
    if not complete:
        if _together.tensors is not None:
            _disconnect()
        _connect()
        raise RuntimeError("out of memory in one of the processes") if some_short else Lost


def decided(decide: Callable[[], T]) -> T:
    """What rank 0 decides, for all.

    Args:
        decide: Called by rank 0 alone; returns what JSON can hold.

    Raises:
        Lost: A process has ended, such as rank 0, whose decision was a UserError.
    """
    if world() == 1:
        return decide()
    text = json.dumps(decide()).encode() if leads() else b""
    try:
        size = torch.tensor(len(text))
        dist.broadcast(size, 0)
        body = torch.tensor([*text] or [0] * int(size), dtype=torch.uint8)
        dist.broadcast(body, 0)
    except RuntimeError as error:
        raise Lost from error
    result: T = json.loads(bytes(body.tolist()))
    return result


def in_order(function: Callable[[], T]) -> T:
    """Call a function in rank 0, and then in the others, which find what it has written."""
    if not leads():
        decided(lambda: None)
        return function()
    result = function()
    decided(lambda: None)
    return result
