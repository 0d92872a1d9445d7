"""Where views lie: pairs of boxes that overlap, and boxes anywhere. All draws come from a CPU generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from medssl.core.jobs import Plan
from medssl.nn.data.crops import CropBatch, crop_step, scan_shapes
from medssl.nn.data.device_dataset import DeviceDataset

THICK = 3
"""Slices so many times as far apart as pixels are thick: a box moved across them shows other tissue."""


def sample_pairs(
    dataset: DeviceDataset,
    plan: Plan,
    size: tuple[int, int, int],
    generator: Generator,
    *,
    zoom: tuple[float, float] = (1.1, 1.4),
    min_overlap: float = 0.1,
    min_cells: Sequence[float] = (1, 1, 1),
    scan: Tensor | None = None,
    tries: int = 30,
) -> tuple[CropBatch, CropBatch]:
    """Pairs of overlapping boxes in the same scans (PGL, arXiv 2011.12640, section "views").

    Each box has `zoom` times the patch's side along rows and columns, drawn for each box by itself;
    across slices it is not scaled. Boxes lie inside the scan, or where the scan is smaller inside the
    smallest frame around it that holds them. Pairs whose intersection over union is below
    `min_overlap`, or that share fewer than `min_cells` working voxels along an axis, are drawn again.
    In 2.5D both boxes lie on the same slice, in 3D as close as they can along axes of THICK slices. Scans are
    drawn one by one unless `scan` (B,) names them.
    """
    batch = plan.batch
    scan = torch.randint(len(dataset), (batch,), generator=generator) if scan is None else scan
    shape, step = scan_shapes(dataset, scan), crop_step(dataset, plan, scan)

    def draw_step() -> Tensor:
        scale = torch.empty(batch, 1).uniform_(*zoom, generator=generator)
        return step * torch.cat([torch.ones(batch, 1), scale, scale], dim=1)

    first_step, second_step = draw_step(), draw_step()
    box, other_box = first_step * torch.tensor(size), second_step * torch.tensor(size)
    low, high = _centres_inside(shape, box)
    if plan.dims == 2:
        low[:, 0] = high[:, 0] = (torch.rand(batch, generator=generator) * shape[:, 0]).floor()
    first = _between(low, high, generator)
    low, high = _centres_inside(shape, other_box)
    if plan.dims == 2:
        low[:, 0] = high[:, 0] = first[:, 0]
    # As close to concentric as the scan allows: what stays where no try shares enough.
    second = torch.maximum(torch.minimum(first, high), low)
    if plan.dims == 3:
        thick = torch.tensor(plan.spacing_mm) > THICK * min(plan.spacing_mm)
        low, high = (torch.where(thick, second, edge) for edge in (low, high))
    cells = step * torch.tensor(min_cells)
    # Tries go where enough can be shared at all; in a large scan they would hardly ever hit otherwise.
    reach = (box + other_box) / 2 - torch.maximum(cells, _least_shared(box, other_box, min_overlap))
    low, high = torch.maximum(low, first - reach), torch.minimum(high, first + reach)
    open_ = (high >= low).all(1)
    for _ in range(tries):
        if not open_.any():
            break
        drawn = _between(low, high, generator)
        found = open_ & _share_enough(first, box, drawn, other_box, min_overlap, cells)
        second = torch.where(found[:, None], drawn, second)
        open_ &= ~found

    def views(centre: Tensor, box_step: Tensor) -> CropBatch:
        flip = torch.rand(batch, 3, generator=generator) < 0.5
        return CropBatch(size, scan, centre, box_step, flip, torch.zeros(batch))

    return views(first, first_step), views(second, second_step)


def _centres_inside(shape: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest centres (B, 3) of boxes inside scans; the scan's middle where a box is too large."""
    low, high, middle = (box - 1) / 2, shape - (box + 1) / 2, (shape - 1) / 2
    return torch.where(high > low, low, middle), torch.where(high > low, high, middle)


def _between(low: Tensor, high: Tensor, generator: Generator) -> Tensor:
    return low + torch.rand(low.shape, generator=generator) * (high - low)


def _least_shared(box: Tensor, other: Tensor, min_overlap: float) -> Tensor:
    """What two boxes must share along each axis (B, 3) if along the other axes they shared all they can."""
    smaller = torch.minimum(box, other)
    volume = (box.prod(1) + other.prod(1)) * min_overlap / (1 + min_overlap)
    return smaller * (volume / smaller.prod(1))[:, None]


def _share_enough(
    first: Tensor, box: Tensor, second: Tensor, other: Tensor, min_overlap: float, cells: Tensor
) -> Tensor:
    shared = torch.minimum(first + box / 2, second + other / 2) - torch.maximum(
        first - box / 2, second - other / 2
    )
    common = shared.clamp(min=0).prod(1)
    union = box.prod(1) + other.prod(1) - common
    return (common >= min_overlap * union) & (shared >= cells).all(1)


def sample_anywhere(
    dataset: DeviceDataset,
    plan: Plan,
    size: tuple[int, int, int],
    generator: Generator,
    *,
    scan: Tensor | None = None,
    zoom: tuple[float, float] | None = None,
) -> CropBatch:
    """Boxes of the patch's own size, uniformly inside random scans, or inside those given as `scan` (B,).

    With `zoom` each box has that many times the patch's side along rows and columns, drawn for each.
    """
    if scan is None:
        scan = torch.randint(len(dataset), (plan.batch,), generator=generator)
    shape, step = scan_shapes(dataset, scan), crop_step(dataset, plan, scan)
    if zoom is not None:
        scale = torch.empty(len(scan), 1).uniform_(*zoom, generator=generator)
        step = step * torch.cat([torch.ones(len(scan), 1), scale, scale], dim=1)
    centre = _between(*_centres_inside(shape, step * torch.tensor(size)), generator)
    if plan.dims == 2:
        centre[:, 0] = (torch.rand(len(scan), generator=generator) * shape[:, 0]).floor()
    flip = torch.zeros(len(scan), 3, dtype=torch.bool)
    return CropBatch(size, scan, centre, step, flip, torch.zeros(len(scan)))
