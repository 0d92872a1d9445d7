"""How the dense anatomical embedding of anatomical_embedding.py learns from scans that nobody has annotated.

Two crops of one scan, scaled, turned, bent and changed in their grey values, overlap. What they share must
have the same vector in both, and another one than places farther away (arXiv 2012.02383), at both levels:

    L = mean over anchors a of -log( exp(a.p/t) / (exp(a.p/t) + sum over hard negatives n of exp(a.n/t)) )

Where we depart from the paper, and why:
- Negatives lie farther away than `min_negative_distance_mm`, or than a fifth of a typical scan where that
  is less: in scans
  that were cropped to one organ hardly two places lie 20 mm apart.
- They come from the same two crops only: another scan shows the same places.
- Crops are also turned and bent: the paper learns from thousands of patients, a project has a dozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.data.augment import STRONG, change_intensity, draw_displacement
from medssl.nn.devices import full_precision
from medssl.nn.models.anatomical_embedding import COARSE, FINE, EmbeddingBank, EmbeddingSettings

TURN, ZOOM, BEND = 0.2, 0.2, 3.0
"""What crops may differ by: radians about each axis, logarithm of the scale, cells."""


@dataclass(frozen=True)
class Crops:
    """B crops of volumes on the common grid: what they show, and where each of their voxels lies there."""

    image: Tensor
    """(B, 1, *side)."""
    centre: Tensor
    """(B, 3) cells of the volume."""
    linear: Tensor
    """(B, 3, 3) cells of the volume a crop voxel."""
    displacement: Tensor
    """(B, 3, *side) crop voxels by which each voxel is displaced."""

    @property
    def side(self) -> Tensor:
        return torch.tensor(self.image.shape[2:])

    def positions(self, stride: int) -> Tensor:
        """(B, N, 3) cells of the volume at the centres of the feature cells of that stride."""
        return _positions(self.centre, self.linear, F.avg_pool3d(self.displacement, stride), stride)

    def voxels(self, position: Tensor) -> Tensor:
        """(B, n, 3) crop voxels at cells of the volume; for crops that are not bent."""
        offset = (position - self.centre[:, None]) @ torch.linalg.inv(self.linear).transpose(1, 2)
        return offset + (self.side - 1) / 2


def _positions(centre: Tensor, linear: Tensor, displacement: Tensor, stride: int) -> Tensor:
    axes = [torch.arange(count) * stride + (stride - 1) / 2 for count in displacement.shape[2:]]
    voxel = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement
    middle = (torch.tensor(displacement.shape[2:]) * stride - 1) / 2
    return (voxel.flatten(2).transpose(1, 2) - middle) @ linear.transpose(1, 2) + centre[:, None]


@full_precision
def draw_crops(volumes: Sequence[Tensor], side: Sequence[int], generator: Generator) -> tuple[Crops, Crops]:
    """Two crops of each volume (D, H, W); the second lies near the first, and is bent."""
    shapes = torch.tensor([tuple(volume.shape) for volume in volumes])
    room = ((shapes - torch.tensor(side)) / 2).clamp(min=0)
    centre = (shapes - 1) / 2 + room * _uniform(room.shape, generator)
    nearby = centre + torch.tensor(side) / 4 * _uniform(room.shape, generator)
    straight = torch.zeros(len(volumes), 3, *side)
    displacement = draw_displacement(len(volumes), tuple(side), generator, probability=1.0, strength_vox=BEND)
    return _cut(volumes, centre, straight, generator), _cut(volumes, nearby, displacement, generator)


def _cut(volumes: Sequence[Tensor], centre: Tensor, displacement: Tensor, generator: Generator) -> Crops:
    linear = _turned_and_scaled(len(volumes), generator)
    images = []
    for volume, points in zip(volumes, _positions(centre, linear, displacement, 1), strict=True):
        grid = _normalised(points, volume.shape).reshape(1, *displacement.shape[2:], 3).to(volume.device)
        images.append(F.grid_sample(volume[None, None], grid, padding_mode="border", align_corners=False))
    return Crops(torch.cat(images), centre, linear, displacement)


def _normalised(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel indices (..., 3) as grid_sample wants them: -1..1 from edge to edge, last axis first."""
    return ((2 * voxels + 1) / torch.tensor(shape) - 1).flip(-1)


def _uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    return 2 * torch.rand(tuple(shape), generator=generator) - 1


