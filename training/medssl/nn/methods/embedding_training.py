"""Self-supervised training of the dense anatomical embedding (models/anatomical_embedding.py).

Two overlapping crops of one scan are augmented by scaling, rotation, deformation and intensity changes. A
position must have the same vector in both crops, and another one than distant positions (arXiv 2012.02383),
at both levels:

    L = mean over anchors a of -log( exp(a.p/t) / (exp(a.p/t) + sum over hard negatives n of exp(a.n/t)) )

Where we depart from the paper, and why:
- Negatives are farther away than `min_negative_distance_mm`, or than a fifth of a typical scan if that is
  less: scans cropped to one organ have hardly any positions 20 mm apart.
- They come from the same two crops only: another scan shows the same anatomy.
- Crops are also rotated and deformed: the paper has thousands of patients, a project has a dozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.data.augment import STRONG, change_intensity, draw_displacement
from medssl.nn.devices import full_precision
from medssl.nn.models.anatomical_embedding import COARSE, FINE, EmbeddingSettings
from medssl.nn.models.embedding_bank import EmbeddingBank

ROTATION, ZOOM, DISPLACEMENT = 0.2, 0.2, 3.0
"""Ranges of the augmentation: radians about each axis, logarithm of the scale, displacement in cells."""


@dataclass(frozen=True)
class Crops:
    """B crops of volumes on the common grid, with the mapping from crop voxels to cells of the volumes."""

    image: Tensor
    """Images (B, channels, *side) float32."""
    centre: Tensor
    """Centres in cells of the volumes (B, 3)."""
    linear: Tensor
    """Linear maps from crop voxels to cells (B, 3, 3)."""
    displacement: Tensor
    """Displacement of each voxel in crop voxels (B, 3, *side)."""

    @property
    def side(self) -> Tensor:
        """Size of a crop in voxels (3,) int64."""
        return torch.tensor(self.image.shape[2:])

    def positions(self, stride: int) -> Tensor:
        """Positions of the feature cells of a stride, in cells of the volumes (B, N, 3)."""
        return _positions(self.centre, self.linear, F.avg_pool3d(self.displacement, stride), stride)

    def voxels(self, position: Tensor) -> Tensor:
        """Convert positions to crop voxels, for crops without deformation.

        Args:
            position: Positions in cells of the volumes (B, n, 3).

        Returns:
            Voxels (B, n, 3).
        """
        offset = (position - self.centre[:, None]) @ torch.linalg.inv(self.linear).transpose(1, 2)
        return offset + (self.side - 1) / 2


def _positions(centre: Tensor, linear: Tensor, displacement: Tensor, stride: int) -> Tensor:
    axes = [torch.arange(count) * stride + (stride - 1) / 2 for count in displacement.shape[2:]]
    voxel = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement
    middle = (torch.tensor(displacement.shape[2:]) * stride - 1) / 2
    return (voxel.flatten(2).transpose(1, 2) - middle) @ linear.transpose(1, 2) + centre[:, None]


@full_precision
def draw_crops(volumes: Sequence[Tensor], side: Sequence[int], generator: Generator) -> tuple[Crops, Crops]:
    """Draw two crops of each volume; the second lies near the first and is deformed.

    Args:
        volumes: B volumes on the common grid (channels, D, H, W).
        side: Size of a crop in voxels (3,).
        generator: CPU generator of all draws.
    """
    shapes = torch.tensor([tuple(volume.shape[1:]) for volume in volumes])
    margin = ((shapes - torch.tensor(side)) / 2).clamp(min=0)
    centre = (shapes - 1) / 2 + margin * _uniform(margin.shape, generator)
    nearby = centre + torch.tensor(side) / 4 * _uniform(margin.shape, generator)
    zero = torch.zeros(len(volumes), 3, *side)
    displacement = draw_displacement(
        len(volumes), tuple(side), generator, probability=1.0, strength_vox=DISPLACEMENT
    )
    return _cut(volumes, centre, zero, generator), _cut(volumes, nearby, displacement, generator)


def _cut(volumes: Sequence[Tensor], centre: Tensor, displacement: Tensor, generator: Generator) -> Crops:
    linear = _draw_linear(len(volumes), generator)
    images = []
    for volume, points in zip(volumes, _positions(centre, linear, displacement, 1), strict=True):
        grid = _normalised(points, volume.shape[1:]).reshape(1, *displacement.shape[2:], 3).to(volume.device)
        images.append(F.grid_sample(volume[None], grid, padding_mode="border", align_corners=False))
    return Crops(torch.cat(images), centre, linear, displacement)


def _normalised(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel indices (..., 3) as `grid_sample` expects them: -1..1 from edge to edge, last axis first."""
    return ((2 * voxels + 1) / torch.tensor(shape) - 1).flip(-1)


def _uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    return 2 * torch.rand(tuple(shape), generator=generator) - 1


