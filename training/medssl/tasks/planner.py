"""Decides how the network looks at these scans, and says what it chose and why.

2.5D or 3D, patch, batch follow from spacing and from how the annotation lies, precision from the device, and
the number of threads from a short measurement. The evidence behind the rules stands in ARCHITECTURE.md ("Why
2.5D first").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn import devices
from medssl.tasks import step_times

SETTINGS = ("dims", "slice_axis", "batch", "precision", "threads", "patch", "context")
"""Names in a job's settings that override what is chosen here."""

CHANNELS, CONTEXT = (16, 32, 64, 128), 3
"""Feature channels per level and neighbouring slices of the network that every device can train."""
PIXELS_A_STEP_CPU, PIXELS_A_STEP_GPU = 40_000, 1_200_000
"""What a batch holds: a step then takes about as long for small patches as for large ones."""


def choose(
    project: Project,
    scans: Sequence[str],
    device: torch.device,
    settings: dict[str, Any],
    network: Plan | None = None,
) -> tuple[Plan, list[str]]:
    """A plan for these scans on this device, with one sentence a decision.

    network: the plan of weights to start from; in 2.5D its channels and neighbouring slices are taken.

    Raises UserError ("bad-job") for an override that makes no sense, ("no-scans") without a scan.
    """
    if not scans:
        raise UserError(
            f"{project.root} has no scan to train on; add scans, or hold fewer of them out.", code="no-scans"
        )
    reasons: list[str] = []
    geometries = [project.scans[scan].geometry for scan in scans]
    spacing = np.median([geometry.spacing_mm for geometry in geometries], axis=0)
    shape = np.median([geometry.shape_zyx for geometry in geometries], axis=0)
    dims, slice_axis = _look(project, spacing, device, settings, reasons)
    gpu = device.type != "cpu"
    channels: tuple[int, ...] = (32, 64, 128, 256) if gpu else CHANNELS
    context = CONTEXT
    if network is not None and network.dims == dims:
        channels, context = network.channels, network.patch_vox[0]
    order = (slice_axis, *(axis for axis in range(3) if axis != slice_axis))
    spacing, shape = spacing[list(order)], shape[list(order)]
    if dims == 2:
        strides: tuple[tuple[int, ...], ...] = ((1, 1), *((2, 2),) * (len(channels) - 1))
        longest = 192 if gpu else 96
        patch = (_whole(settings, "context", context), *(_side(length, 8, longest) for length in shape[1:]))
        grid = (0.0, float(spacing[1]), float(spacing[2]))
    else:
        strides = _strides_3d(spacing, len(channels))
        total = np.prod(strides, axis=0)
        longest = 128 if gpu else 48
        patch = tuple(_side(length, int(step), longest) for length, step in zip(shape, total, strict=True))
        grid = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    patch = _asked_patch(settings, patch, strides)
    pixels = math.prod(patch[3 - dims :])
    batch = min(
        max(round((PIXELS_A_STEP_GPU if gpu else PIXELS_A_STEP_CPU) / pixels), 2 if dims == 3 else 4), 32
    )
    plan = Plan(dims, slice_axis, grid, patch, batch, channels, strides, threads=devices.THREADS)  # type: ignore[arg-type]
    reasons.append(f"patches of {_shape_text(patch)} from scans of typically {_shape_text(shape.tolist())}")
    return measured(project, adapt(plan, device, settings), device, settings, reasons), reasons


def choose_without_scans(
    project: Project, device: torch.device, settings: dict[str, Any]
) -> tuple[Plan, list[str]]:
    """A plan for a method that needs no scans: the CPU's network, which fits every device."""
    side = 64
    batch = round((PIXELS_A_STEP_GPU if device.type != "cpu" else 6 * PIXELS_A_STEP_CPU) / side**2)
    strides = ((1, 1), *((2, 2),) * (len(CHANNELS) - 1))
    patch = _asked_patch(settings, (_whole(settings, "context", CONTEXT), side, side), strides)
    plan = Plan(2, 0, (0.0, 1.0, 1.0), patch, batch, CHANNELS, strides, threads=devices.THREADS)  # type: ignore[arg-type]
    plan = adapt(plan, device, settings)
    reasons = [f"made-up volumes, {_amount(plan)} at a time"]
    return measured(project, plan, device, settings, reasons), reasons