def _turned_and_scaled(batch: int, generator: Generator) -> Tensor:
    """(B, 3, 3): turned about all axes, scaled as a whole and by half as much along each axis."""
    angle = TURN * _uniform((batch, 3), generator)
    rotation = torch.zeros(batch, 3, 3)
    for axis, (one, two) in enumerate(((1, 2), (2, 0), (0, 1))):
        rotation[:, one, two], rotation[:, two, one] = -angle[:, axis], angle[:, axis]
    scale = ZOOM * (_uniform((batch, 1), generator) + _uniform((batch, 3), generator) / 2)
    return torch.linalg.matrix_exp(rotation) * scale.exp()[:, None]


def matching_loss(embedding_bank: EmbeddingBank, generator: Generator) -> Tensor:
    """The loss of the atlas' matcher on new pairs of crops from random scans: both levels together."""
    settings = embedding_bank.settings
    scans = torch.randint(len(embedding_bank.dataset), (settings.crop_pairs,), generator=generator).tolist()
    volumes, floors = zip(*(embedding_bank.volume(scan) for scan in scans), strict=True)
    first, second = draw_crops(volumes, embedding_bank.side, generator)
    images = change_intensity(torch.cat([first.image, second.image]), STRONG, generator)
    device = images.device
    fine, coarse = embedding_bank.matcher(images)
    cells = second.positions(FINE)
    anchor = torch.randint(cells.shape[1], (len(scans), settings.anchors), generator=generator)
    place = cells.gather(1, anchor[..., None].expand(-1, -1, 3))
    inside = _inside(place, volumes) & _within(first.voxels(place), first.side)
    grey = F.avg_pool3d(second.image, FINE).flatten(1).gather(1, anchor.to(device))
    counts = inside.to(device) & (grey > torch.stack(floors)[:, None])
    fine_side = (first.side // FINE).tolist()
    own = torch.stack(torch.unravel_index(anchor, fine_side), -1) * FINE + (FINE - 1) / 2
    loss = images.new_zeros(())
    for maps, stride in ((fine, FINE), (coarse, COARSE)):
        one, two = maps.chunk(2)
        others = torch.cat([first.positions(stride), second.positions(stride)], dim=1)
        there = _inside(others, volumes).to(device)[:, None]
        allowed = (torch.cdist(place.to(device), others.to(device)) > embedding_bank.far_cells) & there
        each = contrast(
            _vectors_at(two, own, second.side),
            _vectors_at(one, first.voxels(place), first.side),
            torch.cat([one.flatten(2), two.flatten(2)], dim=2),
            allowed,
            settings,
        )
        loss = loss + (each * counts).sum() / counts.sum().clamp(min=1)
    return loss


def _inside(positions: Tensor, volumes: Sequence[Tensor]) -> Tensor:
    """(B, n) which positions lie in their volumes: beyond the border there is no anatomy."""
    shapes = torch.tensor([tuple(volume.shape) for volume in volumes])
    return ((positions > -0.5) & (positions < shapes[:, None] - 0.5)).all(2)


def _within(voxels: Tensor, side: Tensor) -> Tensor:
    return ((voxels >= 0) & (voxels <= side - 1)).all(2)


@full_precision
def _vectors_at(maps: Tensor, voxels: Tensor, side: Tensor) -> Tensor:
    """(B, C, n) unit vectors of feature maps at crop voxels (B, n, 3), between the cells' centres."""
    grid = _normalised(voxels, side.tolist())[:, None, None].to(maps.device)
    found = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, :, 0, 0]
    return F.normalize(found, dim=1)


@full_precision
def contrast(
    anchors: Tensor, positives: Tensor, others: Tensor, allowed: Tensor, settings: EmbeddingSettings
) -> Tensor:
    """(B, n) InfoNCE of each anchor against the hardest of its negatives.

    anchors, positives: (B, C, n) unit vectors; others: (B, C, m); allowed: (B, n, m), which of the others are
    negatives of which anchor.
    """
    same = (anchors * positives).sum(1)
    other = torch.einsum("bcn,bcm->bnm", anchors, others).masked_fill(~allowed, -torch.inf)
    hardest = other.topk(min(settings.negatives, other.shape[2]), dim=2).values
    scores = torch.cat([same[..., None], hardest], dim=2) / settings.matching_temperature
    return torch.logsumexp(scores, dim=2) - scores[..., 0]
