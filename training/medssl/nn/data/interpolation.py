"""Batched interpolation: the voxels of a whole batch of crops in one indexing operation.

On an accelerator launching a kernel takes longer than running it, so cutting crop by crop, several times as
fast on a CPU (benchmarks/step.py), would leave it idle. Scans differ in shape, but those of a dataset share
one storage (device_dataset.py), in which offset and strides locate a voxel, also of permuted scans.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def interpolated(scans: Sequence[Tensor], points: Tensor, slices: Tensor | None = None) -> Tensor:
    """Interpolate scans linearly; beyond a scan its last voxel is repeated.

    Args:
        scans: The scan of each of the B crops, (Z, Y, X).
        points: Voxel coordinates (B, ..., n) along the scans' last n axes.
        slices: Slice numbers (B, S) int64 in 2.5D, where they become the channels; None in 3D.

    Returns:
        Interpolated values (B, C, ...) float32.
    """
    index = _StorageIndex(scans, points, slices)
    position = points.clamp(min=0).minimum(index.last)
    below = position.long()
    weight = (position - below)[:, None]
    ends = (below, (below + 1).minimum(index.last.long()))

    def lerp(corner: tuple[Tensor, ...]) -> Tensor:
        axis = len(corner)
        if axis == points.shape[-1]:
            return index.voxels(torch.stack(corner, -1)).float()
        low, high = (lerp((*corner, end[..., axis])) for end in ends)
        return torch.lerp(low, high, weight[..., axis])

    return lerp(())


def nearest(scans: Sequence[Tensor], points: Tensor, fill_value: int, slices: Tensor | None = None) -> Tensor:
    """Sample scans by nearest neighbour.

    Args:
        scans: The scan of each of the B crops, (Z, Y, X).
        points: Voxel coordinates (B, ..., n) along the scans' last n axes.
        fill_value: Value beyond a scan.
        slices: As in `interpolated`, (B, S).

    Returns:
        Sampled values (B, C, ...) of the scans' dtype.
    """
    index = _StorageIndex(scans, points, slices)
    voxel = points.round().long()
    last = index.last.long()
    inside = ((voxel >= 0) & (voxel <= last)).all(-1)[:, None]
    return torch.where(inside, index.voxels(voxel.clamp(min=0).minimum(last)), fill_value)


class _StorageIndex:
    """Storage offsets and strides of B scans, one per crop."""

    def __init__(self, scans: Sequence[Tensor], points: Tensor, slices: Tensor | None) -> None:
        dims, device = points.shape[-1], points.device
        batch_shape = (len(scans), *[1] * (points.ndim - 2))
        strides = torch.tensor([scan.stride() for scan in scans], device=device)
        offset = torch.tensor([scan.storage_offset() for scan in scans], device=device)[:, None]
        if slices is not None:
            offset = offset + slices.to(device) * strides[:, :1]
        self.scans = scans
        self.first = offset.view(len(scans), -1, *batch_shape[1:])
        self.strides = strides[:, -dims:].view(*batch_shape, dims)
        shapes = torch.tensor([tuple(scan.shape[-dims:]) for scan in scans], device=device)
        self.last = (shapes - 1).to(points.dtype).view(*batch_shape, dims)
        """Last voxel along each axis (B, 1, ..., n)."""

    def voxels(self, voxel: Tensor) -> Tensor:
        """Values (B, C, ...) at voxels (B, ..., n) int64, all inside their scans."""
        index = self.first + (voxel * self.strides).sum(-1)[:, None]
        rows: dict[int, list[int]] = {}
        for row, scan in enumerate(self.scans):
            rows.setdefault(scan.untyped_storage().data_ptr(), []).append(row)
        if len(rows) == 1:
            return _storage(self.scans[0])[index]
        values = index.new_empty(index.shape, dtype=self.scans[0].dtype)
        for same_storage in rows.values():
            batch = torch.tensor(same_storage, device=index.device)
            values[batch] = _storage(self.scans[same_storage[0]])[index[batch]]
        return values


def _storage(scan: Tensor) -> Tensor:
    """The scan's whole storage as a flat tensor (N,)."""
    return torch.empty(0, dtype=scan.dtype, device=scan.device).set_(scan.untyped_storage())
