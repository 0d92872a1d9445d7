"""Views: crops cut from resident scans, each with the affine that says which voxel it saw.

All cutting happens on the scans' device: on a CPU view by view, on an accelerator in
one batch (interpolation.py).
Coordinates are voxel indices in work order (slice, row, column); a voxel's centre is its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.nn.data import interpolation
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision


@dataclass(frozen=True)
class CropBatch:
    """Where B views lie in their scans, and (once cut) what they show.

    A view of `size` voxels is centred at `centre` of scan `scan`; one of its voxels steps over `step`
    scan voxels along each axis, mirrored where `flip`, turned by `angle` in the slice plane.
    """

    size: tuple[int, int, int]
    scan: Tensor
    """(B,) index into the pool."""
    centre: Tensor
    """(B, 3) scan voxels."""
    step: Tensor
    """(B, 3) scan voxels per view voxel, positive."""
    flip: Tensor
    """(B, 3) bool."""
    angle: Tensor
    """(B,) radians."""
    image: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scan)

    @full_precision
    def to_scan(self) -> Tensor:
        """(B, 3, 4) affines from view voxel indices to scan voxel indices."""
        signed = self.step * torch.where(self.flip, -1.0, 1.0)
        cos, sin = torch.cos(self.angle), torch.sin(self.angle)
        linear = torch.diag_embed(signed)
        # Turning in the plane happens in units of the view, so that anisotropic pixels do not shear.
        turn = torch.eye(3).repeat(len(self), 1, 1)
        turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
        linear = linear @ turn
        middle = (torch.tensor(self.size, dtype=linear.dtype) - 1) / 2
        offset = self.centre - linear @ middle
        return torch.cat([linear, offset[..., None]], dim=2)

    def extent(self) -> tuple[Tensor, Tensor]:
        """Lower and upper edge (B, 3) of the (unturned) box in scan voxels; voxel i spans i -+ 0.5."""
        half = self.step * torch.tensor(self.size) / 2
        return self.centre - half, self.centre + half


def shown(views: CropBatch) -> Tensor:
    """The images of views that have been cut."""
    if views.image is None:
        raise ValueError("these views have not been cut")
    return views.image


def crop_step(dataset: DeviceDataset, plan: Plan, scan: Tensor) -> Tensor:
    """(B, 3) scan voxels per working voxel: the plan's spacing over each scan's own."""
    own = torch.tensor(dataset.spacing_mm)[scan]
    wanted = torch.tensor(plan.spacing_mm)
    return torch.where(wanted > 0, wanted / own, 1.0)


def scan_shapes(dataset: DeviceDataset, scan: Tensor) -> Tensor:
    """(B, 3) shapes of the scans in voxels."""
    return torch.tensor([tuple(image.shape) for image in dataset.images])[scan]


@full_precision
def cut(
    dataset: DeviceDataset, views: CropBatch, plan: Plan, displacement: Tensor | None = None
) -> CropBatch:
    """The views with their images, (B, S, H, W) in 2.5D and (B, 1, D, H, W) in 3D, float32.

    Beyond a scan's border its last voxel is repeated: zeros there would tell the network where it is.
    `displacement` (B, n, ...) displaces each view voxel by so many view voxels (n = 2 in 2.5D, 3 in 3D).
    """
    if dataset.images[0].device.type != "cpu":
        scans = [dataset.images[scan] for scan in views.scan.tolist()]
        slices = _slices(dataset, views) if plan.dims == 2 else None
        points = _grid(views, plan, dataset.device, displacement).flip(-1)
        return replace(views, image=interpolation.interpolated(scans, points, slices))
    if displacement is None and not views.angle.any():
        return replace(views, image=_straight(dataset, views, plan))
    grid = _grid(views, plan, dataset.device, displacement)
    flat = grid.flatten(1, -2).flip(-1)
    last = (scan_shapes(dataset, views.scan)[:, None, 3 - plan.dims :] - 1).to(flat.device)
    # Only what the views touch: whole scans would be copied, and on accelerators turned to float32.
    corners = flat.amin(1, keepdim=True).floor().clamp(min=0).minimum(last)[:, 0].long().tolist()
    ends = (flat.amax(1, keepdim=True).floor() + 1).clamp(min=0).minimum(last)[:, 0].long().tolist()
    slices = _slices(dataset, views)
    parts = []
    for index, (corner, end) in enumerate(zip(corners, ends, strict=True)):
        image = _part(dataset, int(views.scan[index]), plan, corner, end, slices[index])
        points = grid[index] - torch.tensor(corner[::-1], device=grid.device)
        points = _normalised(points, image.shape[1:])[None]
        parts.append(F.grid_sample(image[None], points, padding_mode="border", align_corners=False))
    return replace(views, image=torch.cat(parts))


def _straight(dataset: DeviceDataset, views: CropBatch, plan: Plan) -> Tensor:
    """The images of views that are neither turned nor bent: axis after axis, several times as fast."""
    middle = (torch.tensor(views.size) - 1) / 2
    signed = torch.where(views.flip, -views.step, views.step)
    last = scan_shapes(dataset, views.scan) - 1
    below, above, shares = [], [], []
    for axis in range(3 - plan.dims, 3):
        steps = torch.arange(views.size[axis]) - middle[axis]
        at = views.centre[:, axis, None] + signed[:, axis, None] * steps
        at = at.clamp(min=0).minimum(last[:, axis, None])  # beyond the border its last voxel is repeated
        below.append(at.long())
        above.append((below[-1] + 1).minimum(last[:, axis, None]))
        shares.append((at - below[-1]).to(dataset.device))
    corners = torch.stack([each.amin(1) for each in below], 1)
    ends = torch.stack([each.amax(1) for each in above], 1).tolist()
    below = [(each - corners[:, axis, None]).to(dataset.device) for axis, each in enumerate(below)]
    above = [(each - corners[:, axis, None]).to(dataset.device) for axis, each in enumerate(above)]
    slices = _slices(dataset, views)
    parts = []
    for index, (corner, end) in enumerate(zip(corners.tolist(), ends, strict=True)):
        image = _part(dataset, int(views.scan[index]), plan, corner, end, slices[index])
        for axis in range(plan.dims):
            share = shares[axis][index].reshape(-1, *[1] * (plan.dims - 1 - axis))
            one = image.index_select(axis + 1, below[axis][index])
            image = torch.lerp(one, image.index_select(axis + 1, above[axis][index]), share)
        parts.append(image)
    return torch.stack(parts)


def _part(
    dataset: DeviceDataset, scan: int, plan: Plan, corner: list[int], end: list[int], slices: Tensor
) -> Tensor:
    """The box from voxel `corner` to voxel `end` of a scan as float32, channels first: in 2.5D `slices`."""
    box = tuple(slice(first, last + 1) for first, last in zip(corner, end, strict=True))
    part = dataset.images[scan][(..., *box)]  # type: ignore[index]
    part = part.index_select(0, slices.to(part.device)) if plan.dims == 2 else part[None]
    return part.to(dataset.device).float()


@full_precision
def cut_targets(
    dataset: DeviceDataset,
    views: CropBatch,
    plan: Plan,
    displacement: Tensor | None = None,
    outside: int = 255,
) -> Tensor:
    """Nearest-voxel labels under the views, (B, H, W) or (B, D, H, W) long; `outside` beyond the scan."""
    grid = _grid(views, plan, dataset.device, displacement)
    if dataset.device.type != "cpu":
        targets = [dataset.targets[scan] for scan in views.scan.tolist()]
        last = torch.tensor([[len(target) - 1] for target in targets])
        middle = views.centre[:, :1].round().long().clamp(min=0).minimum(last) if plan.dims == 2 else None
        return interpolation.nearest(targets, grid.flip(-1), outside, middle)[:, 0].long()
    parts = []
    for index, scan in enumerate(views.scan.tolist()):
        target = dataset.targets[scan]
        if plan.dims == 2:
            target = target[int(views.centre[index, 0].round().clamp(0, len(target) - 1))]
        at = grid[index].flip(-1).round().long()  # (..., n) in array order
        shape = torch.tensor(target.shape, device=at.device)
        inside = ((at >= 0) & (at < shape)).all(-1)
        at = at.clamp(min=0).minimum(shape - 1)
        found = target[tuple(at.unbind(-1))].long()
        parts.append(torch.where(inside, found, outside))
    return torch.stack(parts)


def _slices(dataset: DeviceDataset, views: CropBatch) -> Tensor:
    """(B, S) neighbouring slices that 2.5D views see; at the scan's ends the last one repeats."""
    count = views.size[0]
    offsets = (torch.arange(count) - count // 2) * torch.where(views.flip[:, :1], -1, 1)
    last = scan_shapes(dataset, views.scan)[:, :1] - 1
    return (views.centre[:, :1].round().long() + offsets).clamp(min=0).minimum(last).to(dataset.device)


def _grid(views: CropBatch, plan: Plan, device: torch.device, displacement: Tensor | None) -> Tensor:
    """Scan coordinates of every view voxel, (B, ..., n), last axis first as grid_sample wants it."""
    affine = views.to_scan().to(device)
    size = views.size[3 - plan.dims :]
    axes = [torch.arange(length, dtype=torch.float32, device=device) for length in size]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    first = 3 - plan.dims
    linear = affine[:, first:, first:3]
    # The plane's own two axes never mix with the slice axis, so 2.5D needs only their part.
    offset = affine[:, first:, 3]
    if first:
        middle = (torch.tensor(views.size, device=device) - 1) / 2
        offset = offset + affine[:, first:, 0] * middle[0]
    points = index.expand(len(views), *index.shape)
    if displacement is not None:
        points = points + displacement.movedim(1, -1)
    flat = points.reshape(len(views), -1, plan.dims)
    scan = flat @ linear.transpose(1, 2) + offset[:, None]
    return scan.reshape(len(views), *size, plan.dims).flip(-1)


def _normalised(grid: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel coordinates as grid_sample's -1..1 (align_corners=False), last axis first."""
    lengths = torch.tensor(list(shape)[::-1], dtype=grid.dtype, device=grid.device)
    return (2 * grid + 1) / lengths - 1
