"""Step time by number of threads, and the fastest number cached per project and machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from medssl.core.environment import processor
from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.json_files import read_json, write_json
from medssl.core.project.locks import change_lock
from medssl.nn import devices
from medssl.nn.models.unet import build

ENOUGH_S = 0.4
"""Seconds of timed steps after which a number of threads has been measured enough."""


def file_of(root: Path) -> Path:
    """File in the project folder `root` with the measured numbers of threads."""
    return root / "step-times.json"


def known_threads(root: Path, plan: Plan) -> int | None:
    """Fastest number of threads measured for this plan on this machine; None if not measured yet."""
    threads = _read(root).get(_key(plan))
    usable = isinstance(threads, int) and 1 <= threads <= plan.threads
    return threads if usable else None


def remember_threads(root: Path, plan: Plan, threads: int) -> None:
    """Cache the fastest number of threads; nothing happens if the folder is not writable."""
    with suppress(UserError), change_lock(root):
        write_json(file_of(root), {**_read(root), _key(plan): threads})


def _read(root: Path) -> dict[str, Any]:
    with suppress(UserError):
        measured = read_json(file_of(root))
        if isinstance(measured, dict):
            return measured
    return {}


def _key(plan: Plan) -> str:
    """Identifies the machine and what a step computes."""
    size = "x".join(map(str, (plan.batch, *plan.patch_vox)))
    channels = "-".join(map(str, plan.channels))
    images = f"{plan.n_channels} images, " if plan.channel_names else ""
    return f"{processor()}, {plan.threads} cores, {plan.dims}D, {channels}, {size}, {images}{plan.precision}"


def measure(candidates: Sequence[Plan], device: torch.device) -> dict[Plan, float] | None:
    """Measure the step time of each plan.

    Args:
        candidates: Plans that differ in their number of threads.
        device: Where to run the steps.

    Returns:
        Seconds per step by plan; None if one of them runs out of memory.
    """
    try:
        seconds: dict[Plan, float] = {}
        for candidate in candidates:
            best = min(seconds.values(), default=math.inf)
            seconds[candidate] = seconds_per_step(candidate, device, hopeless_s=2 * best)
        return seconds
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
    return None  # outside of the except clause the memory of the failed step is free


def seconds_per_step(
    plan: Plan, device: torch.device, repeats: int = 5, hopeless_s: float = math.inf
) -> float:
    """Median time of a few training steps on constant tensors, after one warm-up step.

    The user waits for it, so after ENOUGH_S two steps suffice.

    Args:
        plan: The network, the batch and the number of threads.
        device: Where to run the steps.
        repeats: Maximum number of timed steps.
        hopeless_s: If the warm-up step takes longer, its time is returned at once.

    Returns:
        Seconds per step.
    """
    if device.type == "cpu":
        torch.set_num_threads(plan.threads)
    network = build(plan, 2, seed=0).to(device)
    size = plan.patch_vox[3 - plan.dims :]
    image = torch.zeros(plan.batch, plan.in_channels, *size, device=device)
    times = []
    for attempt in range(1 + repeats):
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            loss = network(image).float().square().mean()
        loss.backward()
        devices.wait(device)
        elapsed_s = time.perf_counter() - begin
        if not attempt and elapsed_s > hopeless_s:
            return elapsed_s
        times += [elapsed_s] * bool(attempt)
        if len(times) > 1 and sum(times) > ENOUGH_S:
            break
    return statistics.median(times)