def adapt(plan: Plan, device: torch.device, settings: dict[str, Any]) -> Plan:
    """The plan with a job's overrides, and without bf16 where this device has none."""
    precision = settings.get("precision", plan.precision)
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision {precision!r} is unknown; write fp32 or bf16.", code="bad-job")
    if precision == "bf16" and not devices.fast_bf16(device):
        precision = "fp32"
    batch, threads = _whole(settings, "batch", plan.batch), _whole(settings, "threads", plan.threads)
    return replace(plan, precision=precision, batch=batch, threads=threads)


def smaller(plan: Plan, least_batch: int = 1) -> Plan | None:
    """The plan with half the batch, or, where that would be below `least_batch`, half the patch.

    A patch keeps at least two cells of the network along each axis; None where it has no more.
    """
    if plan.batch // 2 >= least_batch:
        return replace(plan, batch=plan.batch // 2)
    first = 3 - plan.dims
    total = [int(step) for step in np.prod(plan.strides, axis=0)]
    sides = [
        max(2 * step, length // 2 // step * step)
        for length, step in zip(plan.patch_vox[first:], total, strict=True)
    ]
    patch = (*plan.patch_vox[:first], *sides)
    return None if math.prod(patch) >= math.prod(plan.patch_vox) else replace(plan, patch_vox=patch)  # type: ignore[arg-type]


def in_words(plan: Plan) -> str:
    """What of a plan short memory can change, as a sentence."""
    return f"Memory was short: the batch is now {_amount(plan)}, and the training goes on."


def _amount(plan: Plan) -> str:
    return f"{plan.batch} patches of {_shape_text(plan.patch_vox)}"


def _whole(settings: dict[str, Any], name: str, default: int) -> int:
    """A setting that counts something."""
    value = settings.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value!r}; write a whole number of at least 1.", code="bad-job")
    return value


def _look(
    project: Project, spacing: np.ndarray, device: torch.device, settings: dict[str, Any], reasons: list[str]
) -> tuple[int, int]:
    """2.5D or 3D, and across which canonical axis."""
    dims, axis = settings.get("dims"), settings.get("slice_axis")
    if dims not in (None, 2, 3) or axis not in (None, 0, 1, 2):
        raise UserError("dims must be 2 or 3 and slice_axis 0, 1 or 2; correct the settings.", code="bad-job")
    if dims is None:
        dims = _dims(project, device, reasons)
    else:
        reasons.append(f"{'2.5D' if dims == 2 else '3D'}, as asked")
    if dims == 3:
        return 3, 0
    if axis is None:
        return 2, slice_axis(project, spacing, reasons)
    reasons.append(f"{AXIS_NAMES[axis]} slices, as asked")
    return 2, axis


def _asked_patch(
    settings: dict[str, Any], patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """The patch, or the one that was asked for, in whole cells of the network.

    In 2.5D the first number is how many slices are seen; it must be odd, or none would be in the middle.
    """
    asked = settings.get("patch", patch)
    if not (isinstance(asked, list | tuple) and len(asked) == 3 and all(isinstance(n, int) for n in asked)):
        raise UserError(f"patch is {asked!r}; write three whole numbers.", code="bad-job")
    total = [int(step) for step in np.prod(strides, axis=0)]
    if len(total) == 3:
        return tuple(
            _side(length, step, length + 2 * step) for length, step in zip(asked, total, strict=True)
        )
    if asked[0] < 1 or asked[0] % 2 == 0:
        raise UserError(f"{asked[0]} slices have no middle; write an odd number of them.", code="bad-job")
    return (
        asked[0],
        *(_side(length, step, length + 2 * step) for length, step in zip(asked[1:], total, strict=True)),
    )


def slice_axis(project: Project, spacing: np.ndarray, reasons: list[str]) -> int:
    """Canonical axis across the slices that people paint, or will; one sentence of `reasons` says why."""
    votes: Counter[int] = Counter()
    for scan in project.annotated():
        annotation = project.annotation(scan)
        votes.update(axis for axis, _ in (annotation.complete if annotation else ()))
    if votes:
        axis = votes.most_common(1)[0][0]
        reasons.append(
            f"{AXIS_NAMES[axis]} slices, because {votes[axis]} complete slices are painted that way"
        )
        return axis
    axis = int(np.argmax(spacing)) if spacing.max() > 1.3 * spacing.min() else 0
    why = (
        "the scan is coarsest across them"
        if spacing[axis] > 1.3 * spacing.min()
        else "nothing speaks against them"
    )
    reasons.append(f"{AXIS_NAMES[axis]} slices, because {why}")
    return axis


def _dims(project: Project, device: torch.device, reasons: list[str]) -> int:
    painted = total = 0
    for scan in project.annotated():
        annotation = project.annotation(scan)
        if annotation is not None:
            known = annotation.target() != 255
            painted += int(known.any(axis=(1, 2)).sum())
            total += len(known)
    if device.type != "cpu" and total and painted > 0.5 * total:
        reasons.append(f"3D, because {painted} of {total} slices of the annotated scans are painted")
        return 3
    if total:
        reasons.append(
            f"2.5D, because only {painted} of {total} slices of the annotated scans are painted: from "
            "isolated slices a 3D network learns where slices lie, not what they show"
        )
    else:
        reasons.append(
            "2.5D, because few slices will be painted and neighbouring slices are seen as channels"
        )
    return 2


def _side(length: float, stride: int, longest: int) -> int:
    """A multiple of the stride that covers the scan where it is short, at least two cells."""
    return int(min(max(2 * stride, -(-int(length) // stride) * stride), longest // stride * stride))


def _strides_3d(spacing: np.ndarray, levels: int) -> tuple[tuple[int, ...], ...]:
    """Axes are halved from level to level only once the others have become as coarse (nnU-Net's rule)."""
    strides: list[tuple[int, ...]] = [(1, 1, 1)]
    reached = spacing.astype(float).copy()
    for _ in range(levels - 1):
        step = np.where(reached < 2 * reached.min(), 2, 1)
        strides.append(tuple(int(each) for each in step))
        reached = reached * step
    return tuple(strides)


def _shape_text(shape: Sequence[float]) -> str:
    return " x ".join(str(int(length)) for length in shape)


def measured(
    project: Project, plan: Plan, device: torch.device, settings: dict[str, Any], reasons: list[str]
) -> Plan:
    """The plan in the precision that the device has instructions for, with the fastest number of threads.

    One thread wins on small networks, and wherever something else keeps the other cores busy. That is
    measured once for a project and a machine, and kept (step_times.py): the same job then gives the same
    weights again, and a second training starts at once. What the settings ask for is not measured.
    """
    if "precision" in settings:
        reasons.append(f"{plan.precision}, as asked")
    elif devices.fast_bf16(device):
        plan = replace(plan, precision="bf16")
        reasons.append("bf16, which this device computes fast")
    else:
        plan = replace(plan, precision="fp32")
        reasons.append("fp32, because bf16 would be emulated here")
    if device.type != "cpu" or plan.threads == 1 or "threads" in settings:
        return plan
    threads = step_times.known_threads(project.root, plan)
    if threads is not None:
        reasons.append(f"{_threads(threads)}, as measured here before")
        return replace(plan, threads=threads)
    while True:
        candidates = [replace(plan, threads=threads) for threads in (plan.threads, 1)]
        seconds = step_times.measure(candidates, device)
        if seconds is not None:
            break
        less = smaller(plan)
        if less is None:
            return plan  # the training will say that there is too little memory
        plan = less
        reasons.append(f"less at a time than usual, for memory is short: {_amount(plan)}")
    best = min(seconds, key=lambda each: seconds[each])
    # What is slower by less than noise stays: the usual choice repeats better.
    chosen = candidates[0] if seconds[candidates[0]] < 1.15 * seconds[best] else best
    times = ", ".join(f"{_threads(each.threads)} {time_s * 1e3:.0f} ms" for each, time_s in seconds.items())
    reasons.append(f"{_threads(chosen.threads)}, by the time of a step: {times}")
    step_times.remember_threads(project.root, plan, chosen.threads)
    return chosen


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
