"""What may happen to a view's grey values and shape without changing what it shows.

Everything works on whole batches on the device; each view draws its own strength. Probabilities and
ranges of `published_intensity` are those of PGL (arXiv 2011.12640); `strong_intensity` is nnU-Net-like,
for the few-slice training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.devices import full_precision, normal, send


@dataclass(frozen=True)
class Intensity:
    """Probability and range of each grey-value change; a range is drawn from uniformly."""

    noise: tuple[float, float, float] = (0.1, 0.0, 0.1)
    """probability, lowest and highest variance of additive Gaussian noise."""
    blur: tuple[float, float, float] = (0.2, 0.5, 1.0)
    """probability, lowest and highest sigma in voxels of the slice plane."""
    contrast: tuple[float, float, float] = (0.5, 0.75, 1.25)
    """probability, lowest and highest factor; the result is clipped to the range before."""
    gamma: tuple[float, float, float] = (0.5, 0.7, 1.5)
    """probability, lowest and highest exponent on the view rescaled to 0..1, range restored."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """probability, lowest and highest additive offset."""


PUBLISHED = Intensity()
STRONG = Intensity(
    noise=(0.3, 0.0, 0.05),
    blur=(0.3, 0.4, 1.0),
    contrast=(0.5, 0.65, 1.4),
    gamma=(0.5, 0.6, 1.6),
    shift=(0.5, -0.4, 0.4),
)

KNOT_VOX = 16
"""Distance between the knots of a bend."""


@full_precision
def change_intensity(image: Tensor, strength: Intensity, generator: Generator) -> Tensor:
    """Noise, blur, contrast, gamma, shift in this order on a batch (B, ...), each view by itself."""
    for change, (probability, low, high) in (
        (_noise, strength.noise),
        (_blur, strength.blur),
        (_contrast, strength.contrast),
        (_gamma, strength.gamma),
        (_shift, strength.shift),
    ):
        chosen = torch.rand(len(image), generator=generator) < probability
        amount = torch.empty(len(image)).uniform_(low, high, generator=generator)
        if chosen.any():
            rows = send(chosen.nonzero()[:, 0], image.device)
            image = image.index_copy(0, rows, change(image[rows], amount[chosen], generator))
    return image


def _spread(amount: Tensor, image: Tensor) -> Tensor:
    return send(amount, image.device).view(-1, *[1] * (image.ndim - 1))


def _noise(image: Tensor, variance: Tensor, generator: Generator) -> Tensor:
    return image + normal(image.shape, generator, image.device) * _spread(variance, image).sqrt()


def _blur(image: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur along rows and columns, as two grouped convolutions for the whole batch."""
    radius = max(1, int(torch.ceil(3 * sigma.max())))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / send(sigma, image.device)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    height, width = image.shape[-2:]
    planes = image.reshape(1, -1, height, width)
    each = kernel.repeat_interleave(planes.shape[1] // len(image), dim=0)[:, None]
    padded = F.pad(planes, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, each[..., None], groups=len(each))
    return F.conv2d(rows, each[..., None, :], groups=len(each)).reshape(image.shape)


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    flat = image.flatten(1)
    return _spread(flat.amin(1), image), _spread(flat.amax(1), image)


def _contrast(image: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    low, high = _range(image)
    return (image * _spread(factor, image)).clamp(low, high)


def _gamma(image: Tensor, exponent: Tensor, generator: Generator) -> Tensor:
    low, high = _range(image)
    width = (high - low).clamp(min=1e-6)  # a constant view stays as it is
    return ((image - low) / width).clamp(0, 1) ** _spread(exponent, image) * width + low


def _shift(image: Tensor, offset: Tensor, generator: Generator) -> Tensor:
    return image + _spread(offset, image)


@full_precision
def draw_displacement(
    batch: int,
    size: tuple[int, ...],
    generator: Generator,
    *,
    probability: float = 0.5,
    strength_vox: float = 3.0,
) -> Tensor:
    """Smooth random displacements (B, n, *size) in view voxels: a coarse grid, interpolated.

    n = len(size). Knots lie KNOT_VOX voxels apart, each moved by up to `strength_vox` (one sigma at half
    of it); views not chosen are not bent.
    """
    # Always that far apart, also along a thin patch: closer knots would fold the tissue over.
    gaps = [max(1, -(-(length - 1) // KNOT_VOX)) for length in size]
    coarse = torch.randn(batch, len(size), *(gap + 1 for gap in gaps), generator=generator)
    bent = torch.rand(batch, generator=generator) < probability
    coarse = coarse * _spread(bent.float(), coarse) * (strength_vox / 2)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    whole = F.interpolate(coarse, [gap * KNOT_VOX + 1 for gap in gaps], mode=mode, align_corners=True)
    inside: Any = (..., *(slice(0, length) for length in size))
    cropped: Tensor = whole[inside]
    return cropped
