"""Made-up label volumes: partitions, walls, tubes and small organs inside a body, from random fields.

A volume is not stored as voxels. It is a set of smooth random fields on a coarse grid, from which `sample`
reads labels at any coordinates: two views of one volume (other slice, angle, zoom, or another "person" with
the same organs) are two sets of coordinates. After anatomix (Dey et al., arXiv 2411.02372) and SynthMorph
(Hoffmann et al., arXiv 2004.10282).

Coordinates are (z, y, x) in working pixels, the middle of the volume at 0; z is as long as y and x, so that
slices of any thickness can be cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.devices import normal, send

KNOT_PX = 4
"""Distance between the knots of the random fields, working pixels."""
OCTAVES = 4
"""Each field is a sum of noise of this many scales: 4, 8, 16, 32 pixels."""
CELLS, TUBES, ORGANS = 10, 2, 8
"""Largest number of regions of the partition, of tubes, and of small organs in a volume."""

OUTSIDE, RIM = 0, 1
"""Labels outside the body and of the layer under its surface (skin and fat)."""
FIRST_CELL = 2
FIRST_WALL = FIRST_CELL + CELLS
"""Walls of the cells, in the order of the cells."""
FIRST_TUBE = FIRST_WALL + CELLS
FIRST_ORGAN = FIRST_TUBE + TUBES
LABELS = FIRST_ORGAN + ORGANS
"""Number of labels; not all of them occur in every volume."""

_FIELDS = CELLS + 2 * TUBES + 1
"""Fields: one per cell, two per tube (it runs where both are 0), one that makes surfaces uneven."""


@dataclass(frozen=True)
class Volumes:
    """B made-up volumes; see `draw`."""

    size_px: int
    """Side of the region that the coarse grid covers; beyond it the fields are mirrored."""
    fields: Tensor
    """(B, _FIELDS, D, H, W) on knots KNOT_PX apart, unit variance, and an offset per cell: -1e4 for none."""
    wall: Tensor
    """(B, CELLS) margin to the next cell below which a voxel belongs to the wall; 0 for no wall."""
    tube: Tensor
    """(B, TUBES) radius in units of the fields; 0 for no tube."""
    organ: Tensor
    """(B, ORGANS, 7): centre (z, y, x) in pixels, radii (z, y, x) in pixels (next to 0: no organ), label."""
    body: Tensor
    """(B, 5): centre and radii (y, x) in pixels, thickness of the rim, a share; radii inf: no outside."""

    def __len__(self) -> int:
        return len(self.fields)


def draw(count: int, size_px: int, generator: Generator, device: torch.device | str = "cpu") -> Volumes:
    """`count` volumes for views of about `size_px` pixels.

    One seed gives the same volumes on one kind of device: the fields are drawn there (devices.normal).
    """
    fields = _noise(count, _FIELDS, size_px, generator, device)
    offset = torch.randn(count, CELLS, 1, 1, 1, generator=generator) * 0.7
    number = torch.randint(3, CELLS + 1, (count, 1), generator=generator)
    absent = torch.arange(CELLS) >= number
    cells = fields[:, :CELLS] + send(offset, device)
    fields[:, :CELLS] = cells.masked_fill(send(absent, device)[..., None, None, None], -1e4)
    wall = _uniform(count, CELLS, 0.1, 0.5, generator) * _chance(count, CELLS, 0.25, generator)
    tube = _uniform(count, TUBES, 0.1, 0.45, generator) * _chance(count, TUBES, 0.5, generator)
    organ, body = _organs(count, size_px, generator), _body(count, size_px, generator)
    return Volumes(size_px, fields, *(send(each, device) for each in (wall, tube, organ, body)))


def other_person(volumes: Volumes, generator: Generator, strength: float = 0.5) -> Volumes:
    """The same organs in other bodies: fields mixed with new ones, organs moved and resized by up to a third.

    strength: 0..1; each volume draws how much of it, so some stay as they are.
    """
    count = len(volumes)
    device = volumes.fields.device
    share = strength * torch.rand(count, 1, 1, 1, 1, generator=generator)
    new = _noise(count, _FIELDS, volumes.size_px, generator, device)
    fields = volumes.fields * send((1 - share.square()).sqrt(), device) + send(share, device) * new
    amount = share.view(count, 1, 1)
    moved = torch.randn(count, ORGANS, 3, generator=generator) * amount * volumes.size_px / 16
    resized = torch.exp(torch.randn(count, ORGANS, 3, generator=generator) * amount * 0.5)
    organ = volumes.organ.clone()
    organ[..., :3] += send(moved, device)
    organ[..., 3:6] *= send(resized, device)
    body = volumes.body.clone()
    widened = torch.exp(torch.randn(count, 2, generator=generator) * share.view(count, 1) * 0.2)
    body[:, 2:4] *= send(widened, device)
    return replace(volumes, fields=fields, organ=organ, body=body)


def sample(volumes: Volumes, at: Tensor) -> Tensor:
    """Labels (B, ...) uint8 of each volume at the coordinates `at` (B, S, H, W, 3) in pixels (z, y, x)."""
    values = sample_fields(volumes.fields, volumes.size_px, at)
    cells = values[:, :CELLS]
    best, label = cells.max(1)
    second = cells.scatter(1, label[:, None], -1e4).amax(1)
    rows = torch.arange(len(volumes), device=label.device).view(-1, 1, 1, 1)
    is_wall = (best - second) < volumes.wall[rows, label]
    result = label + torch.where(is_wall, FIRST_WALL, FIRST_CELL)
    uneven = values[:, -1]
    z, y, x = at.unbind(-1)
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


def sample_fields(fields: Tensor, size_px: int, at: Tensor) -> Tensor:
    """Fields (B, C, D, H, W) on knots, at coordinates `at` (B, S, H, W, 3): (B, C, S, H, W); mirrored."""
    return F.grid_sample(fields, at.flip(-1) * (2 / size_px), align_corners=True, padding_mode="reflection")


def _noise(
    count: int, channels: int, size_px: int, generator: Generator, device: torch.device | str
) -> Tensor:
    """(count, channels, K, K, K) sums of noise of all octaves, unit variance; each mixed its own way."""
    knots = math.ceil(size_px / KNOT_PX) + 1
    weight = torch.rand(OCTAVES, count, channels, 1, 1, 1, generator=generator)
    # Most volumes are smooth, as organs are; the last field, which makes surfaces uneven, always is.
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
        for _ in range(3):  # one axis after the other; the last one becomes the first
            noise = (noise @ smooth.T).movedim(-1, 2)
        total += weight[octave] * noise
    return total


def _smoothing(knots: int, spacing: int) -> Tensor:
    """(knots, coarse) Gaussian interpolation from knots `spacing` times as far apart; unit variance stays."""
    coarse = torch.arange(max(2, math.ceil((knots - 1) / spacing) + 1))
    distance = torch.arange(knots)[:, None] / spacing - coarse
    weight = torch.exp(-0.5 * (distance / 0.6).square())
    return weight / weight.square().sum(1, keepdim=True).sqrt()


def _organs(count: int, size_px: int, generator: Generator) -> Tensor:
    """Ellipsoids; some have a partner on the other side, under the same label or one of its own."""
    centre = (torch.rand(count, ORGANS, 3, generator=generator) - 0.5) * size_px * 0.8
    radius = size_px * torch.exp(_uniform(count, ORGANS, math.log(0.03), math.log(0.2), generator))
    radius = radius[..., None] * torch.exp(torch.randn(count, ORGANS, 3, generator=generator) * 0.35)
    radius[..., 0] *= torch.exp(_uniform(count, ORGANS, 0.0, 1.5, generator))  # long across slices
    there = _chance(count, ORGANS, 0.6, generator)
    label = FIRST_ORGAN + torch.arange(ORGANS).repeat(count, 1)
    for first, partner in ((0, 1), (2, 3), (4, 5)):
        paired = _chance(count, 1, 0.5, generator)[:, 0] * there[:, first] > 0
        positive_mask = paired & (_chance(count, 1, 0.4, generator)[:, 0] > 0)
        mirrored = centre[:, first] * torch.tensor([1.0, 1.0, -1.0])
        centre[paired, partner] = mirrored[paired]
        radius[paired, partner] = radius[paired, first]
        there[paired, partner] = 1.0
        label[positive_mask, partner] = label[positive_mask, first]
    radius = (radius * there[..., None]).clamp(min=1e-3)
    return torch.cat([centre, radius, label[..., None].float()], dim=2)


def _body(count: int, size_px: int, generator: Generator) -> Tensor:
    """Half of the volumes lie wholly inside, as a patch in the middle of a large scan does."""
    centre = (torch.rand(count, 2, generator=generator) - 0.5) * size_px * 0.6
    radius = size_px * _uniform(count, 2, 0.3, 0.8, generator)
    rim = _uniform(count, 1, 0.02, 0.3, generator) * _chance(count, 1, 0.6, generator)
    radius[_chance(count, 1, 0.5, generator)[:, 0] > 0] = math.inf
    return torch.cat([centre, radius, rim], dim=1)


def _uniform(count: int, width: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.empty(count, width).uniform_(low, high, generator=generator)


def _chance(count: int, width: int, probability: float, generator: Generator) -> Tensor:
    """1 with that probability, else 0."""
    return (torch.rand(count, width, generator=generator) < probability).float()
