"""Precision of a training by its device, and its number of threads by a measurement that is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn import devices
from medssl.tasks.plan import step_times
from medssl.tasks.plan.patch_size import batch_text, smaller


def measured(
    project: Project, plan: Plan, device: torch.device, settings: dict[str, Any], reasons: list[str]
) -> Plan:
    """Set a plan's precision by the device, and its number of threads by a measurement.

    One thread is fastest for small networks, and where other programs use the remaining cores. It is measured
    once per project and machine and cached (step_times.py), so that the same job gives the same weights again
    and a second training starts at once. Values in `settings` are not measured.

    Args:
        project: Whose folder has the cache.
        plan: The plan to complete.
        device: Where to train.
        settings: A job's settings.
        reasons: Receives one sentence per decision.

    Returns:
        The completed plan, possibly with a smaller batch where memory does not suffice.
    """
    if "precision" in settings:
        reasons.append(f"{plan.precision}, as requested")
    elif devices.fast_bf16(device):
        plan = replace(plan, precision="bf16")
        reasons.append("bf16, which this device supports natively")
    else:
        plan = replace(plan, precision="fp32")
        reasons.append("fp32, because this device would emulate bf16")
    if device.type != "cpu" or plan.threads == 1 or "threads" in settings:
        return plan
    threads = step_times.known_threads(project.root, plan)
    if threads is not None:
        reasons.append(f"{_threads(threads)}, measured earlier on this machine")
        return replace(plan, threads=threads)
    while True:
        candidates = [replace(plan, threads=threads) for threads in (plan.threads, 1)]
        seconds = step_times.measure(candidates, device)
        if seconds is not None:
            break
        less = smaller(plan)
        if less is None:
            return plan  # the training raises the error for insufficient memory
        plan = less
        reasons.append(f"a smaller batch than usual because of limited memory: {batch_text(plan)}")
    best = min(seconds, key=lambda candidate: seconds[candidate])
    # The default stays where it is slower by no more than noise, for reproducible trainings.
    chosen = candidates[0] if seconds[candidates[0]] < 1.15 * seconds[best] else best
    times = ", ".join(
        f"{_threads(candidate.threads)} {time_s * 1e3:.0f} ms" for candidate, time_s in seconds.items()
    )
    reasons.append(f"{_threads(chosen.threads)}, by measured step time: {times}")
    step_times.remember_threads(project.root, plan, chosen.threads)
    return chosen


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
