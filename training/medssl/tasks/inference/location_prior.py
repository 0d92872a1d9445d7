"""Location prior: relative positions of structures in annotated scans, applied to every prediction.

A network trained on a few slices of two people segments much that only resembles a structure. A crop does not
show where it lies, but annotated scans do: the brainstem lies above the cord, between the parotids. Their
labels, interpolated between slices, give one coarse map per class (segment/fit_location_prior.py). The maps
are shifted together over the prediction of another scan to the position of best agreement
(cross-correlation, all classes weighted alike). Detections farther from the position of their class than the
class is large become less probable.

A MONAI bundle gets a copy of this module, which therefore imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
        predicted = [coarse(best, spacing_mm, cell, label, level) for label in labels]
        shift = best_shift(self.maps, torch.stack(predicted))
        return shifted(self.factors, [step - MARGIN for step in shift], predicted[0].shape, extend=(0, 1, 2))

    def apply(
        self, best: Tensor, level: Tensor, spacing_mm: Sequence[float], out: Tensor | None = None
    ) -> Tensor:
        """Lower the probabilities of classes far from their positions.

        Args:
            best: Most probable foreground class, 1..K, uint8 (slices, rows, columns) in work order.
            level: Its probability on the scale 0 .. 255, uint8 (slices, rows, columns).
            spacing_mm: Voxel spacing in work order.
            out: Receives the new probabilities, uint8 (slices, rows, columns); may be `level` itself.

        Returns:
            The new probabilities, uint8 (slices, rows, columns).
        """
        factors = self.aligned_factors(best, level, spacing_mm)
        index = [
            (torch.arange(length, device=best.device) * cells) // length
            for length, cells in zip(best.shape, factors.shape[1:], strict=True)
        ]
        weighted = torch.empty_like(level) if out is None else out
        thickness = max(1, CHUNK_VOXELS // best[0].numel())
        for first in range(0, len(best), thickness):
            slab = slice(first, first + thickness)
            label = best[slab].long() - 1
            factor = factors[label, index[0][slab][:, None, None], index[1][:, None], index[2]]
            weighted[slab] = (level[slab] * factor).round().to(level.dtype)
        return weighted


def coarse(
    labels: Tensor, spacing_mm: Sequence[float], cell: float, label: int = 1, level: Tensor | None = None
) -> Tensor:
    """Fractions of a label in cells, or means of `level` where the label is.

    Layer after layer of cells, to limit the memory.

    Args:
        labels: Labels (slices, rows, columns) in work order.
        spacing_mm: Voxel spacing in work order.
        cell: Approximate edge of a cell in mm.
        label: The label.
        level: What to average, (slices, rows, columns); 1 by default.

    Returns:
        The fractions, (Z, Y, X) float.
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


def best_shift(maps: Tensor, predicted: Tensor) -> tuple[int, int, int]:
    """Shift of maps over predicted fractions with the largest cross-correlation.

    The fractions are blurred, which tolerates anatomical differences.

    Args:
        maps: Maps of the classes, (K, Z, Y, X).
        predicted: Predicted fractions of the classes, (K, Z', Y', X').

    Returns:
        The shift in cells.
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


def shifted(maps: Tensor, shift: Sequence[int], shape: Sequence[int], extend: Sequence[int] = ()) -> Tensor:
    """Maps shifted by whole cells into another grid, 0 around them.

    Args:
        maps: Maps (..., Z, Y, X).
        shift: The shift in cells.
        shape: Size of the grid.
        extend: Axes along which the values at the ends continue instead.

    Returns:
        Maps (..., *shape).
    """
    index = [torch.arange(size, device=maps.device) - step for size, step in zip(shape, shift, strict=True)]
    clamped = [cells.clamp(0, length - 1) for cells, length in zip(index, maps.shape[-3:], strict=True)]
    shifted = maps[..., clamped[0][:, None, None], clamped[1][:, None], clamped[2]]
    for axis in {0, 1, 2} - {*extend}:
        inside = index[axis] == clamped[axis]
        shifted = shifted * inside.view(-1, *[1] * (2 - axis))
    return shifted
