"""Slices of a scan in work order as input tensors of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def slab_of(work: np.ndarray | Tensor, low: int, high: int, device: torch.device) -> Tensor:
    """Load adjacent slices onto a device.

    Args:
        work: A scan in work order, (slices, rows, columns), possibly memory-mapped.
        low: First slice.
        high: Last slice + 1.
        device: Where to put them.

    Returns:
        Slices low..high - 1, float32 (high - low, rows, columns).
    """
    if isinstance(work, Tensor):
        return work[low:high].to(device, torch.float32)
    return torch.from_numpy(np.ascontiguousarray(work[low:high], dtype=np.float32)).to(device)


def neighbouring_slices(
    work: np.ndarray | Tensor, first: int, last: int, context: int, device: torch.device
) -> Tensor:
    """Stack each slice with its neighbours as channels, the input of a 2.5D network.

    Args:
        work: A scan in work order, (slices, rows, columns), possibly memory-mapped.
        first: First slice.
        last: Last slice + 1.
        context: Number of channels, odd; slices beyond the scan repeat its border slices.
        device: Where to put them.

    Returns:
        Slices first..last - 1, float32 (last - first, context, rows, columns).
    """
    offsets = np.arange(context) - context // 2
    index = (np.arange(first, last)[:, None] + offsets).clip(0, len(work) - 1)
    low, high = int(index.min()), int(index.max()) + 1
    return slab_of(work, low, high, device)[torch.from_numpy(index - low).to(device)]


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
