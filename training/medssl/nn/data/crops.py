"""Crops of scans, with the affine from crop voxels to scan voxels.

Crops are cut on the scans' device: one by one on a CPU, as one batch on an accelerator (interpolation.py).
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
    """Position of B crops in their scans and, once cut, their images.

    A crop of `size` voxels is centred at `centre` of scan `scan`; one of its voxels spans `step` scan voxels
    along each axis. It is mirrored where `flip` and rotated by `angle` in the slice plane.
    """

    size: tuple[int, int, int]
    """Voxels (slices, rows, columns)."""
    scan: Tensor
    """Index into the dataset (B,) int64."""
    centre: Tensor
    """Scan voxels (B, 3)."""
    step: Tensor
    """Scan voxels per crop voxel (B, 3), positive."""
    flip: Tensor
    """Mirrored axes (B, 3) bool."""
    angle: Tensor
    """Radians (B,)."""
    image: Tensor | None = None
    """Images (B, C S, H, W) in 2.5D, (B, C, D, H, W) in 3D, float32; None before `cut`."""

    def __len__(self) -> int:
        return len(self.scan)

    def __getitem__(self, rows: Tensor) -> CropBatch:
        """Some of the crops, by their indices (n,) int64."""
        parts = ("scan", "centre", "step", "flip", "angle") + (() if self.image is None else ("image",))
        return replace(self, **{part: getattr(self, part)[rows] for part in parts})

    @full_precision
    def to_scan(self) -> Tensor:
        """Affines (B, 3, 4) from crop voxel indices to scan voxel indices."""
        signed = self.step * torch.where(self.flip, -1.0, 1.0)
        cos, sin = torch.cos(self.angle), torch.sin(self.angle)
        linear = torch.diag_embed(signed)
        # The rotation is in units of the crop, so that anisotropic pixels do not shear.
        rotation = torch.eye(3).repeat(len(self), 1, 1)
        rotation[:, 1, 1], rotation[:, 1, 2], rotation[:, 2, 1], rotation[:, 2, 2] = cos, -sin, sin, cos
        linear = linear @ rotation
        middle = (torch.tensor(self.size, dtype=linear.dtype) - 1) / 2
        offset = self.centre - linear @ middle
        return torch.cat([linear, offset[..., None]], dim=2)

    def extent(self) -> tuple[Tensor, Tensor]:
        """Lower and upper edges (B, 3) of the unrotated boxes in scan voxels; voxel i spans i +- 0.5."""
        half = self.step * torch.tensor(self.size) / 2
        return self.centre - half, self.centre + half


def shown(views: CropBatch) -> Tensor:
    """The images of crops.

    Returns:
        Float32 (B, C S, H, W) in 2.5D, (B, C, D, H, W) in 3D.

    Raises:
        ValueError: If the crops have not been cut.
    """
    if views.image is None:
        raise ValueError("these crops have not been cut")
    return views.image


def crop_step(dataset: DeviceDataset, plan: Plan, scan: Tensor) -> Tensor:
    """Scan voxels per working voxel: the plan's spacing divided by the scan's.

    Args:
        dataset: Scans.
        plan: Gives the working spacing; an axis with spacing 0 keeps the scan's.
        scan: Scan indices (B,) int64.

    Returns:
        Ratios (B, 3).
    """
    scan_mm = torch.tensor(dataset.spacing_mm)[scan]
    working_mm = torch.tensor(plan.spacing_mm)
    return torch.where(working_mm > 0, working_mm / scan_mm, 1.0)


def scan_shapes(dataset: DeviceDataset, scan: Tensor) -> Tensor:
    """Shapes of scans in voxels.

    Args:
        dataset: Scans.
        scan: Scan indices (B,) int64.

    Returns:
        Shapes (B, 3) int64.
    """
    return torch.tensor([tuple(image.shape) for image in dataset.images])[scan]


@full_precision
def cut(
    dataset: DeviceDataset, views: CropBatch, plan: Plan, displacement: Tensor | None = None
) -> CropBatch:
    """Cut the images of crops, with linear interpolation.

    Beyond a scan's border its last voxel is repeated: zeros there would tell the network where it is.

    Args:
        dataset: Scans to crop from.
        views: B crops.
        plan: Says whether crops are 2.5D or 3D.
        displacement: Displacement of each crop voxel in crop voxels: (B, 2, H, W) in 2.5D, (B, 3, D, H, W)
            in 3D, on the dataset's device.

    Returns:
        The crops with their images, float32: (B, C S, H, W) in 2.5D, (B, C, D, H, W) in 3D, of C channels.
    """
    if dataset.images[0].device.type != "cpu":
        numbers = views.scan.tolist()
        slices = _slices(dataset, views) if plan.dims == 2 else None
        points = _grid(views, plan, dataset.device, displacement).flip(-1)
        cropped = [
            interpolation.interpolated([images[scan] for scan in numbers], points, slices)
            for images in dataset.channels
        ]
        return replace(views, image=_joined(cropped, dim=1))
    if displacement is None and not views.angle.any():
        return replace(views, image=_straight(dataset, views, plan))
    grid = _grid(views, plan, dataset.device, displacement)
    flat = grid.flatten(1, -2).flip(-1)
    last = (scan_shapes(dataset, views.scan)[:, None, 3 - plan.dims :] - 1).to(flat.device)
    # Only the box that a crop touches: a whole scan would be copied.
    corners = flat.amin(1, keepdim=True).floor().clamp(min=0).minimum(last)[:, 0].long().tolist()
    ends = (flat.amax(1, keepdim=True).floor() + 1).clamp(min=0).minimum(last)[:, 0].long().tolist()
    slices = _slices(dataset, views)
    images = []
    for index, (corner, end) in enumerate(zip(corners, ends, strict=True)):
        image = _box(dataset, int(views.scan[index]), plan, corner, end, slices[index])
        points = grid[index] - torch.tensor(corner[::-1], device=grid.device)
        points = _normalised(points, image.shape[1:])[None]
        images.append(F.grid_sample(image[None], points, padding_mode="border", align_corners=False))
    return replace(views, image=torch.cat(images))


def _straight(dataset: DeviceDataset, views: CropBatch, plan: Plan) -> Tensor:
    """Images of crops without rotation and deformation: one axis after the other, several times as fast."""
    middle = (torch.tensor(views.size) - 1) / 2
    signed = torch.where(views.flip, -views.step, views.step)
    last = scan_shapes(dataset, views.scan) - 1
    below, above, weights = [], [], []
    for axis in range(3 - plan.dims, 3):
        steps = torch.arange(views.size[axis]) - middle[axis]
        position = views.centre[:, axis, None] + signed[:, axis, None] * steps
        position = position.clamp(min=0).minimum(last[:, axis, None])  # the border voxel is repeated
        below.append(position.long())
        above.append((below[-1] + 1).minimum(last[:, axis, None]))
        weights.append((position - below[-1]).to(dataset.device))
    corners = torch.stack([index.amin(1) for index in below], 1)
    ends = torch.stack([index.amax(1) for index in above], 1).tolist()
    below = [(index - corners[:, axis, None]).to(dataset.device) for axis, index in enumerate(below)]
    above = [(index - corners[:, axis, None]).to(dataset.device) for axis, index in enumerate(above)]
    slices = _slices(dataset, views)
    images = []
    for row, (corner, end) in enumerate(zip(corners.tolist(), ends, strict=True)):
        image = _box(dataset, int(views.scan[row]), plan, corner, end, slices[row])
        for axis in range(plan.dims):
            weight = weights[axis][row].reshape(-1, *[1] * (plan.dims - 1 - axis))
            lower = image.index_select(axis + 1, below[axis][row])
            image = torch.lerp(lower, image.index_select(axis + 1, above[axis][row]), weight)
        images.append(image)
    return torch.stack(images)


def _box(
    dataset: DeviceDataset, scan: int, plan: Plan, corner: list[int], end: list[int], slices: Tensor
) -> Tensor:
    """The box from voxel `corner` to voxel `end` of all channels as float32, in 2.5D `slices` of each."""
    ranges = tuple(slice(first, last + 1) for first, last in zip(corner, end, strict=True))
    boxes = []
    for images in dataset.channels:
        box = images[scan][(..., *ranges)]  # type: ignore[index]
        boxes.append(box.index_select(0, slices.to(box.device)) if plan.dims == 2 else box[None])
    return _joined(boxes, dim=0).to(dataset.device).float()


def _joined(channels: list[Tensor], dim: int) -> Tensor:
    """Channels side by side, without a copy of a single one."""
    return torch.cat(channels, dim) if len(channels) > 1 else channels[0]


@full_precision
def cut_targets(
    dataset: DeviceDataset,
    views: CropBatch,
    plan: Plan,
    displacement: Tensor | None = None,
    fill_value: int = 255,
) -> Tensor:
    """Cut the targets of crops, with nearest-neighbour interpolation.

    Args:
        dataset: Scans with targets.
        views: B crops.
        plan: Says whether crops are 2.5D or 3D.
        displacement: As in `cut`, (B, n, ...).
        fill_value: Label beyond the scan.

    Returns:
        Labels int64: (B, H, W) of the middle slice in 2.5D, (B, D, H, W) in 3D.
    """
    grid = _grid(views, plan, dataset.device, displacement)
    if dataset.device.type != "cpu":
        targets = [dataset.targets[scan] for scan in views.scan.tolist()]
        last = torch.tensor([[len(target) - 1] for target in targets])
        middle = views.centre[:, :1].round().long().clamp(min=0).minimum(last) if plan.dims == 2 else None
        return interpolation.nearest(targets, grid.flip(-1), fill_value, middle)[:, 0].long()
    labels = []
    for row, scan in enumerate(views.scan.tolist()):
        target = dataset.targets[scan]
        if plan.dims == 2:
            target = target[int(views.centre[row, 0].round().clamp(0, len(target) - 1))]
        index = grid[row].flip(-1).round().long()  # (..., n) in array order
        shape = torch.tensor(target.shape, device=index.device)
        inside = ((index >= 0) & (index < shape)).all(-1)
        index = index.clamp(min=0).minimum(shape - 1)
        labels.append(torch.where(inside, target[tuple(index.unbind(-1))].long(), fill_value))
    return torch.stack(labels)


def _slices(dataset: DeviceDataset, views: CropBatch) -> Tensor:
    """Slice numbers (B, S) of the channels of 2.5D crops; beyond the scan's ends the last slice repeats."""
    count = views.size[0]
    offsets = (torch.arange(count) - count // 2) * torch.where(views.flip[:, :1], -1, 1)
    last = scan_shapes(dataset, views.scan)[:, :1] - 1
    return (views.centre[:, :1].round().long() + offsets).clamp(min=0).minimum(last).to(dataset.device)


def _grid(views: CropBatch, plan: Plan, device: torch.device, displacement: Tensor | None) -> Tensor:
    """Scan coordinates of all crop voxels (B, ..., n), last axis first as `grid_sample` expects."""
    affine = views.to_scan().to(device)
    size = views.size[3 - plan.dims :]
    axes = [torch.arange(length, dtype=torch.float32, device=device) for length in size]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    first = 3 - plan.dims
    linear = affine[:, first:, first:3]
    # In-plane axes never mix with the slice axis, so 2.5D needs only their block of the affine.
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
    """Voxel coordinates in `grid_sample`'s range -1..1 (align_corners=False), last axis first."""
    lengths = torch.tensor(list(shape)[::-1], dtype=grid.dtype, device=grid.device)
    return (2 * grid + 1) / lengths - 1
