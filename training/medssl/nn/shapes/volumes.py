"""Synthetic label volumes: partitions, walls, tubes and small organs inside a body, from random fields.

A volume is not stored as voxels but as smooth random fields on a coarse grid, from which `sample` reads
labels at any coordinates. Two views of one volume (another slice, angle or zoom, or another "person" with the
same organs) are two sets of coordinates. After anatomix (Dey et al., arXiv 2411.02372) and SynthMorph
(Hoffmann et al., arXiv 2004.10282).

Coordinates are (z, y, x) in working pixels with the volume's centre at 0; z is as long as y and x, so that
slices can have any thickness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.devices import normal, send

KNOT_PX = 4
"""Spacing of the random fields' grid in working pixels."""
OCTAVES = 4
"""Number of noise scales that a field sums: 4, 8, 16, 32 pixels."""
CELLS, TUBES, ORGANS = 10, 2, 8
"""Largest number of regions of the partition, of tubes, and of small organs in a volume."""

OUTSIDE, RIM = 0, 1
"""Labels of the background, and of the layer under the body's surface (skin and fat)."""
FIRST_CELL = 2
FIRST_WALL = FIRST_CELL + CELLS
"""First label of the cells' walls, in the order of the cells."""
FIRST_TUBE = FIRST_WALL + CELLS
FIRST_ORGAN = FIRST_TUBE + TUBES
LABELS = FIRST_ORGAN + ORGANS
"""Number of labels; a volume need not contain all of them."""

_FIELDS = CELLS + 2 * TUBES + 1
"""Fields: one per cell, two per tube (its axis is where both are 0), one that makes surfaces uneven."""


@dataclass(frozen=True)
class Volumes:
    """B synthetic volumes; made by `draw`."""

    size_px: int
    """Side of the region that the coarse grid covers; beyond it the fields are mirrored."""
    fields: Tensor
    """Fields (B, _FIELDS, D, H, W) on a grid of KNOT_PX, unit variance plus an offset per cell: -1e4 if it is
    absent."""
    wall: Tensor
    """Margin to the next cell below which a voxel belongs to the wall (B, CELLS); 0 for no wall."""
    tube: Tensor
    """Radius in units of the fields (B, TUBES); 0 for no tube."""
    organ: Tensor
    """Centre (z, y, x) and radii (z, y, x) in pixels, and label (B, ORGANS, 7); radii near 0 for no organ."""
    body: Tensor
    """Centre, radii (y, x) in pixels, relative thickness of the rim (B, 5); radii inf for no background."""

    def __len__(self) -> int:
        return len(self.fields)


def draw(count: int, size_px: int, generator: Generator, device: torch.device | str = "cpu") -> Volumes:
    """Draw random volumes.

    A seed gives the same volumes on one type of device only, as the fields are drawn there (devices.normal).

    Args:
        count: Number of volumes B.
        size_px: Approximate side of the views in pixels.
        generator: CPU generator.
        device: Device of the volumes.
    """
    fields = _noise(count, _FIELDS, size_px, generator, device)
    offset = torch.randn(count, CELLS, 1, 1, 1, generator=generator) * 0.7
    number = torch.randint(3, CELLS + 1, (count, 1), generator=generator)
    absent = torch.arange(CELLS) >= number
    cells = fields[:, :CELLS] + send(offset, device)
    fields[:, :CELLS] = cells.masked_fill(send(absent, device)[..., None, None, None], -1e4)
    wall = _uniform(count, CELLS, 0.1, 0.5, generator) * _bernoulli(count, CELLS, 0.25, generator)
    tube = _uniform(count, TUBES, 0.1, 0.45, generator) * _bernoulli(count, TUBES, 0.5, generator)
    organ, body = _organs(count, size_px, generator), _body(count, size_px, generator)
    return Volumes(size_px, fields, *(send(tensor, device) for tensor in (wall, tube, organ, body)))


