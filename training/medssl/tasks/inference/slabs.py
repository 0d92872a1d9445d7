"""Slices of a scan in work order as what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def slab_of(work: np.ndarray | Tensor, low: int, high: int, device: torch.device) -> Tensor:
    """Slices low..high - 1 as float32 on the device."""
    if isinstance(work, Tensor):
        return work[low:high].to(device, torch.float32)
    return torch.from_numpy(np.ascontiguousarray(work[low:high], dtype=np.float32)).to(device)


def neighbouring_slices(
    work: np.ndarray | Tensor, first: int, last: int, context: int, device: torch.device
) -> Tensor:
    """Slices first..last - 1 with their neighbours as channels, (n, context, rows, columns) float32."""
    offsets = np.arange(context) - context // 2
    chosen = (np.arange(first, last)[:, None] + offsets).clip(0, len(work) - 1)
    low, high = int(chosen.min()), int(chosen.max()) + 1
    return slab_of(work, low, high, device)[torch.from_numpy(chosen - low).to(device)]


def working_size(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis on the plan's grid; sizes that differ by under 5 % are left alone."""
    return tuple(
        length if not target or abs(own / target - 1) < 0.05 else max(1, round(length * own / target))
        for length, own, target in zip(shape, spacing, wanted, strict=True)
    )
