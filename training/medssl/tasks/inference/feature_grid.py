"""Features of a scan on a regular grid: all levels of the encoder, or the embedding of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.io.geometry import size_text
from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn import devices
from medssl.nn.devices import autocast
from medssl.nn.models.anatomical_embedding import FINE, AnatomicalEmbedding, on_grid, side_by_side
from medssl.nn.models.unet import Network
from medssl.tasks.inference.slabs import neighbouring_slices, slab_of, work_of, working_size
from medssl.tasks.inference.threads import in_order

CELLS = 2_000_000
"""Maximum number of cells per scan, for similarity maps of whole scans in less than a second."""
MAX_THREADS = 8
"""Maximum number of simultaneous slabs on a CPU; each takes about 100 MB."""
STEPS = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 8, 8), (8, 8, 8))
"""Cell sizes in canonical voxels (z, y, x), finest first."""
T = TypeVar("T")


def grid_step(shape_zyx: Sequence[int]) -> tuple[int, int, int]:
    """Cell size of the finest grid with at most CELLS cells.

    Args:
        shape_zyx: Size of the scan in canonical order.

    Returns:
        Voxels per cell along z, y, x.

    Raises:
        UserError: "too-large" if no grid is coarse enough.
    """
    for step in STEPS:
        if np.prod([-(-length // stride) for length, stride in zip(shape_zyx, step, strict=True)]) <= CELLS:
            return step
    raise UserError(
        f"A scan of {size_text(shape_zyx)} voxels is too large for a feature map; crop it.",
        code="too-large",
    )


def feature_slabs(
    project: Project,
    scan: str,
    network: Network,
    plan: Plan,
    step: Sequence[int],
    device: torch.device,
    then: Callable[[Tensor], T],
    most: int | None = None,
) -> Iterator[T]:
    """All encoder levels on the grid of a scan, each normalized to unit length and concatenated.

    Args:
        project: The project with the scan.
        scan: Id of the scan.
        network: The network.
        plan: Its plan for this project.
        step: Voxels per cell along z, y, x.
        device: Where the network is.
        then: Called with each slab, float32 (cells, rows, columns, F), in the thread that computes it.
        most: Maximum number of slabs, evenly spaced; None for all.

    Yields:
        What `then` returns, for consecutive slabs along the plan's slice axis.
    """
    work = work_of(project, scan, plan)
    spacing = [project.scans[scan].geometry.spacing_mm[axis] for axis in plan.work_axes]
    stride = [step[axis] for axis in plan.work_axes]
    cells = [-(-length // size) for length, size in zip(work[0].shape, stride, strict=True)]
    thickness = 1 if plan.dims == 2 else max(1, plan.patch_vox[0] // stride[0])
    count = -(-cells[0] // thickness)

    @torch.inference_mode()
    def slab(number: int) -> T:
        if plan.dims == 2:
            middle = min(number * stride[0] + stride[0] // 2, len(work[0]) - 1)
            image = neighbouring_slices(work, middle, middle + 1, plan.patch_vox[0], device)
            levels = _levels(network, plan, image, spacing[1:], stride[1:], cells[1:])
            return then(levels[0].movedim(0, -1)[None])
        first, last = number * thickness, min((number + 1) * thickness, cells[0])
        image = slab_of(work, first * stride[0], min(last * stride[0], len(work[0])), device)[None]
        levels = _levels(network, plan, image, spacing, stride, [last - first, *cells[1:]])
        return then(levels[0].movedim(0, -1))

    chosen = range(count) if most is None else np.unique(np.linspace(0, count - 1, most).round().astype(int))
    # Slabs of 3D networks are large: one at a time.
    several = plan.dims == 2 and device.type == "cpu"
    return in_order(slab, chosen, min(MAX_THREADS, devices.THREADS) if several else 1)


@torch.inference_mode()
def matched_features(
    project: Project,
    scan: str,
    matcher: AnatomicalEmbedding,
    plan: Plan,
    step: Sequence[int],
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Anatomical embedding on the grid of a scan.

    Fine and coarse vectors are concatenated: the product of two such vectors is the mean of both cosines.

    Args:
        project: The project with the scan.
        scan: Id of the scan.
        matcher: The embedding network.
        plan: Gives the channels and the order of the slabs.
        step: Voxels per cell along z, y, x.
        device: Where the network is.

    Yields:
        Consecutive slabs along the plan's slice axis, float16 (1, rows, columns, 2C), unit vectors.
    """
    work = work_of(project, scan, plan)
    spacing = [project.scans[scan].geometry.spacing_mm[axis] for axis in plan.work_axes]
    channels = [torch.from_numpy(np.array(channel)).to(device) for channel in work]
    volume = torch.stack([on_grid(channel, spacing, float(matcher.cell_mm)) for channel in channels])
    embedding = matcher.embed(volume)[None]
    axes = []
    for axis, length in enumerate(work[0].shape):
        stride = step[plan.work_axes[axis]]
        centre = (
            torch.arange(-(-length // stride), device=device) + 0.5
        ) * stride  # from the edge of the scan
        cells = centre.clamp(max=length) / length * volume.shape[1 + axis] / FINE
        axes.append(2 * cells / embedding.shape[2 + axis] - 1)
    for slab in axes[0]:
        grid = torch.stack(torch.meshgrid(slab[None], *axes[1:], indexing="ij"), dim=-1).flip(-1)
        vectors = F.grid_sample(embedding, grid[None], padding_mode="border", align_corners=False)
        yield side_by_side(vectors)[0].movedim(0, -1).half().cpu().numpy()


def _levels(
    network: Network,
    plan: Plan,
    image: Tensor,
    spacing: Sequence[float],
    stride: Sequence[int],
    cells: Sequence[int],
) -> Tensor:
    """(B, F, *cells) features of an image, sampled at the centres of the cells."""
    levels, size, padded = encoded(network, plan, image, spacing)
    axes = []
    for length, edge, count, inner, outer in zip(image.shape[2:], stride, cells, size, padded, strict=True):
        centre = (torch.arange(count, device=image.device) + 0.5) * edge  # from the edge of the scan
        axes.append(2 * centre.clamp(max=length) * (inner / length) / outer - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flip(-1)
    grid = grid.expand(len(image), *grid.shape)
    return unit_levels(levels, grid, network.map_weights)


def encoded(
    network: Network, plan: Plan, image: Tensor, spacing: Sequence[float]
) -> tuple[list[Tensor], tuple[int, ...], tuple[int, ...]]:
    """Compute the feature maps of an image at the plan's spacing.

    Args:
        network: The network.
        plan: Its plan.
        image: Batch of images, (B, C, ...) float.
        spacing: Spacing of the image in mm along its spatial axes.

    Returns:
        Feature maps (B, F, ...) by level, the size of the resampled image, and its size with padding.
    """
    size = working_size(image.shape[2:], spacing, plan.spacing_mm[3 - plan.dims :])
    if size != tuple(image.shape[2:]):
        image = F.interpolate(image, size, mode="bilinear" if plan.dims == 2 else "trilinear")
    padded, _ = network.pad(image)
    with autocast(image.device, plan.precision):
        return network.describe(padded), size, tuple(padded.shape[2:])


def unit_levels(levels: Sequence[Tensor], grid: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Sample feature maps at points, and normalize and concatenate them.

    Args:
        levels: Feature maps, each (B, F, ...) float.
        grid: Points in the coordinates of `F.grid_sample`, (B, ..., 2 or 3) float.
        weights: Length of the vectors of each level; 1 by default.

    Returns:
        Concatenated vectors, float32 (B, sum of F, ...).
    """
    points = [
        F.grid_sample(level.float(), grid, padding_mode="border", align_corners=False) for level in levels
    ]
    # Equals F.normalize, whose norm over the channels takes five times as long on a CPU.
    squares = [vectors.square().sum(1, keepdim=True).clamp_min(1e-12) for vectors in points]
    weights = weights or [1.0] * len(points)
    return torch.cat(
        [
            vectors * (weight * square.rsqrt())
            for weight, vectors, square in zip(weights, points, squares, strict=True)
        ],
        dim=1,
    )
