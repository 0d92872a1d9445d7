"""Where two views see the same tissue, and their features brought onto that common ground.

This is PGL's "prior-guided aligning module" (arXiv 2011.12640): the flips are undone, the overlap is
cut out of both feature maps and resampled to one grid. All of it is one grid_sample through the views'
affines, at cell centres and differentiable (RoIAlign), so that flip order and axis order cannot go wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.nn.data.crops import CropBatch
from medssl.nn.devices import full_precision


def overlap(first: CropBatch, second: CropBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper edges (B, 3) of the boxes' intersection in scan voxels, and where it exists (B,)."""
    low_one, high_one = first.extent()
    low_two, high_two = second.extent()
    low, high = torch.maximum(low_one, low_two), torch.minimum(high_one, high_two)
    return low, high, (high > low).all(dim=1) & (first.scan == second.scan)


def common_points(low: Tensor, high: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Centres of a grid of `cells` that fills the box from `low` to `high`: (B, *cells, 3) scan voxels."""
    axes = [(torch.arange(count) + 0.5) / count for count in cells]
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    spread = (...,) + (None,) * len(cells) + (slice(None),)
    return low[spread] + unit * (high - low)[spread]


@full_precision
def features_at(features: Tensor, views: CropBatch, points: Tensor) -> Tensor:
    """Features of the views at scan positions, by linear interpolation between cell centres.

    features: (B, C, h, w) of 2.5D views or (B, C, d, h, w); points: (B, d', h', w', 3) scan voxels.
    Returns (B, C, d', h', w') for 3D and (B, C, h', w') for 2.5D (where d' must be 1).
    """
    dims = features.ndim - 2
    affine = views.to_scan()
    inverse = torch.linalg.inv(affine[:, :, :3])
    flat = points.reshape(len(views), -1, 3)
    voxel = (flat - affine[:, None, :, 3]) @ inverse.transpose(1, 2)
    # A view of n voxels spans -0.5 .. n - 0.5, and so does its feature map, whatever its stride.
    unit = (voxel + 0.5) / torch.tensor(views.size)
    grid = (2 * unit - 1).reshape(points.shape).flip(-1).to(features.device, features.dtype)
    if dims == 2:
        grid = grid[:, 0, ..., :2]
    return F.grid_sample(features, grid, padding_mode="border", align_corners=False)


def align(
    first: Tensor, first_views: CropBatch, second: Tensor, second_views: CropBatch, cells: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Both feature maps on a common grid over their overlap, and which pairs overlap at all (B,) bool."""
    low, high, valid = overlap(first_views, second_views)
    points = common_points(low, high, cells)
    return (
        features_at(first, first_views, points),
        features_at(second, second_views, points),
        valid.to(first.device),
    )
