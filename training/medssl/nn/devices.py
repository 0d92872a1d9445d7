"""Device selection, device capabilities, and helpers that behave the same on all devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Generator, Tensor

from medssl.core.errors import UserError

THREADS = torch.get_num_threads()
"""Torch's default number of threads, read before a plan sets another one."""

P = ParamSpec("P")
R = TypeVar("R")


def choose(name: str) -> torch.device:
    """Select a device by name.

    Args:
        name: A torch device such as "cpu" or "cuda:1", or "auto" for the first of CUDA, MPS and CPU.

    Returns:
        The device, which exists on this machine.

    Raises:
        UserError: "no-device" if this machine has no such device.

    Example:
        >>> choose("cpu")
        device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has shapes and no values
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(
            f"This machine has no device {name!r}; `medssl doctor` lists its devices.", code="no-device"
        ) from error
    return device


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware has bf16 instructions.

    Without them a CPU emulates bf16, a hundred times slower, so mixed precision must stay off.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Torch has no public query for this; a version without the private ones counts as unsupported.
    queries = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(query() for query in queries if query)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 for the precision "bf16", else nothing; never fp16, which would need loss scaling."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator that disables autocast inside `function`.

    For geometry and intensities: in bf16 a coordinate near 300 is off by a voxel.
    """

    @wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact


def normal(shape: Sequence[int], generator: Generator, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal random numbers, drawn on the device.

    The same seed gives the same numbers on one type of device only.

    Args:
        shape: Shape of the result.
        generator: CPU generator. On other devices it seeds a generator of that device, which would
            otherwise wait for millions of numbers from the CPU.
        device: Device of the result.

    Returns:
        Float32 tensor of the given shape.
    """
    device = torch.device(device)
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device)


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a small CPU tensor to the device without waiting for the device's pending work.

    Args:
        tensor: CPU tensor of any shape.
        device: Target device.

    Returns:
        The tensor on the device, same shape.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def wait(device: torch.device) -> None:
    """Block until all work queued on the device is done, as timing needs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports that memory ran out.

    Only CUDA has a dedicated exception; the CPU, MPS and CUDA's libraries (cuDNN, cuBLAS) raise a plain
    RuntimeError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error)
    phrases = ("can't allocate memory", "out of memory", "bad_alloc", "_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in message for phrase in phrases)


def describe(device: torch.device) -> str:
    """Name and memory of the device, as text for the user."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    count = torch.get_num_threads()
    return f"CPU with {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else str(device)