def other_person(volumes: Volumes, generator: Generator, strength: float = 0.5) -> Volumes:
    """Vary volumes as between patients: fields mixed with new ones, organs moved and resized.

    Args:
        volumes: B volumes.
        generator: CPU generator of all draws.
        strength: Largest weight of the new fields, 0..1; each volume draws its own from 0 on.
    """
    count = len(volumes)
    device = volumes.fields.device
    weight = strength * torch.rand(count, 1, 1, 1, 1, generator=generator)
    new = _noise(count, _FIELDS, volumes.size_px, generator, device)
    fields = volumes.fields * send((1 - weight.square()).sqrt(), device) + send(weight, device) * new
    amount = weight.view(count, 1, 1)
    moved = torch.randn(count, ORGANS, 3, generator=generator) * amount * volumes.size_px / 16
    resized = torch.exp(torch.randn(count, ORGANS, 3, generator=generator) * amount * 0.5)
    organ = volumes.organ.clone()
    organ[..., :3] += send(moved, device)
    organ[..., 3:6] *= send(resized, device)
    body = volumes.body.clone()
    widened = torch.exp(torch.randn(count, 2, generator=generator) * weight.view(count, 1) * 0.2)
    body[:, 2:4] *= send(widened, device)
    return replace(volumes, fields=fields, organ=organ, body=body)


def sample(volumes: Volumes, points: Tensor) -> Tensor:
    """Read the labels of volumes.

    Args:
        volumes: B volumes.
        points: Coordinates (B, S, H, W, 3) in pixels (z, y, x).

    Returns:
        Labels (B, S, H, W) uint8.
    """
    values = sample_fields(volumes.fields, volumes.size_px, points)
    cells = values[:, :CELLS]
    best, label = cells.max(1)
    second = cells.scatter(1, label[:, None], -1e4).amax(1)
    rows = torch.arange(len(volumes), device=label.device).view(-1, 1, 1, 1)
    is_wall = (best - second) < volumes.wall[rows, label]
    result = label + torch.where(is_wall, FIRST_WALL, FIRST_CELL)
    uneven = values[:, -1]
    z, y, x = points.unbind(-1)
    z = z[..., :1, :1]  # a slice is flat
    limit = 1 + 0.3 * uneven.clamp(-2, 2)
    organs = volumes.organ[..., None, None, None]
    for number in range(ORGANS):
        cz, cy, cx, rz, ry, rx, name = organs[:, number].unbind(1)
        distance = ((z - cz) / rz).square() + ((y - cy) / ry).square() + ((x - cx) / rx).square()
        result = torch.where(distance < limit, name.long(), result)
    for number in range(TUBES):
        first, second = values[:, CELLS + 2 * number], values[:, CELLS + 2 * number + 1]
        radius = volumes.tube[:, number].view(-1, 1, 1, 1)
        result = torch.where(first.square() + second.square() < radius.square(), FIRST_TUBE + number, result)
    cy, cx, ry, rx, rim = volumes.body[..., None, None, None].unbind(1)
    depth = 1 - ((y - cy) / ry).square() - ((x - cx) / rx).square() + 0.15 * uneven
    result = torch.where((depth < rim) & ry.isfinite(), RIM, result)
    return torch.where((depth < 0) & ry.isfinite(), OUTSIDE, result).to(torch.uint8)


def sample_fields(fields: Tensor, size_px: int, points: Tensor) -> Tensor:
    """Interpolate fields linearly; they are mirrored beyond their grid.

    Args:
        fields: Fields (B, C, D, H, W).
        size_px: Side of the region that the fields cover, in pixels.
        points: Coordinates (B, S, H, W, 3) in pixels (z, y, x).

    Returns:
        Values (B, C, S, H, W).
    """
    return F.grid_sample(
        fields, points.flip(-1) * (2 / size_px), align_corners=True, padding_mode="reflection"
    )


