"""How long a training step takes, and the number of threads that was chosen by it in a project."""

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
from medssl.core.files import read_json, write_json
from medssl.core.jobs import Plan
from medssl.nn import devices
from medssl.nn.models.unet import build

ENOUGH_S = 0.4
"""Seconds of timed steps of one number of threads."""


def file_of(root: Path) -> Path:
    """Where a project keeps what was measured in it."""
    return root / "step-times.json"


def known_threads(root: Path, plan: Plan) -> int | None:
    """The number of threads that was the fastest for such steps on this machine; None if it is not known."""
    threads = _read(root).get(_name(plan))
    usable = isinstance(threads, int) and 1 <= threads <= plan.threads
    return threads if usable else None


def remember_threads(root: Path, plan: Plan, threads: int) -> None:
    """Keep it; a folder that may not be written to is left as it is."""
    with suppress(UserError):
        write_json(file_of(root), {**_read(root), _name(plan): threads})


def _read(root: Path) -> dict[str, Any]:
    with suppress(UserError):
        known = read_json(file_of(root))
        if isinstance(known, dict):
            return known
    return {}


def _name(plan: Plan) -> str:
    """A machine and a kind of step."""
    size = "x".join(map(str, (plan.batch, *plan.patch_vox)))
    channels = "-".join(map(str, plan.channels))
    return f"{processor()}, {plan.threads} cores, {plan.dims}D, {channels}, {size}, {plan.precision}"


def measure(candidates: Sequence[Plan], device: torch.device) -> dict[Plan, float] | None:
    """Seconds of a step by plan; None where memory is short for one of them."""
    try:
        seconds: dict[Plan, float] = {}
        for candidate in candidates:
            best = min(seconds.values(), default=math.inf)
            seconds[candidate] = seconds_per_step(candidate, device, hopeless_s=2 * best)
        return seconds
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
    return None  # out here what the failed step held is free


def seconds_per_step(
    plan: Plan, device: torch.device, repeats: int = 5, hopeless_s: float = math.inf
) -> float:
    """The median of a few training steps on ready tensors, after one to warm up.

    Somebody waits for it: after ENOUGH_S there are only two, and none where the first takes `hopeless_s`.
    """
    if device.type == "cpu":
        torch.set_num_threads(plan.threads)
    network = build(plan, 2, seed=0).to(device)
    channels = (plan.patch_vox[0],) if plan.dims == 2 else (1, plan.patch_vox[0])
    image = torch.zeros(plan.batch, *channels, *plan.patch_vox[1:], device=device)
    times = []
    for attempt in range(1 + repeats):
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            loss = network(image).float().square().mean()
        loss.backward()
        devices.wait(device)
        took = time.perf_counter() - begin
        if not attempt and took > hopeless_s:
            return took
        times += [took] * bool(attempt)
        if len(times) > 1 and sum(times) > ENOUGH_S:
            break
    return statistics.median(times)
