"""Fitting of the location prior (inference/location_prior.py) to annotated scans.

Classes without a stable position, such as lesions, are not affected: one annotated scan has to confirm the
other, and a single class has no relative position. Between complete slices, and beyond the outermost, the
classes of the adjacent complete slices may continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations

import numpy as np
import torch
from torch import Tensor

from medssl.core.labels.shape_interpolation import interpolate
from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.tasks.inference.location_prior import (
    FAR_FACTOR,
    MARGIN,
    LocationPrior,
    best_shift,
    coarse,
    shifted,
)

CELLS = 64
"""Cells of the maps along the longest side of an annotated scan."""
MAX_SCANS = 4
"""Maximum number of annotated scans: those with the most complete slices."""
MIN_CONFIRMED = 0.9
"""Minimum fraction of a class that must lie within its reach of its position in another annotated scan."""


def fit_location_prior(dataset: DeviceDataset, classes: int) -> LocationPrior | None:
    """Fit the prior to the complete slices of annotated scans; a scan needs two of them.

    Args:
        dataset: The annotated scans in work order.
        classes: Number of foreground classes.

    Returns:
        The prior; None unless at least two classes have a stable position in at least two scans.
    """
    complete = [len(complete_slices(target)) for target in dataset.targets]
    chosen = [scan for scan in np.argsort(complete)[::-1].tolist() if complete[scan] > 1][:MAX_SCANS]
    if classes < 2 or len(chosen) < 2:
        return None
    longest = max(
        length * step
        for scan in chosen
        for length, step in zip(dataset.targets[scan].shape, dataset.spacing_mm[scan], strict=True)
    )
    cell = max(longest / CELLS, min(min(dataset.spacing_mm[scan]) for scan in chosen))
    scan_maps, regions = zip(*(_coarse_maps(dataset, scan, classes, cell) for scan in chosen), strict=True)
    present = torch.stack([maps.sum((1, 2, 3)) > 0 for maps in scan_maps])  # (scans, K)
    radius = torch.stack([_radius(maps) for maps in scan_maps])
    reach = 2 * cell * radius.sum(0) / present.sum(0).clamp(min=1)
    stable = (present.sum(0) > 1) & _confirmed(scan_maps, regions, reach, cell)
    if stable.sum() < 2:
        return None
    reach = torch.where(stable, reach, torch.inf)
    shifts = [(0, 0, 0), *(best_shift(maps, scan_maps[0]) for maps in scan_maps[1:])]
    maps = torch.stack(_on_common_grid(scan_maps, shifts)).mean(0) * stable.view(-1, 1, 1, 1)
    region = torch.stack(_on_common_grid(regions, shifts)).any(0)
    shape = [length + 2 * MARGIN for length in region.shape[1:]]
    region = shifted(region, (MARGIN,) * 3, shape, extend=(0,))
    factors = torch.stack(
        [_factors(mask, distance, cell) for mask, distance in zip(region, reach.tolist(), strict=True)]
    )
    return LocationPrior(maps, factors, reach, torch.tensor(cell))


def _coarse_maps(dataset: DeviceDataset, scan: int, classes: int, cell: float) -> tuple[Tensor, Tensor]:
    """Coarse maps of an annotated scan, both (K, Z, Y, X).

    Fractions of its classes, interpolated between complete slices; and the cells that each class may occupy:
    those of a complete slice, up to the next complete slices.
    """
    target, spacing = dataset.targets[scan], dataset.spacing_mm[scan]
    slices = complete_slices(target)
    # Half a cell is fine enough, and the interpolation between slices costs time per pixel.
    rows, columns = (max(1, int(cell / step / 2)) for step in spacing[1:])
    thinned = target[:, rows // 2 :: rows, columns // 2 :: columns].cpu().numpy()
    spacing = (spacing[0], spacing[1] * rows, spacing[2] * columns)
    labels = interpolate(thinned, slices, list(range(1, classes + 1)), spacing[1:])
    scan_maps, regions = [], []
    for label in range(1, classes + 1):
        scan_maps.append(coarse(torch.from_numpy(labels), spacing, cell, label))
        annotated = thinned == label
        region = np.zeros_like(annotated)
        for low, high in pairwise([0, *slices, len(thinned) - 1]):
            ends = [index for index in (low, high) if index in slices]
            region[low : high + 1] |= annotated[ends].any(0)
        regions.append(coarse(torch.from_numpy(region), spacing, cell) > 0)
    return torch.stack(scan_maps), torch.stack(regions)


def _radius(maps: Tensor) -> Tensor:
    """(K,) radius of gyration of each class in cells; 0 for an absent class."""
    axes = [torch.arange(length, dtype=maps.dtype) for length in maps.shape[1:]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (Z, Y, X, 3)
    weights = maps.sum((1, 2, 3)).clamp(min=1e-6)
    centroid = torch.einsum("kzyx,zyxa->ka", maps, positions) / weights[:, None]
    square = torch.einsum("kzyx,zyxa->k", maps, positions.square()) / weights
    return (square - centroid.square().sum(1)).clamp(min=0).sqrt()


def _factors(region: Tensor, reach: float, cell: float) -> Tensor:
    """1 within `reach` mm of a region, falling to FAR_FACTOR beyond; 1 everywhere for an empty region."""
    from scipy.ndimage import distance_transform_edt

    if not np.isfinite(reach) or not region.any():
        return torch.ones(region.shape)
    distance = torch.from_numpy(distance_transform_edt(~region.numpy(), sampling=cell)).float()
    return FAR_FACTOR + (1 - FAR_FACTOR) * torch.exp(-(distance - reach).clamp(min=0) / (reach / 4))


def _confirmed(scan_maps: Sequence[Tensor], regions: Sequence[Tensor], reach: Tensor, cell: float) -> Tensor:
    """(K,) whether each class lies within its reach of the region that every other scan allows for it."""
    confirmed = torch.ones(len(reach), dtype=torch.bool)
    for source, target in permutations(range(len(scan_maps)), 2):
        shift, maps = best_shift(scan_maps[source], scan_maps[target]), scan_maps[target]
        for label, distance in enumerate(reach.tolist()):
            region = shifted(regions[source][label], shift, maps.shape[1:], extend=(0,))
            if scan_maps[source][label].any() and maps[label].any():
                near = _factors(region, distance, cell) == 1
                confirmed[label] &= bool((maps[label] * near).sum() >= MIN_CONFIRMED * maps[label].sum())
    return confirmed


def _on_common_grid(grids: Sequence[Tensor], shifts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Shifted maps on a common grid that contains all of them."""
    low = [min(shift[axis] for shift in shifts) for axis in range(3)]
    ends = [
        [shift[axis] + maps.shape[1 + axis] for shift, maps in zip(shifts, grids, strict=True)]
        for axis in range(3)
    ]
    shape = [max(end) - first for end, first in zip(ends, low, strict=True)]
    steps = ([step - first for step, first in zip(shift, low, strict=True)] for shift in shifts)
    return [shifted(maps, step, shape) for maps, step in zip(grids, steps, strict=True)]
