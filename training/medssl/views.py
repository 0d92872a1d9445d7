"""Views: crops cut from resident scans, each with the affine that says which voxel it saw.

All draws come from a CPU generator, all cutting happens on the scans' device. Coordinates are voxel
indices in work order (slice, row, column); a voxel's centre is its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.config import Plan
from medssl.pool import Pool


@dataclass(frozen=True)
class Views:
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


def shown(views: Views) -> Tensor:
    """The images of views that have been cut."""
    if views.image is None:
        raise ValueError("these views have not been cut")
    return views.image


def view_step(pool: Pool, plan: Plan, scan: Tensor) -> Tensor:
    """(B, 3) scan voxels per working voxel: the plan's spacing over each scan's own."""
    own = torch.tensor(pool.spacing_mm)[scan]
    wanted = torch.tensor(plan.spacing_mm)
    return torch.where(wanted > 0, wanted / own, 1.0)


def scan_shapes(pool: Pool, scan: Tensor) -> Tensor:
    """(B, 3) shapes of the scans in voxels."""
    return torch.tensor([tuple(image.shape) for image in pool.images])[scan]


def sample_pairs(
    pool: Pool,
    plan: Plan,
    size: tuple[int, int, int],
    generator: Generator,
    *,
    zoom: tuple[float, float] = (1.1, 1.4),
    min_overlap: float = 0.1,
    min_cells: Sequence[int] = (1, 1, 1),
    flip_axes: Sequence[int] = (0, 1, 2),
    tries: int = 30,
) -> tuple[Views, Views]:
    """Pairs of overlapping boxes in the same scans (PGL, arXiv 2011.12640, section "views").

    Each box has `zoom` times the patch's side along rows and columns, drawn for each box by itself;
    across slices it is not scaled. Boxes lie inside the scan, or where the scan is smaller inside the
    smallest frame around it that holds them. Pairs whose intersection over union is below
    `min_overlap`, or that share fewer than `min_cells` working voxels along an axis, are drawn again.
    In 2.5D both boxes lie on the same slice.
    """
    batch = plan.batch
    scan = torch.randint(len(pool), (batch,), generator=generator)
    shape, step = scan_shapes(pool, scan), view_step(pool, plan, scan)
    sizes = torch.tensor(size, dtype=torch.float32)

    def draw_step() -> Tensor:
        scale = torch.empty(batch, 1).uniform_(*zoom, generator=generator)
        return step * torch.cat([torch.ones(batch, 1), scale, scale], dim=1)

    def draw_centre(box_step: Tensor) -> Tensor:
        half = box_step * sizes / 2
        low, high = half - 0.5, shape - half - 0.5
        middle = (shape - 1) / 2
        inside = low + torch.rand(batch, 3, generator=generator) * (high - low)
        # Too small a scan: the frame grows around its middle just enough to hold both boxes.
        return torch.where(high > low, inside, middle.expand_as(inside))

    first_step, second_step = draw_step(), draw_step()
    first, second = draw_centre(first_step), draw_centre(second_step)
    if plan.dims == 2:
        first[:, 0] = (torch.rand(batch, generator=generator) * shape[:, 0]).floor()
        second[:, 0] = first[:, 0]
    for _ in range(tries):
        bad = ~_overlap_enough(first, first_step, second, second_step, sizes, step, min_overlap, min_cells)
        if not bad.any():
            break
        again = draw_centre(second_step)
        if plan.dims == 2:
            again[:, 0] = first[:, 0]
        second = torch.where(bad[:, None], again, second)
    else:
        bad = ~_overlap_enough(first, first_step, second, second_step, sizes, step, min_overlap, min_cells)
        second = torch.where(bad[:, None], first, second)

    def views(centre: Tensor, box_step: Tensor) -> Views:
        flip = torch.zeros(batch, 3, dtype=torch.bool)
        for axis in flip_axes:
            flip[:, axis] = torch.rand(batch, generator=generator) < 0.5
        return Views(size, scan, centre, box_step, flip, torch.zeros(batch))

    return views(first, first_step), views(second, second_step)


def _overlap_enough(
    first: Tensor,
    first_step: Tensor,
    second: Tensor,
    second_step: Tensor,
    sizes: Tensor,
    step: Tensor,
    min_overlap: float,
    min_cells: Sequence[int],
) -> Tensor:
    one, two = first_step * sizes, second_step * sizes
    shared = torch.minimum(first + one / 2, second + two / 2) - torch.maximum(
        first - one / 2, second - two / 2
    )
    common = shared.clamp(min=0).prod(1)
    union = one.prod(1) + two.prod(1) - common
    wide_enough = (shared >= step * torch.tensor(min_cells)).all(1)
    return (common >= min_overlap * union) & wide_enough


def sample_anywhere(
    pool: Pool, plan: Plan, size: tuple[int, int, int], generator: Generator, flip_axes: Sequence[int] = ()
) -> Views:
    """Boxes of the patch's own size, uniformly inside random scans (MAE, prediction consistency)."""
    scan = torch.randint(len(pool), (plan.batch,), generator=generator)
    shape, step = scan_shapes(pool, scan), view_step(pool, plan, scan)
    half = step * torch.tensor(size) / 2
    low, high = half - 0.5, shape - half - 0.5
    inside = low + torch.rand(plan.batch, 3, generator=generator) * (high - low)
    centre = torch.where(high > low, inside, (shape - 1) / 2)
    if plan.dims == 2:
        centre[:, 0] = (torch.rand(plan.batch, generator=generator) * shape[:, 0]).floor()
    flip = torch.zeros(plan.batch, 3, dtype=torch.bool)
    for axis in flip_axes:
        flip[:, axis] = torch.rand(plan.batch, generator=generator) < 0.5
    return Views(size, scan, centre, step, flip, torch.zeros(plan.batch))


