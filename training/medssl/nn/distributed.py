"""Several processes that train together: how they exchange tensors, agree, and notice that one has ended.

All processes draw the same random numbers, for the whole batch. Each cuts and computes its `Shard` of it, and
what combines rows passes through `total` (shards.py). So each has the loss of the whole batch, and the mean
of their gradients is its gradient. Whatever is computed by all of them alike, such as a loss that nobody has
divided, is right as well, and only not faster.

With one process all of this returns its input: nothing is copied, rounded or waited for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor
from torch import distributed as dist

from medssl.core import ranks
from medssl.core.errors import UserError
from medssl.nn import devices

T = TypeVar("T")
WAIT = timedelta(minutes=10)
"""How long a process waits for another one: as long as rank 0 may evaluate or save meanwhile."""
WAIT_AT_END = timedelta(days=7)
"""How long the others wait for rank 0, which predicts after a training."""


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


class ShortMemory(RuntimeError):
    """Memory was short in one of the processes, and none has taken the step."""

    def __init__(self) -> None:
        super().__init__("out of memory in one of the processes")


class _Processes:
    """The processes that this one trains with, and how they exchange tensors."""

    world, rank = 1, 0
    tensors: Any = None
    """Group for tensors, on the device of the training; None for a process on its own."""
    alone = False
    """Whether this process computes something that the others do not."""


_together = _Processes()


def world() -> int:
    """Number of processes that train together."""
    return 1 if _together.alone else _together.world


def rank() -> int:
    """Number of this process among them."""
    return _together.rank


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
    """Train with the processes that torchrun started beside this one; nothing for a single process.

    At the end they wait for each other: torchrun calls it a failure if its machines end minutes apart.

    Raises:
        UserError: "bad-ranks" if they do not find each other.
    """
    if ranks.world() == 1 or _together.world > 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank() % torch.cuda.device_count())
    try:
        dist.init_process_group("gloo", timeout=WAIT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"The processes of this training do not find each other ({reason}); start all of them by "
            "torchrun, with the same --rdzv-endpoint.",
            code="bad-ranks",
        ) from error
    _together.world, _together.rank = dist.get_world_size(), dist.get_rank()
    _connect()
    try:
        yield
        dist.barrier(dist.new_group(backend="gloo", timeout=WAIT_AT_END))
    finally:
        _together.world, _together.rank, _together.tensors = 1, 0, None
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


def add(tensor: Tensor) -> None:
    """Add a tensor (any shape) over the processes, in place."""
    _exchange(dist.all_reduce, tensor)


def dealt_out(
    number: int, compute: Callable[[int], Tensor], empty: Callable[[int], Tensor]
) -> Iterator[Tensor]:
    """Results that the processes compute in turn and all get.

    Args:
        number: Number of results.
        compute: Computes the result of a number from 0 (any shape).
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


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace the gradients by their means over the processes, in one exchange.

    Args:
        parameters: Parameters (any shape); those without a gradient have none in any process.
    """
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    add(flat)
    flat /= world()
    parts = flat.split([gradient.numel() for gradient in gradients])
    means = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(gradients, means)


def start_alike(tensors: Iterable[Tensor]) -> None:
    """Give all processes the tensors (any shape) of rank 0, in place.

    Raises:
        Lost: A process has ended.
    """
    if world() > 1:
        for tensor in tensors:
            same = tensor.detach().contiguous()
            try:
                _exchange(dist.broadcast, same, 0)
            except _Interrupted as error:
                raise Lost from error
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
        ShortMemory: In all processes, if it was short in one of them.
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
    try:
        some_short, some_interrupted = _largest(short, interrupted)
        if some_short or some_interrupted:
            if _together.tensors is not None:
                _disconnect()
            _connect()
            raise ShortMemory if some_short else Lost
    except (ShortMemory, Lost):
        generator.set_state(state)
        raise


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
