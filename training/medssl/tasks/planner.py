"""Choose the plan of a training for a project's scans and device, with a reason for each choice.

Dimensions, patch and batch follow from the spacing and the annotated slices, precision from the device, and
the number of threads from a short measurement. ARCHITECTURE.md ("Why 2.5D first") gives the evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn import devices, distributed
from medssl.nn.shards import for_all
from medssl.tasks import step_times
from medssl.tasks.channels import choose_channels

CHANNELS, CONTEXT = (16, 32, 64, 128), 3
"""Channels per level, and input slices, of the network that every device can train."""
PIXELS_A_STEP_CPU, PIXELS_A_STEP_GPU = 40_000, 1_200_000
"""Pixels per batch: a step then takes about as long for small patches as for large ones."""


def choose(
    project: Project,
    scans: Sequence[str],
    device: torch.device,
    settings: dict[str, Any],
    network: Plan | None = None,
) -> tuple[Plan, list[str]]:
    """Choose the plan for a project's scans on a device.

    Args:
        project: The project.
        scans: Ids of the scans to train on.
        device: Where to train.
        settings: A job's settings; those in `SETTINGS` override the choices.
        network: Plan of the weights to start from; in 2.5D its channels and input slices are adopted.

    Returns:
        The plan, and one sentence per decision.

    Raises:
        UserError: "bad-job" for an invalid override, "no-scans" if `scans` is empty.
    """
    if not scans:
        raise UserError(
            f"{project.root} has no scan to train on; add scans, or hold out fewer of them.", code="no-scans"
        )
    reasons: list[str] = []
    geometries = [project.scans[scan].geometry for scan in scans]
    spacing = np.median([geometry.spacing_mm for geometry in geometries], axis=0)
    shape = np.median([geometry.shape_zyx for geometry in geometries], axis=0)
    dims, slice_axis = _dims_and_axis(project, spacing, device, settings, reasons)
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
    patch = _patch(settings, patch, strides)
    pixels = math.prod(patch[3 - dims :])
    batch = min(
        max(round((PIXELS_A_STEP_GPU if gpu else PIXELS_A_STEP_CPU) / pixels), 2 if dims == 3 else 4), 32
    )
    plan = Plan(dims, slice_axis, grid, patch, batch, channels, strides, threads=devices.THREADS)  # type: ignore[arg-type]
    plan = replace(plan, channel_names=choose_channels(project, scans, settings, reasons))
    reasons.append(f"patches of {_shape_text(patch)}; median scan size {_shape_text(shape.tolist())}")
    plan = measured(project, adapt(plan, device, settings), device, settings, reasons)
    return for_processes(plan, settings, reasons), reasons


def choose_without_scans(
    project: Project, device: torch.device, settings: dict[str, Any]
) -> tuple[Plan, list[str]]:
    """Choose the plan for a method that needs no scans: the network that every device can train.

    Returns:
        The plan, and one sentence per decision.

    Raises:
        UserError: "bad-job" for an invalid override.
    """
    side = 64
    batch = round((PIXELS_A_STEP_GPU if device.type != "cpu" else 6 * PIXELS_A_STEP_CPU) / side**2)
    strides = ((1, 1), *((2, 2),) * (len(CHANNELS) - 1))
    patch = _patch(settings, (_whole(settings, "context", CONTEXT), side, side), strides)
    plan = Plan(2, 0, (0.0, 1.0, 1.0), patch, batch, CHANNELS, strides, threads=devices.THREADS)  # type: ignore[arg-type]
    plan = adapt(plan, device, settings)
    reasons = [f"synthetic volumes, batches of {_batch_text(plan)}"]
    plan = measured(project, plan, device, settings, reasons)
    return for_processes(plan, settings, reasons), reasons


def for_processes(plan: Plan, settings: dict[str, Any], reasons: list[str]) -> Plan:
    """A plan whose batch gives each of the processes as much as one on its own would have.

    A `batch` in `settings` is that of all processes together.
    """
    number = distributed.world()
    if number == 1 or "batch" in settings:
        return plan
    reasons.append(f"{number} processes, each with {_batch_text(plan)} of a batch of {number * plan.batch}")
    return replace(plan, batch=number * plan.batch)


def agreed(choose: Callable[[], tuple[Plan, list[str]]]) -> tuple[Plan, list[str]]:
    """The plan of all processes: that which rank 0 chooses, with at least one patch for each process."""
    if distributed.world() == 1:
        return choose()

    def as_json() -> list[Any]:
        plan, reasons = choose()
        return [jobs.to_json(plan), reasons]

    fields, reasons = distributed.decided(as_json)
    plan = jobs.from_json(Plan, fields, "the plan")
    return replace(plan, batch=for_all(plan.batch)), reasons


def adapt(plan: Plan, device: torch.device, settings: dict[str, Any]) -> Plan:
    """Apply a job's overrides to a plan, and replace bf16 where the device has no instructions for it.

    Raises:
        UserError: "bad-job" for an invalid override.
    """
    precision = settings.get("precision", plan.precision)
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision {precision!r} is unknown; write fp32 or bf16.", code="bad-job")
    if precision == "bf16" and not devices.fast_bf16(device):
        precision = "fp32"
    batch, threads = _whole(settings, "batch", plan.batch), _whole(settings, "threads", plan.threads)
    return replace(plan, precision=precision, batch=batch, threads=threads)


def smaller(plan: Plan, least_batch: int = 1) -> Plan | None:
    """Halve the batch or, where it would fall below `least_batch`, the sides of the patch.

    Each side of a patch remains at least two strides of the network long.

    Returns:
        The smaller plan; None if the patch cannot shrink further.
    """
    if plan.batch // 2 >= for_all(least_batch):
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
    """The notice for a plan that was shrunk because memory did not suffice."""
    return f"Out of memory: training continues with a batch of {_batch_text(plan)}."


def _batch_text(plan: Plan) -> str:
    return f"{plan.batch} patches of {_shape_text(plan.patch_vox)}"


def _whole(settings: dict[str, Any], name: str, default: int) -> int:
    """A setting that must be a positive integer."""
    value = settings.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value!r}; write a whole number of at least 1.", code="bad-job")
    return value


def _dims_and_axis(
    project: Project, spacing: np.ndarray, device: torch.device, settings: dict[str, Any], reasons: list[str]
) -> tuple[int, int]:
    """Dimensions (2 for 2.5D, or 3) and canonical slice axis."""
    dims, axis = settings.get("dims"), settings.get("slice_axis")
    if dims not in (None, 2, 3) or axis not in (None, 0, 1, 2):
        raise UserError("dims must be 2 or 3 and slice_axis 0, 1 or 2; correct the settings.", code="bad-job")
    if dims is None:
        dims = _dims(project, device, reasons)
    else:
        reasons.append(f"{'2.5D' if dims == 2 else '3D'}, as requested")
    if dims == 3:
        return 3, 0
    if axis is None:
        return 2, slice_axis(project, spacing, reasons)
    reasons.append(f"{AXIS_NAMES[axis]} slices, as requested")
    return 2, axis


def _patch(
    settings: dict[str, Any], patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """The patch, or the one in `settings`, with sides that are multiples of the network's strides.

    In 2.5D the first number is the number of input slices, which must be odd so that one is in the middle.
    """
    requested = settings.get("patch", patch)
    if not (
        isinstance(requested, list | tuple)
        and len(requested) == 3
        and all(isinstance(n, int) for n in requested)
    ):
        raise UserError(f"patch is {requested!r}; write three whole numbers.", code="bad-job")
    total = [int(step) for step in np.prod(strides, axis=0)]
    if len(total) == 3:
        return tuple(
            _side(length, step, length + 2 * step) for length, step in zip(requested, total, strict=True)
        )
    if requested[0] < 1 or requested[0] % 2 == 0:
        raise UserError(
            f"patch or context sets {requested[0]} input slices; write an odd number.", code="bad-job"
        )
    return (
        requested[0],
        *(_side(length, step, length + 2 * step) for length, step in zip(requested[1:], total, strict=True)),
    )


def slice_axis(project: Project, spacing: np.ndarray, reasons: list[str]) -> int:
    """Canonical axis perpendicular to the annotated slices, or to those that a user would annotate.

    Args:
        project: The project with its annotations.
        spacing: Typical voxel spacing in mm, float (3,) in canonical order (z, y, x).
        reasons: Receives one sentence.

    Returns:
        0 axial, 1 coronal or 2 sagittal.
    """
    votes: Counter[int] = Counter()
    for scan in project.annotated():
        annotation = project.annotation(scan)
        votes.update(axis for axis, _ in (annotation.complete if annotation else ()))
    if votes:
        axis = votes.most_common(1)[0][0]
        reasons.append(
            f"{AXIS_NAMES[axis]} slices, because {votes[axis]} complete slices have this orientation"
        )
        return axis
    axis = int(np.argmax(spacing)) if spacing.max() > 1.3 * spacing.min() else 0
    anisotropic = spacing[axis] > 1.3 * spacing.min()
    why = "because the scans have their largest spacing across them" if anisotropic else "the default"
    reasons.append(f"{AXIS_NAMES[axis]} slices, {why}")
    return axis


def _dims(project: Project, device: torch.device, reasons: list[str]) -> int:
    annotated = total = 0
    for scan in project.annotated():
        annotation = project.annotation(scan)
        if annotation is not None:
            labelled = annotation.target() != 255
            annotated += int(labelled.any(axis=(1, 2)).sum())
            total += len(labelled)
    if device.type != "cpu" and total and annotated > 0.5 * total:
        reasons.append(f"3D, because {annotated} of {total} slices of the annotated scans are annotated")
        return 3
    if total:
        reasons.append(
            f"2.5D, because only {annotated} of {total} slices are annotated: from isolated slices a 3D "
            "network would learn their position instead of their content"
        )
    else:
        reasons.append("2.5D, because few slices will be annotated; neighbouring slices are input channels")
    return 2


def _side(length: float, stride: int, longest: int) -> int:
    """A multiple of the stride, at least two, that covers a scan shorter than `longest`."""
    return int(min(max(2 * stride, -(-int(length) // stride) * stride), longest // stride * stride))


def _strides_3d(spacing: np.ndarray, levels: int) -> tuple[tuple[int, ...], ...]:
    """Strides per level: an axis is halved only once the others have become as coarse (nnU-Net's rule)."""
    strides: list[tuple[int, ...]] = [(1, 1, 1)]
    level_spacing = spacing.astype(float).copy()
    for _ in range(levels - 1):
        step = np.where(level_spacing < 2 * level_spacing.min(), 2, 1)
        strides.append(tuple(int(stride) for stride in step))
        level_spacing = level_spacing * step
    return tuple(strides)


def _shape_text(shape: Sequence[float]) -> str:
    return " x ".join(str(int(length)) for length in shape)


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
        reasons.append(f"a smaller batch than usual because of limited memory: {_batch_text(plan)}")
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