def cut(pool: Pool, views: Views, plan: Plan, bend: Tensor | None = None) -> Views:
    """The views with their images, (B, S, H, W) in 2.5D and (B, 1, D, H, W) in 3D, float32.

    Beyond a scan's border its last voxel is repeated: zeros there would tell the network where it is.
    `bend` (B, n, ...) displaces each view voxel by so many view voxels (n = 2 in 2.5D, 3 in 3D).
    """
    grid = _grid(views, plan, pool.device, bend)
    parts = []
    for index, scan in enumerate(views.scan.tolist()):
        image = pool.images[scan]
        if plan.dims == 2:
            chosen = image[_slices(views, index, len(image), pool.device)][None]
        else:
            chosen = image[None, None]
        shape = chosen.shape[2:]
        parts.append(
            F.grid_sample(
                chosen.float(),
                _normalised(grid[index], shape)[None],
                padding_mode="border",
                align_corners=False,
            )
        )
    return replace(views, image=torch.cat(parts))


def cut_targets(
    pool: Pool, views: Views, plan: Plan, bend: Tensor | None = None, outside: int = 255
) -> Tensor:
    """Nearest-voxel labels under the views, (B, H, W) or (B, D, H, W) long; `outside` beyond the scan."""
    grid = _grid(views, plan, pool.device, bend)
    parts = []
    for index, scan in enumerate(views.scan.tolist()):
        target = pool.targets[scan]
        if plan.dims == 2:
            middle = int(views.centre[index, 0].round().clamp(0, len(target) - 1))
            target = target[middle]
        at = grid[index].flip(-1).round().long()  # (..., n) in array order
        shape = torch.tensor(target.shape, device=at.device)
        inside = ((at >= 0) & (at < shape)).all(-1)
        at = at.clamp(min=0).minimum(shape - 1)
        found = target[tuple(at.unbind(-1))].long()
        parts.append(torch.where(inside, found, outside))
    return torch.stack(parts)


def _slices(views: Views, index: int, length: int, device: torch.device) -> Tensor:
    """Indices of the neighbouring slices that a 2.5D view sees; at the scan's ends the last one repeats."""
    count = views.size[0]
    offsets = torch.arange(count) - count // 2
    if bool(views.flip[index, 0]):
        offsets = -offsets
    return (views.centre[index, 0].round().long() + offsets).clamp(0, length - 1).to(device)


def _grid(views: Views, plan: Plan, device: torch.device, bend: Tensor | None) -> Tensor:
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
    if bend is not None:
        points = points + bend.movedim(1, -1)
    flat = points.reshape(len(views), -1, plan.dims)
    scan = flat @ linear.transpose(1, 2) + offset[:, None]
    return scan.reshape(len(views), *size, plan.dims).flip(-1)


def _normalised(grid: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel coordinates as grid_sample's -1..1 (align_corners=False), last axis first."""
    lengths = torch.tensor(list(shape)[::-1], dtype=grid.dtype, device=grid.device)
    return (2 * grid + 1) / lengths - 1
