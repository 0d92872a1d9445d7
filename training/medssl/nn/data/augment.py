"""Intensity and deformation augmentations of crops, on whole batches and on the device.

Each crop draws its own strength. Probabilities and ranges of `PUBLISHED` are those of PGL (arXiv
2011.12640); `STRONG` is close to nnU-Net's and meant for few-slice training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.devices import full_precision, normal, send
from medssl.nn.shards import Shard


@dataclass(frozen=True)
class Intensity:
    """Probability and range of each intensity augmentation; values are drawn uniformly from the range."""

    noise: tuple[float, float, float] = (0.1, 0.0, 0.1)
    """Probability, lowest and highest variance of additive Gaussian noise."""
    blur: tuple[float, float, float] = (0.2, 0.5, 1.0)
    """Probability, lowest and highest sigma in voxels of the slice plane."""
    contrast: tuple[float, float, float] = (0.5, 0.75, 1.25)
    """Probability, lowest and highest factor; the result is clipped to the crop's original range."""
    gamma: tuple[float, float, float] = (0.5, 0.7, 1.5)
    """Probability, lowest and highest exponent, applied to the crop rescaled to 0..1 and scaled back."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Probability, lowest and highest additive offset."""


PUBLISHED = Intensity()
STRONG = Intensity(
    noise=(0.3, 0.0, 0.05),
    blur=(0.3, 0.4, 1.0),
    contrast=(0.5, 0.65, 1.4),
    gamma=(0.5, 0.6, 1.6),
    shift=(0.5, -0.4, 0.4),
)

KNOT_VOX = 16
"""Spacing of a displacement field's control points in voxels."""


@full_precision
def change_intensity(
    image: Tensor,
    strength: Intensity,
    generator: Generator,
    channels: int = 1,
    shard: Shard | None = None,
) -> Tensor:
    """Apply noise, blur, contrast, gamma and shift in this order, to each crop independently.

    Args:
        image: Batch of crops, float (B, ..., H, W).
        strength: Probabilities and ranges.
        generator: CPU generator of all draws.
        channels: Number C of images of a scan along axis 1, which are changed independently.
        shard: Which rows of a whole batch these crops are, as draws are made for all of it; None for all.

    Returns:
        The augmented batch, same shape.
    """
    shard = shard or Shard.whole(len(image))
    if channels > 1:
        split, parts = split_channels(image, channels), shard.times(channels)
        return join_channels(change_intensity(split, strength, generator, shard=parts), channels)
    for augmentation, (probability, low, high) in (
        (_noise, strength.noise),
        (_blur, strength.blur),
        (_contrast, strength.contrast),
        (_gamma, strength.gamma),
        (_shift, strength.shift),
    ):
        chosen = torch.rand(shard.count, generator=generator) < probability
        amount = torch.empty(shard.count).uniform_(low, high, generator=generator)
        if chosen.any():
            rows = send(shard.of(chosen).nonzero()[:, 0], image.device)
            changed = augmentation(image[rows], amount[chosen], generator, shard.among(chosen))
            image = image.index_copy(0, rows, changed)
    return image


def split_channels(image: Tensor, channels: int) -> Tensor:
    """The images of each of C channels as crops of their own: (B, C S, ...) becomes (B C, S, ...)."""
    return image.unflatten(1, (channels, -1)).flatten(0, 1)


def join_channels(image: Tensor, channels: int) -> Tensor:
    """The inverse of `split_channels`: (B C, S, ...) becomes (B, C S, ...)."""
    return image.unflatten(0, (-1, channels)).flatten(1, 2)


def _per_crop(amount: Tensor, image: Tensor) -> Tensor:
    """Amounts (B,) on the image's device, shaped (B, 1, ...) so that they broadcast over the image."""
    return send(amount, image.device).view(-1, *[1] * (image.ndim - 1))


# Each of these gets the crops of the shard alone, but the amounts of the whole batch.


def _noise(image: Tensor, variance: Tensor, generator: Generator, shard: Shard) -> Tensor:
    noise = shard.of(normal((shard.count, *image.shape[1:]), generator, image.device))
    return image + noise * _per_crop(shard.of(variance), image).sqrt()


def _blur(image: Tensor, sigma: Tensor, generator: Generator, shard: Shard) -> Tensor:
    """Gaussian blur along rows and columns, as two grouped convolutions for all crops."""
    if not len(image):
        return image
    radius = max(1, int(torch.ceil(3 * sigma.max())))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / send(shard.of(sigma), image.device)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    height, width = image.shape[-2:]
    planes = image.reshape(1, -1, height, width)
    kernels = kernel.repeat_interleave(planes.shape[1] // len(image), dim=0)[:, None]
    padded = F.pad(planes, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernels[..., None], groups=len(kernels))
    return F.conv2d(rows, kernels[..., None, :], groups=len(kernels)).reshape(image.shape)


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    flat = image.flatten(1)
    return _per_crop(flat.amin(1), image), _per_crop(flat.amax(1), image)


def _contrast(image: Tensor, factor: Tensor, generator: Generator, shard: Shard) -> Tensor:
    low, high = _range(image)
    return (image * _per_crop(shard.of(factor), image)).clamp(low, high)


def _gamma(image: Tensor, exponent: Tensor, generator: Generator, shard: Shard) -> Tensor:
    low, high = _range(image)
    width = (high - low).clamp(min=1e-6)  # a constant crop stays unchanged
    return ((image - low) / width).clamp(0, 1) ** _per_crop(shard.of(exponent), image) * width + low


def _shift(image: Tensor, offset: Tensor, generator: Generator, shard: Shard) -> Tensor:
    return image + _per_crop(shard.of(offset), image)


@full_precision
def draw_displacement(
    batch: int,
    size: tuple[int, ...],
    generator: Generator,
    *,
    probability: float = 0.5,
    strength_vox: float = 3.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw smooth random displacement fields: control points KNOT_VOX voxels apart, linearly interpolated.

    Args:
        batch: Number of fields B.
        size: Crop size in voxels, n numbers: (H, W) or (D, H, W).
        generator: CPU generator of all draws.
        probability: Fraction of the crops that are deformed; the others get a field of zeros.
        strength_vox: Twice the standard deviation of a control point's displacement.
        device: Where the few control points are interpolated.

    Returns:
        Displacements in crop voxels, float32 (B, n, *size), on the device.
    """
    # The same spacing along a thin crop: closer control points would fold the tissue over.
    intervals = [max(1, -(-(length - 1) // KNOT_VOX)) for length in size]
    coarse = torch.randn(batch, len(size), *(count + 1 for count in intervals), generator=generator)
    deformed = torch.rand(batch, generator=generator) < probability
    coarse = coarse * _per_crop(deformed.float(), coarse) * (strength_vox / 2)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    whole = F.interpolate(
        send(coarse, device), [count * KNOT_VOX + 1 for count in intervals], mode=mode, align_corners=True
    )
    inside: Any = (..., *(slice(0, length) for length in size))
    cropped: Tensor = whole[inside]
    return cropped