def _noise(
    count: int, channels: int, size_px: int, generator: Generator, device: torch.device | str
) -> Tensor:
    """Sums of noise of all octaves (count, channels, K, K, K), unit variance, each with its own weights."""
    knots = math.ceil(size_px / KNOT_PX) + 1
    weight = torch.rand(OCTAVES, count, channels, 1, 1, 1, generator=generator)
    # Most volumes are smooth, as organs are; the last field, which makes surfaces uneven, always is smooth.
    rough = torch.rand(count, 1, 1, 1, 1, generator=generator).square()
    rough = rough.expand(count, channels, 1, 1, 1).clone()
    rough[:, -1] = 0.1
    weight *= torch.tensor([0.4, 0.8, 1.0, 1.0]).view(-1, 1, 1, 1, 1, 1)
    weight[:2] *= rough
    weight[2] *= 0.3 + 0.7 * rough
    weight /= weight.square().sum(0).sqrt().clamp(min=1e-3)
    weight = send(weight, device)
    total = torch.zeros(count, channels, knots, knots, knots, device=device)
    for octave in range(OCTAVES):
        smooth = send(_smoothing(knots, 2**octave), device)
        noise = normal((count, channels, *(smooth.shape[1],) * 3), generator, device)
        for _ in range(3):  # one axis at a time: the last axis becomes the first
            noise = (noise @ smooth.T).movedim(-1, 2)
        total += weight[octave] * noise
    return total


def _smoothing(knots: int, spacing: int) -> Tensor:
    """Gaussian interpolation weights (knots, coarse) from a grid `spacing` times as coarse, unit variance."""
    coarse = torch.arange(max(2, math.ceil((knots - 1) / spacing) + 1))
    distance = torch.arange(knots)[:, None] / spacing - coarse
    weight = torch.exp(-0.5 * (distance / 0.6).square())
    return weight / weight.square().sum(1, keepdim=True).sqrt()


def _organs(count: int, size_px: int, generator: Generator) -> Tensor:
    """Random ellipsoids; some have a mirrored partner, under the same label or one of its own."""
    centre = (torch.rand(count, ORGANS, 3, generator=generator) - 0.5) * size_px * 0.8
    radius = size_px * torch.exp(_uniform(count, ORGANS, math.log(0.03), math.log(0.2), generator))
    radius = radius[..., None] * torch.exp(torch.randn(count, ORGANS, 3, generator=generator) * 0.35)
    radius[..., 0] *= torch.exp(_uniform(count, ORGANS, 0.0, 1.5, generator))  # long across slices
    present = _bernoulli(count, ORGANS, 0.6, generator)
    label = FIRST_ORGAN + torch.arange(ORGANS).repeat(count, 1)
    for first, partner in ((0, 1), (2, 3), (4, 5)):
        paired = _bernoulli(count, 1, 0.5, generator)[:, 0] * present[:, first] > 0
        same_label = paired & (_bernoulli(count, 1, 0.4, generator)[:, 0] > 0)
        mirrored = centre[:, first] * torch.tensor([1.0, 1.0, -1.0])
        centre[paired, partner] = mirrored[paired]
        radius[paired, partner] = radius[paired, first]
        present[paired, partner] = 1.0
        label[same_label, partner] = label[same_label, first]
    radius = (radius * present[..., None]).clamp(min=1e-3)
    return torch.cat([centre, radius, label[..., None].float()], dim=2)


def _body(count: int, size_px: int, generator: Generator) -> Tensor:
    """Random bodies; half of the volumes have no background, like a crop from inside a large scan."""
    centre = (torch.rand(count, 2, generator=generator) - 0.5) * size_px * 0.6
    radius = size_px * _uniform(count, 2, 0.3, 0.8, generator)
    rim = _uniform(count, 1, 0.02, 0.3, generator) * _bernoulli(count, 1, 0.6, generator)
    radius[_bernoulli(count, 1, 0.5, generator)[:, 0] > 0] = math.inf
    return torch.cat([centre, radius, rim], dim=1)


def _uniform(count: int, width: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.empty(count, width).uniform_(low, high, generator=generator)


def _bernoulli(count: int, width: int, probability: float, generator: Generator) -> Tensor:
    """Samples 0 or 1 (count, width)."""
    return (torch.rand(count, width, generator=generator) < probability).float()
