"""Location prior: relative positions of structures in annotated scans, applied to every prediction.

A network trained on a few slices of two people segments much that only resembles a structure. A crop does not
show where it lies, but annotated scans do: the brainstem lies above the cord, between the parotids. Their
labels, interpolated between slices, give one coarse map per class. The maps are shifted together over the
prediction of another scan to the position of best agreement (cross-correlation, all classes weighted alike).
Detections farther from the position of their class than the class is large become less probable.

Classes without a stable position, such as lesions, are not affected: one annotated scan has to confirm the
other, and a single class has no relative position. Between complete slices, and beyond the outermost, the
classes of the adjacent complete slices may continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.labels.shape_interpolation import interpolate
from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.nn.models import checkpoint

PREFIX = "location_prior"
"""Prefix of its tensor names in a checkpoint."""
CELLS = 64
"""Cells of the maps along the longest side of an annotated scan."""
MAX_SCANS = 4
"""Maximum number of annotated scans: those with the most complete slices."""
MIN_CONFIRMED = 0.9
"""Minimum fraction of a class that must lie within its reach of its position in another annotated scan."""
FAR_FACTOR = 0.3
"""Factor of a probability far from the position of the class; confident predictions survive it."""
MARGIN = 16
"""Cells around the annotated scans with factors; beyond, the factor of the border continues."""
CHUNK_VOXELS = 1 << 22
"""Voxels processed at a time."""


@dataclass(frozen=True)
class LocationPrior:
    """Maps of the positions of K classes in work order, on one device."""

    maps: Tensor
    """(K, Z, Y, X) float, fraction of the annotated scans with the class in a cell."""
    factors: Tensor
    """(K, Z', Y', X') float, 1 where the annotated scans allow the class, falling to FAR_FACTOR elsewhere;
    MARGIN cells larger at each end."""
    reach_mm: Tensor
    """(K,) distance at which the factors start to fall: twice the radius of gyration of the class; infinite
    for a class without a stable position."""
    cell_mm: Tensor
    """() edge of a cell."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save in a checkpoint, by name."""
        return checkpoint.pack(PREFIX, {field.name: getattr(self, field.name) for field in fields(self)})

    def to(self, device: torch.device) -> LocationPrior:
        """The prior on another device."""
        return replace(self, maps=self.maps.to(device), factors=self.factors.to(device))

    def aligned_factors(self, best: Tensor, level: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """Align the prior with a prediction.

        Args:
            best: Most probable foreground class, 1..K, uint8 (slices, rows, columns) in work order.
            level: Its probability on any scale, (slices, rows, columns).
            spacing_mm: Voxel spacing in work order.

        Returns:
            Factors on a coarse grid over the scan, (K, Z, Y, X) float, 1 near the position of a class,
            FAR_FACTOR far from it.
        """
        cell = float(self.cell_mm)
        labels = range(1, len(self.maps) + 1)
        predicted = [_coarse(best, spacing_mm, cell, label, level) for label in labels]
        shift = _best_shift(self.maps, torch.stack(predicted))
        return _shifted(self.factors, [step - MARGIN for step in shift], predicted[0].shape, extend=(0, 1, 2))

    def apply(self, best: Tensor, level: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """Lower the probabilities of classes far from their positions.

        Args:
            best: Most probable foreground class, 1..K, uint8 (slices, rows, columns) in work order.
            level: Its probability on the scale 0 .. 255, uint8 (slices, rows, columns).
            spacing_mm: Voxel spacing in work order.

        Returns:
            The new probabilities, uint8 (slices, rows, columns).
        """
        factors = self.aligned_factors(best, level, spacing_mm)
        index = [
            (torch.arange(length, device=best.device) * cells) // length
            for length, cells in zip(best.shape, factors.shape[1:], strict=True)
        ]
        weighted = torch.empty_like(level)
        thickness = max(1, CHUNK_VOXELS // best[0].numel())
        for first in range(0, len(best), thickness):
            slab = slice(first, first + thickness)
            label = best[slab].long() - 1
            factor = factors[label, index[0][slab][:, None, None], index[1][:, None], index[2]]
            weighted[slab] = (level[slab] * factor).round().to(level.dtype)
        return weighted


def read_location_prior(path: Path, device: torch.device) -> LocationPrior | None:
    """Load the location prior of a checkpoint.

    Returns:
        The prior on the device; None if the checkpoint has none.

    Raises:
        UserError: "no-checkpoint" or "foreign-checkpoint".
    """
    tensors = checkpoint.unpack(PREFIX, checkpoint.load(path, under=f"{PREFIX}.")[0])
    return LocationPrior(**tensors).to(device) if tensors else None


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
    shifts = [(0, 0, 0), *(_best_shift(maps, scan_maps[0]) for maps in scan_maps[1:])]
    maps = torch.stack(_on_common_grid(scan_maps, shifts)).mean(0) * stable.view(-1, 1, 1, 1)
    region = torch.stack(_on_common_grid(regions, shifts)).any(0)
    shape = [length + 2 * MARGIN for length in region.shape[1:]]
    region = _shifted(region, (MARGIN,) * 3, shape, extend=(0,))
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
    coarse = target[:, rows // 2 :: rows, columns // 2 :: columns].cpu().numpy()
    spacing = (spacing[0], spacing[1] * rows, spacing[2] * columns)
    labels = interpolate(coarse, slices, list(range(1, classes + 1)), spacing[1:])
    scan_maps, regions = [], []
    for label in range(1, classes + 1):
        scan_maps.append(_coarse(torch.from_numpy(labels), spacing, cell, label))
        annotated = coarse == label
        region = np.zeros_like(annotated)
        for low, high in pairwise([0, *slices, len(coarse) - 1]):
            ends = [index for index in (low, high) if index in slices]
            region[low : high + 1] |= annotated[ends].any(0)
        regions.append(_coarse(torch.from_numpy(region), spacing, cell) > 0)
    return torch.stack(scan_maps), torch.stack(regions)


def _coarse(
    labels: Tensor, spacing_mm: Sequence[float], cell: float, label: int = 1, level: Tensor | None = None
) -> Tensor:
    """Fractions of a label in cells of about `cell` mm, or means of `level` where the label is.

    labels: (Z, Y, X); level: (Z, Y, X), 1 by default. Layer after layer of cells, to limit the memory.
    """
    depth, height, width = (
        max(1, round(length * step / cell)) for length, step in zip(labels.shape, spacing_mm, strict=True)
    )
    slices, layers = len(labels), []
    for number in range(depth):  # the slices that adaptive pooling takes for a layer
        inside = slice(number * slices // depth, -(-(number + 1) * slices // depth))
        there = labels[inside] == label
        values = there if level is None else torch.where(there, level[inside], 0)
        layers.append(F.adaptive_avg_pool3d(values.float()[None], (1, height, width))[0])
    return torch.cat(layers)


def _radius(maps: Tensor) -> Tensor:
    """(K,) radius of gyration of each class in cells; 0 for an absent class."""
    axes = [torch.arange(length, dtype=maps.dtype) for length in maps.shape[1:]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (Z, Y, X, 3)
    weights = maps.sum((1, 2, 3)).clamp(min=1e-6)
    centroid = torch.einsum("kzyx,zyxa->ka", maps, positions) / weights[:, None]
    square = torch.einsum("kzyx,zyxa->k", maps, positions.square()) / weights
    return (square - centroid.square().sum(1)).clamp(min=0).sqrt()


def _best_shift(maps: Tensor, predicted: Tensor) -> tuple[int, int, int]:
    """Shift in cells of maps (K, ...) over predicted fractions (K, ...) with the largest cross-correlation.

    The fractions are blurred, which tolerates anatomical differences.
    """
    from scipy.fft import next_fast_len

    totals = maps.sum((1, 2, 3), keepdim=True)
    kernel = torch.where(totals > 0, maps / totals.clamp(min=1e-6), 0)
    blurred = predicted
    for _ in range(2):  # padded before, because pooling refuses fewer than three cells, as of a few slices
        blurred = F.avg_pool3d(F.pad(blurred, (1,) * 6), 3, 1)
    # By FFT, because the maps are about as large as the scan; sizes with small prime factors are fast.
    size = [
        next_fast_len(length + other - 1, real=True)
        for length, other in zip(maps.shape[1:], predicted.shape[1:], strict=True)
    ]
    product = torch.fft.rfftn(blurred, size) * torch.fft.rfftn(kernel, size).conj()
    agreement = torch.fft.irfftn(product.sum(0), size)
    peak = np.unravel_index(int(agreement.argmax()), size)
    shift = [
        int(index) if index < length else int(index) - period
        for index, length, period in zip(peak, predicted.shape[1:], size, strict=True)
    ]
    return shift[0], shift[1], shift[2]


def _shifted(maps: Tensor, shift: Sequence[int], shape: Sequence[int], extend: Sequence[int] = ()) -> Tensor:
    """Maps (..., Z, Y, X) shifted by whole cells into a grid of `shape`, 0 around them.

    extend: axes along which the values at the ends continue instead.
    """
    index = [torch.arange(size, device=maps.device) - step for size, step in zip(shape, shift, strict=True)]
    clamped = [cells.clamp(0, length - 1) for cells, length in zip(index, maps.shape[-3:], strict=True)]
    shifted = maps[..., clamped[0][:, None, None], clamped[1][:, None], clamped[2]]
    for axis in {0, 1, 2} - {*extend}:
        inside = index[axis] == clamped[axis]
        shifted = shifted * inside.view(-1, *[1] * (2 - axis))
    return shifted


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
        shift, maps = _best_shift(scan_maps[source], scan_maps[target]), scan_maps[target]
        for label, distance in enumerate(reach.tolist()):
            region = _shifted(regions[source][label], shift, maps.shape[1:], extend=(0,))
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
    return [_shifted(maps, step, shape) for maps, step in zip(grids, steps, strict=True)]
