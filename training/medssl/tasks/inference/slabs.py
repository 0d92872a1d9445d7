"""Slices of a scan in work order as input tensors of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn.data.multiplanar import Order

Work = Sequence[np.ndarray | Tensor] | Tensor
"""The channels of a scan in work order, each (slices, rows, columns)."""


def work_of(project: Project, scan: str, plan: Plan) -> tuple[np.ndarray, ...]:
    """The channels of a scan that a network takes, in its work order, each (slices, rows, columns).

    Raises:
        UserError: "no-channel" if the scan lacks one.
    """
    return tuple(np.transpose(image, plan.work_axes) for image in project.images(scan, plan.channel_names))


def reoriented(work: Work, order: Order) -> list[np.ndarray | Tensor]:
    """The channels of a scan seen along another axis, without a copy.

    Args:
        work: Channels of a scan in work order, each (slices, rows, columns).
        order: The orientation.
    """
    return [
        channel.permute(order) if isinstance(channel, Tensor) else np.transpose(channel, order)
        for channel in work
    ]


def on_device(work: Work, device: torch.device) -> Work:
    """Load the channels of a scan onto a GPU, for several passes, where they take a quarter of what is free.

    Args:
        work: Channels of a scan in work order, each (slices, rows, columns), possibly memory-mapped.
        device: Where they are needed; on a CPU they stay what they are.

    Returns:
        Channels of the same values, each (slices, rows, columns).
    """
    if device.type != "cuda":
        return work
    arrays = [channel for channel in work if not isinstance(channel, Tensor)]
    if not arrays or sum(array.nbytes for array in arrays) > torch.cuda.mem_get_info(device)[0] // 4:
        return work
    return [torch.from_numpy(np.array(channel, order="C")).to(device) for channel in arrays]


def halo(plan: Plan, spacing_mm: Sequence[float]) -> int:
    """Number of adjacent slices on each side that the scores of a slice in its own orientation depend on.

    In 2.5D that is exact, for scores before the smoothing in mm: the slices that are input channels, and one
    more because scores are smoothed across slices. Windows of a 3D network are as deep as a patch.

    Args:
        plan: Plan of the network.
        spacing_mm: Spacing of the scan in work order.
    """
    if plan.dims == 3:
        return math.ceil(plan.patch_vox[0] * plan.spacing_mm[0] / spacing_mm[0])
    return plan.patch_vox[0] // 2 + 1


def slab_of(work: Work, low: int, high: int, device: torch.device) -> Tensor:
    """Load adjacent slices onto a device.

    Args:
        work: Channels of a scan in work order, each (slices, rows, columns), possibly memory-mapped.
        low: First slice.
        high: Last slice + 1.
        device: Where to put them.

    Returns:
        Slices low..high - 1, float32 (channels, high - low, rows, columns).
    """
    images = [_loaded(image[low:high], device) for image in work]
    return torch.stack(images) if len(images) > 1 else images[0][None]


def _loaded(slices: np.ndarray | Tensor, device: torch.device) -> Tensor:
    if isinstance(slices, Tensor):
        return slices.to(device, torch.float32)
    return torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32)).to(device)


def neighbouring_slices(work: Work, first: int, last: int, context: int, device: torch.device) -> Tensor:
    """Stack each slice with its neighbours as channels, the input of a 2.5D network.

    Args:
        work: C channels of a scan in work order, each (slices, rows, columns), possibly memory-mapped.
        first: First slice.
        last: Last slice + 1.
        context: Number of neighbouring slices, odd; slices beyond the scan repeat its border slices.
        device: Where to put them.

    Returns:
        Slices first..last - 1, float32 (last - first, C context, rows, columns).
    """
    offsets = np.arange(context) - context // 2
    index = (np.arange(first, last)[:, None] + offsets).clip(0, len(work[0]) - 1)
    low, high = int(index.min()), int(index.max()) + 1
    numbers = torch.from_numpy(index - low).to(device)
    return slab_of(work, low, high, device)[:, numbers].transpose(0, 1).flatten(1, 2)


def working_size(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Size of an image on the grid of a plan; spacings that differ by less than 5 % are not resampled.

    Args:
        shape: Size of the image.
        spacing: Its spacing in mm along the same axes.
        wanted: Spacing of the plan in mm; 0 for axes that are never resampled.
    """
    return tuple(
        length if not target or abs(step / target - 1) < 0.05 else max(1, round(length * step / target))
        for length, step, target in zip(shape, spacing, wanted, strict=True)
    )
