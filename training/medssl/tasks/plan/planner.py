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
from medssl.tasks.plan.channels import choose_channels
from medssl.tasks.plan.overrides import adapt, whole
from medssl.tasks.plan.patch_size import batch_text, patch_of, shape_text, side_of, strides_3d
from medssl.tasks.plan.precision_and_threads import measured

CHANNELS, CONTEXT = (16, 32, 64, 128), 3
"""Channels per level, and input slices, of the network that every device can train."""
PIXELS_A_STEP_CPU, PIXELS_A_STEP_GPU = 40_000, 1_200_000
"""Pixels per batch: a step then takes about as long for small patches as for large ones."""
PIXELS_A_STEP_FINETUNING_CPU = 20_000
"""The same in fine-tuning on a CPU, where twice as many steps are worth more than twice as many patches."""


def choose(
    project: Project,
    scans: Sequence[str],
    device: torch.device,
    settings: dict[str, Any],
    network: Plan | None = None,
    pixels_cpu: int = PIXELS_A_STEP_CPU,
) -> tuple[Plan, list[str]]:
    """Choose the plan for a project's scans on a device.

    Args:
        project: The project.
        scans: Ids of the scans to train on.
        device: Where to train.
        settings: A job's settings; those in `SETTINGS` override the choices.
        network: Plan of the weights to start from; in 2.5D its channels and input slices are adopted.
        pixels_cpu: Pixels per batch on a CPU.

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
        patch = (whole(settings, "context", context), *(side_of(length, 8, longest) for length in shape[1:]))
        grid = (0.0, float(spacing[1]), float(spacing[2]))
    else:
        strides = strides_3d(spacing, len(channels))
        total = np.prod(strides, axis=0)
        longest = 128 if gpu else 48
        patch = tuple(side_of(length, int(step), longest) for length, step in zip(shape, total, strict=True))
        grid = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    patch = patch_of(settings, patch, strides)
    batch = patches_a_step(patch[3 - dims :], device, pixels_cpu)
    plan = Plan(dims, slice_axis, grid, patch, batch, channels, strides, threads=devices.THREADS)  # type: ignore[arg-type]
    plan = replace(plan, channel_names=choose_channels(project, scans, settings, reasons))
    reasons.append(f"patches of {shape_text(patch)}; median scan size {shape_text(shape.tolist())}")
    plan = measured(project, adapt(plan, device, settings), device, settings, reasons)
    return for_processes(plan, settings, reasons), reasons


def patches_a_step(size: Sequence[int], device: torch.device, pixels_cpu: int = PIXELS_A_STEP_CPU) -> int:
    """Patches per batch.

    Args:
        size: Size of a patch in voxels, in 2.5D without its neighbouring slices.
        device: Where to train.
        pixels_cpu: Pixels per batch on a CPU.
    """
    pixels = pixels_cpu if device.type == "cpu" else PIXELS_A_STEP_GPU
    return min(max(round(pixels / math.prod(size)), 2), 32)


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
    patch = patch_of(settings, (whole(settings, "context", CONTEXT), side, side), strides)
    plan = Plan(2, 0, (0.0, 1.0, 1.0), patch, batch, CHANNELS, strides, threads=devices.THREADS)  # type: ignore[arg-type]
    plan = adapt(plan, device, settings)
    reasons = [f"synthetic volumes, batches of {batch_text(plan)}"]
    plan = measured(project, plan, device, settings, reasons)
    return for_processes(plan, settings, reasons), reasons


def for_processes(plan: Plan, settings: dict[str, Any], reasons: list[str]) -> Plan:
    """A plan whose batch gives each of the processes as much as one on its own would have.

    A `batch` in `settings` is that of all processes together.
    """
    number = distributed.world()
    if number == 1 or "batch" in settings:
        return plan
    reasons.append(f"{number} processes, each with {batch_text(plan)} of a batch of {number * plan.batch}")
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
