"""Random crop positions: pairs of overlapping crops, and single crops. All draws use a CPU generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from medssl.core.jobs import Plan
from medssl.nn.data.crops import CropBatch, crop_step, scan_shapes
from medssl.nn.data.device_dataset import DeviceDataset

THICK = 3
"""An axis counts as thick-sliced above this ratio of its spacing to the finest one; a crop that moves by a
slice then shows other tissue."""


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
    """Draw pairs of overlapping crops of the same scans (PGL, arXiv 2011.12640, section "views").

    Crops lie inside the scan; a crop larger than the scan is centred on it. In 2.5D both crops lie on the
    same slice, in 3D as close to each other as possible along axes of THICK slices.

    Args:
        dataset: Scans to crop from.
        plan: Gives the batch size B and the working spacing.
        size: Crop size in voxels (slices, rows, columns).
        generator: CPU generator of all draws.
        zoom: Range of a crop's side in patch sides along rows and columns, drawn for each crop; slices are
            not scaled.
        min_overlap: Pairs with a smaller intersection over union are drawn again.
        min_cells: Pairs that share fewer working voxels along an axis are drawn again.
        scan: Index of the scan of each pair (B,) int64; None draws them.
        tries: How often a pair is drawn again before the most concentric pair is taken.

    Returns:
        First and second crops, not cut yet.
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
    # Fallback for pairs of which no draw overlaps enough: as close to concentric as the scan allows.
    second = torch.maximum(torch.minimum(first, high), low)
    if plan.dims == 3:
        thick = torch.tensor(plan.spacing_mm) > THICK * min(plan.spacing_mm)
        low, high = (torch.where(thick, second, edge) for edge in (low, high))
    cells = step * torch.tensor(min_cells)
    # Draws are limited to where the overlap can suffice; in a large scan almost none would otherwise.
    max_offset = (box + other_box) / 2 - torch.maximum(cells, _min_shared(box, other_box, min_overlap))
    low, high = torch.maximum(low, first - max_offset), torch.minimum(high, first + max_offset)
    pending = (high >= low).all(1)
    for _ in range(tries):
        if not pending.any():
            break
        candidate = _between(low, high, generator)
        accepted = pending & _overlap_enough(first, box, candidate, other_box, min_overlap, cells)
        second = torch.where(accepted[:, None], candidate, second)
        pending &= ~accepted

    def crops(centre: Tensor, box_step: Tensor) -> CropBatch:
        flip = torch.rand(batch, 3, generator=generator) < 0.5
        return CropBatch(size, scan, centre, box_step, flip, torch.zeros(batch))

    return crops(first, first_step), crops(second, second_step)


def _centres_inside(shape: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest centres (B, 3) of boxes inside scans; the scan's centre where a box is too large."""
    low, high, middle = (box - 1) / 2, shape - (box + 1) / 2, (shape - 1) / 2
    return torch.where(high > low, low, middle), torch.where(high > low, high, middle)


def _between(low: Tensor, high: Tensor, generator: Generator) -> Tensor:
    return low + torch.rand(low.shape, generator=generator) * (high - low)


def _min_shared(box: Tensor, other: Tensor, min_overlap: float) -> Tensor:
    """Least length (B, 3) that two boxes must share along each axis when the other axes overlap fully."""
    smaller = torch.minimum(box, other)
    volume = (box.prod(1) + other.prod(1)) * min_overlap / (1 + min_overlap)
    return smaller * (volume / smaller.prod(1))[:, None]


def _overlap_enough(
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
    """Draw crops uniformly inside scans.

    Args:
        dataset: Scans to crop from.
        plan: Gives the batch size B and the working spacing.
        size: Crop size in voxels (slices, rows, columns).
        generator: CPU generator of all draws.
        scan: Index of each crop's scan (B,) int64; None draws them.
        zoom: Range of a crop's side in patch sides along rows and columns, drawn for each crop; None for 1.

    Returns:
        The crops, not cut yet.
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
