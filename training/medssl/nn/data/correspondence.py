"""The overlap of two crops, and their feature maps resampled onto a common grid over it.

This is PGL's "prior-guided aligning module" (arXiv 2011.12640): flips are undone, and the overlap is cut out
of both feature maps and resampled. All of it is one differentiable `grid_sample` through the crops' affines
at cell centres (RoIAlign), which leaves no order of flips and axes to get wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.nn.data.crops import CropBatch
from medssl.nn.devices import full_precision


def overlap(first: CropBatch, second: CropBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Intersect the boxes of two batches of crops.

    Args:
        first: B crops.
        second: B crops, compared with those of `first` one by one.

    Returns:
        Lower edges (B, 3) and upper edges (B, 3) of the intersections in scan voxels, and which pairs of
        crops overlap (B,) bool.
    """
    low_one, high_one = first.extent()
    low_two, high_two = second.extent()
    low, high = torch.maximum(low_one, low_two), torch.minimum(high_one, high_two)
    return low, high, (high > low).all(dim=1) & (first.scan == second.scan)


def common_points(low: Tensor, high: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Cell centres of regular grids that fill boxes.

    Args:
        low: Lower edges of the boxes in scan voxels (B, 3).
        high: Upper edges of the boxes in scan voxels (B, 3).
        cells: Number of cells along each of the three axes.

    Returns:
        Cell centres in scan voxels (B, *cells, 3).
    """
    axes = [(torch.arange(count) + 0.5) / count for count in cells]
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    broadcast = (...,) + (None,) * len(cells) + (slice(None),)
    return low[broadcast] + unit * (high - low)[broadcast]


@full_precision
def features_at(features: Tensor, views: CropBatch, points: Tensor) -> Tensor:
    """Sample feature maps at scan positions, linearly between cell centres.

    Args:
        features: Feature maps of the crops: (B, C, h, w) in 2.5D, (B, C, d, h, w) in 3D.
        views: The B crops that the maps belong to.
        points: Positions in scan voxels (B, d', h', w', 3); d' is 1 in 2.5D.

    Returns:
        Sampled features: (B, C, h', w') in 2.5D, (B, C, d', h', w') in 3D.
    """
    dims = features.ndim - 2
    affine = views.to_scan()
    inverse = torch.linalg.inv(affine[:, :, :3])
    flat = points.reshape(len(views), -1, 3)
    voxel = (flat - affine[:, None, :, 3]) @ inverse.transpose(1, 2)
    # A crop of n voxels spans -0.5 .. n - 0.5, and so does its feature map, whatever its stride.
    unit = (voxel + 0.5) / torch.tensor(views.size)
    grid = (2 * unit - 1).reshape(points.shape).flip(-1).to(features.device, features.dtype)
    if dims == 2:
        grid = grid[:, 0, ..., :2]
    return F.grid_sample(features, grid, padding_mode="border", align_corners=False)


def align(
    first: Tensor, first_views: CropBatch, second: Tensor, second_views: CropBatch, cells: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Resample two batches of feature maps onto common grids over the crops' overlaps.

    Args:
        first: Feature maps (B, C, ...) of `first_views`.
        first_views: B crops.
        second: Feature maps (B, C, ...) of `second_views`.
        second_views: B crops, of the same scans.
        cells: Number of cells of the common grid along each of the three axes.

    Returns:
        Both maps on the common grid, each (B, C, h', w') in 2.5D and (B, C, d', h', w') in 3D, and which
        pairs overlap (B,) bool.
    """
    low, high, valid = overlap(first_views, second_views)
    points = common_points(low, high, cells)
    return (
        features_at(first, first_views, points),
        features_at(second, second_views, points),
        valid.to(first.device),
    )
