"""What a whole batch of views sees, gathered in one go.

On an accelerator a kernel takes longer to launch than to run, so cutting view by view, which is several times
as fast on a CPU (benchmarks/step.py), would keep it waiting. Scans differ in shape; but a pool's lie in one
storage (device_dataset.py), in which a voxel is a sum of offset and strides, turned scans included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def interpolated(scans: Sequence[Tensor], points: Tensor, slices: Tensor | None = None) -> Tensor:
    """(B, C, ...) float32 between the voxels around `points`; beyond a scan its last voxel is repeated.

    scans: of every view its own, (Z, Y, X). points: (B, ..., n) voxels of its last n axes. slices: (B, S), in
    2.5D, which become the channels.
    """
    place = _Place(scans, points, slices)
    at = points.clamp(min=0).minimum(place.last)
    below = at.long()
    share = (at - below)[:, None]
    ends = (below, (below + 1).minimum(place.last.long()))

    def between(chosen: tuple[Tensor, ...]) -> Tensor:
        axis = len(chosen)
        if axis == points.shape[-1]:
            return place.voxels(torch.stack(chosen, -1)).float()
        low, high = (between((*chosen, end[..., axis])) for end in ends)
        return torch.lerp(low, high, share[..., axis])

    return between(())


def nearest(scans: Sequence[Tensor], points: Tensor, outside: int, slices: Tensor | None = None) -> Tensor:
    """(B, C, ...) the voxels nearest to `points`, `outside` beyond a scan; arguments as in `interpolated`."""
    place = _Place(scans, points, slices)
    at = points.round().long()
    last = place.last.long()
    inside = ((at >= 0) & (at <= last)).all(-1)[:, None]
    return torch.where(inside, place.voxels(at.clamp(min=0).minimum(last)), outside)


class _Place:
    """Where the voxels of some scans, one for every view, lie in memory."""

    def __init__(self, scans: Sequence[Tensor], points: Tensor, slices: Tensor | None) -> None:
        dims, device = points.shape[-1], points.device
        wide = (len(scans), *[1] * (points.ndim - 2))
        strides = torch.tensor([scan.stride() for scan in scans], device=device)
        offset = torch.tensor([scan.storage_offset() for scan in scans], device=device)[:, None]
        if slices is not None:
            offset = offset + slices.to(device) * strides[:, :1]
        self.scans = scans
        self.first = offset.view(len(scans), -1, *wide[1:])
        self.strides = strides[:, -dims:].view(*wide, dims)
        shapes = torch.tensor([tuple(scan.shape[-dims:]) for scan in scans], device=device)
        self.last = (shapes - 1).to(points.dtype).view(*wide, dims)
        """(B, 1, ..., n) the last voxel along each axis."""

    def voxels(self, at: Tensor) -> Tensor:
        """(B, C, ...) at voxels (B, ..., n), all of them inside."""
        index = self.first + (at * self.strides).sum(-1)[:, None]
        rows: dict[int, list[int]] = {}
        for row, scan in enumerate(self.scans):
            rows.setdefault(scan.untyped_storage().data_ptr(), []).append(row)
        if len(rows) == 1:
            return _storage(self.scans[0])[index]
        found = index.new_empty(index.shape, dtype=self.scans[0].dtype)
        for chosen in rows.values():
            which = torch.tensor(chosen, device=index.device)
            found[which] = _storage(self.scans[chosen[0]])[index[which]]
        return found


def _storage(scan: Tensor) -> Tensor:
    """All that lies in the memory of which the scan is a part."""
    return torch.empty(0, dtype=scan.dtype, device=scan.device).set_(scan.untyped_storage())
