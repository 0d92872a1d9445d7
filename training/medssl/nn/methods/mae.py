"""Masked autoencoder on a U-Net (He et al., arXiv 2111.06377; on U-Nets: arXiv 2410.23132).

Blocks of the input are masked and the whole network, skip connections included, reconstructs the image; the
loss is the squared error on masked voxels only:  sum((1 - m)(y - x)^2) / sum(1 - m).

Where we depart from nnssl's MAE, and why:
- AdamW for SGD.
- Masked voxels become the mean of the visible voxels of their patch. nnssl makes them 0, the mean of its
  standardised scans; in our CT 0 is soft tissue of 40 HU, so masked blocks would look like liver.
- In 2.5D blocks are masked in all neighbouring slices at once: a block visible in the next slice would give
  the answer away.
- Blocks are smaller along an axis of the patch that holds fewer than four.
- Only the intensities of patches are augmented, as for PGL; the target is the augmented patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from medssl.core.jobs import Plan
from medssl.core.settings import Count, Share
from medssl.nn.data.augment import PUBLISHED, change_intensity
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import cut, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import Method
from medssl.nn.models.unet import Network
from medssl.nn.shards import ratio, shard


@dataclass(frozen=True)
class MAESettings:
    """Masking as in nnssl's masked autoencoder."""

    ratio: Share = 0.75
    """Fraction of the blocks that is masked."""
    block: Count = 16
    """Side of a block in working voxels; smaller along an axis that holds fewer than four."""


class MAE(Method):
    """MAE pre-training: network with a reconstruction head, and the loss of a batch of crops."""

    Settings = MAESettings
    TRANSFERS = ("encoder.", "decoder.")

    def __init__(self, network: Network, plan: Plan, settings: MAESettings) -> None:
        self.plan, self.settings = plan, settings
        self.modules = nn.ModuleDict({"network": network})

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction error on the masked blocks of a new batch of crops."""
        views = sample_anywhere(dataset, self.plan, self.plan.patch_vox, generator)
        own = shard(len(views))
        original = shown(cut(dataset, own.of(views), self.plan))
        image = change_intensity(original, PUBLISHED, generator, self.plan.n_channels, own)
        size = tuple(image.shape[2:])
        visible = draw_mask(len(views), size, self.settings.block, self.settings.ratio, generator)
        visible = own.of(visible).to(image.device)[:, None]
        predicted = self.modules["network"](masked(image, visible))
        return masked_error(predicted.float(), image, visible), {}


def draw_mask(batch: int, size: tuple[int, ...], block: int, ratio: float, generator: Generator) -> Tensor:
    """Draw block masks.

    Args:
        batch: Number of masks B.
        size: Size of a mask in voxels; blocks at the far ends are cut off if it is not a multiple of `block`.
        block: Side of a block in voxels, at most a quarter of an axis.
        ratio: Fraction of the blocks that is masked.
        generator: CPU generator.

    Returns:
        Masks (B, *size) float32: 0 on exactly int(ratio * blocks) blocks of each, 1 elsewhere.
    """
    block_sizes = [max(1, min(block, length // 4)) for length in size]
    counts = [-(-length // side) for length, side in zip(size, block_sizes, strict=True)]
    total = 1
    for count in counts:
        total *= count
    order = torch.rand(batch, total, generator=generator).argsort(dim=1)
    visible = torch.ones(batch, total).scatter_(1, order[:, : int(ratio * total)], 0.0)
    visible = visible.reshape(batch, *counts)
    for axis, (side, length) in enumerate(zip(block_sizes, size, strict=True), start=1):
        visible = visible.repeat_interleave(side, dim=axis).narrow(axis, 0, length)
    return visible


def masked(images: Tensor, visible: Tensor) -> Tensor:
    """Fill the masked voxels of each image with the mean of its visible ones.

    Args:
        images: Images (B, ...).
        visible: 1 where visible, 0 where masked (broadcastable to `images`).

    Returns:
        Images (B, ...); masked voxels are 0 if nothing is visible.
    """
    mask = visible.expand_as(images)
    count = mask.flatten(1).sum(1).clamp(min=1)
    mean = (images * mask).flatten(1).sum(1) / count
    return torch.where(mask == 0, mean.view(-1, *[1] * (images.ndim - 1)), images)


def masked_error(predicted: Tensor, image: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error over masked voxels.

    Args:
        predicted: Reconstructions (B, C, ...).
        image: Original images (B, C, ...).
        visible: Masks, 0 where masked, that broadcast over the images, such as (B, 1, ...).

    Returns:
        Scalar; 0 if nothing is masked.
    """
    hidden = (1 - visible).expand_as(image)
    return ratio((hidden * (predicted - image).square()).sum(), hidden.sum())