def _draw_linear(batch: int, generator: Generator) -> Tensor:
    """Linear maps (B, 3, 3): rotation about all axes, isotropic scale, and half as much along each axis."""
    angle = ROTATION * _uniform((batch, 3), generator)
    rotation = torch.zeros(batch, 3, 3)
    for axis, (one, two) in enumerate(((1, 2), (2, 0), (0, 1))):
        rotation[:, one, two], rotation[:, two, one] = -angle[:, axis], angle[:, axis]
    scale = ZOOM * (_uniform((batch, 1), generator) + _uniform((batch, 3), generator) / 2)
    return torch.linalg.matrix_exp(rotation) * scale.exp()[:, None]


def matching_loss(embedding_bank: EmbeddingBank, generator: Generator) -> Tensor:
    """The matcher's loss on a new batch of pairs of crops from random scans, summed over both levels.

    Args:
        embedding_bank: Scans, matcher and settings.
        generator: CPU generator of all draws.

    Returns:
        Scalar.
    """
    settings = embedding_bank.settings
    scans = torch.randint(len(embedding_bank.dataset), (settings.crop_pairs,), generator=generator).tolist()
    volumes, body_thresholds = zip(*(embedding_bank.volume(scan) for scan in scans), strict=True)
    first, second = draw_crops(volumes, embedding_bank.side, generator)
    images = torch.cat([first.image, second.image])
    images = change_intensity(images, STRONG, generator, channels=images.shape[1])
    device = images.device
    fine, coarse = embedding_bank.matcher(images)
    cells = second.positions(FINE)
    anchor = torch.randint(cells.shape[1], (len(scans), settings.anchors), generator=generator)
    position = cells.gather(1, anchor[..., None].expand(-1, -1, 3))
    inside = _inside_volume(position, volumes) & _inside_crop(first.voxels(position), first.side)
    intensity = F.avg_pool3d(second.image[:, :1], FINE).flatten(1).gather(1, anchor.to(device))
    used = inside.to(device) & (intensity > torch.stack(body_thresholds)[:, None])
    fine_side = (first.side // FINE).tolist()
    voxel = torch.stack(torch.unravel_index(anchor, fine_side), -1) * FINE + (FINE - 1) / 2
    loss = images.new_zeros(())
    for maps, stride in ((fine, FINE), (coarse, COARSE)):
        one, two = maps.chunk(2)
        negatives = torch.cat([first.positions(stride), second.positions(stride)], dim=1)
        exists = _inside_volume(negatives, volumes).to(device)[:, None]
        distance = torch.cdist(position.to(device), negatives.to(device))
        losses = contrast(
            _vectors_at(two, voxel, second.side),
            _vectors_at(one, first.voxels(position), first.side),
            torch.cat([one.flatten(2), two.flatten(2)], dim=2),
            (distance > embedding_bank.far_cells) & exists,
            settings,
        )
        loss = loss + (losses * used).sum() / used.sum().clamp(min=1)
    return loss


def _inside_volume(positions: Tensor, volumes: Sequence[Tensor]) -> Tensor:
    """Which positions lie in their volumes (B, n) bool: beyond the border there is no anatomy."""
    shapes = torch.tensor([tuple(volume.shape[1:]) for volume in volumes])
    return ((positions > -0.5) & (positions < shapes[:, None] - 0.5)).all(2)


def _inside_crop(voxels: Tensor, side: Tensor) -> Tensor:
    return ((voxels >= 0) & (voxels <= side - 1)).all(2)


@full_precision
def _vectors_at(maps: Tensor, voxels: Tensor, side: Tensor) -> Tensor:
    """Unit vectors (B, C, n) of feature maps at crop voxels (B, n, 3), linear between the cells' centres."""
    grid = _normalised(voxels, side.tolist())[:, None, None].to(maps.device)
    vectors = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, :, 0, 0]
    return F.normalize(vectors, dim=1)


@full_precision
def contrast(
    anchors: Tensor, positives: Tensor, negatives: Tensor, allowed: Tensor, settings: EmbeddingSettings
) -> Tensor:
    """InfoNCE of each anchor against its hardest negatives (see the module's equation).

    Args:
        anchors: Unit vectors (B, C, n).
        positives: Unit vector of the same position as each anchor (B, C, n).
        negatives: Unit vectors of other positions (B, C, m).
        allowed: Which vectors are negatives of which anchor (B, n, m) bool.
        settings: Gives the number of negatives and the temperature.

    Returns:
        Losses (B, n).
    """
    positive = (anchors * positives).sum(1)
    negative = torch.einsum("bcn,bcm->bnm", anchors, negatives).masked_fill(~allowed, -torch.inf)
    hardest = negative.topk(min(settings.negatives, negative.shape[2]), dim=2).values
    logits = torch.cat([positive[..., None], hardest], dim=2) / settings.matching_temperature
    return torch.logsumexp(logits, dim=2) - logits[..., 0]
