"""Which device to compute on, and what it is good for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Generator, Tensor

from medssl.core.errors import UserError

THREADS = torch.get_num_threads()
"""What torch would use on this machine, before a plan says otherwise."""

P = ParamSpec("P")
R = TypeVar("R")


def choose(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises UserError ("no-device") for a device this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"There is no device {name!r} here; `medssl doctor` lists those there are.", code="no-device"
        ) from error
    return device


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bf16.

    Without them a CPU emulates it a hundred times slower, so it must not even be tried.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # torch has no public question for this; where a version lacks these, the answer is no.
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(question() for question in asked if question)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function, out of reach of a mixed-precision block around it.

    For geometry and grey values: in bf16 a coordinate near 300 is off by a voxel.
    """

    @wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact


def normal(shape: Sequence[int], generator: Generator, device: torch.device | str = "cpu") -> Tensor:
    """Many standard normal numbers on the device.

    On the CPU they come from `generator`; elsewhere from one of the device that `generator` seeds, for it
    would wait for millions of numbers from the CPU. The same seed gives the same numbers on one kind of
    device only.
    """
    device = torch.device(device)
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device)


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A few numbers from the CPU to the device, without waiting for what it still has to do."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def wait(device: torch.device) -> None:
    """Until the device has done all that it was told: only then does a clock say anything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory is short.

    Only CUDA has an exception of its own for that; on the CPU, on MPS and in CUDA's libraries (cuDNN, cuBLAS)
    it is a RuntimeError like any other.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    short = ("can't allocate memory", "out of memory", "bad_alloc", "_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(each in said for each in short)


def describe(device: torch.device) -> str:
    """The device in words: its name and memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return f"CPU with {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
