"""Images of synthetic label volumes, as if from many CT and MR scanners.

An appearance gives the intensity and texture of each label; `render` applies it. CT intensities are
Hounsfield units passed through the project's normalisation, so that air, fat, soft tissue and bone have the
values of a user's scans; MR intensities are arbitrary per volume and standardised. After SynthSeg (Billot et
al., arXiv 2107.09559).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.data.augment import Intensity, change_intensity
from medssl.nn.devices import normal, send
from medssl.nn.shapes.volumes import LABELS, OUTSIDE

TISSUES_HU = (
    (-1000.0, -850.0),
    (-850.0, -500.0),
    (-120.0, -60.0),
    (-10.0, 110.0),
    (110.0, 300.0),
    (250.0, 1500.0),
)
"""Ranges of Hounsfield units: air, lung, fat, soft tissue and fluids, contrast agent, bone."""
TISSUE_PROBS = (0.04, 0.06, 0.14, 0.56, 0.08, 0.12)
"""Probability of each tissue for a label in CT."""
CT_PROB = 0.4
"""Fraction of the volumes that look like CT."""

SCANNER = Intensity(
    noise=(0.9, 0.0, 0.04),
    blur=(0.8, 0.3, 1.2),
    contrast=(0.5, 0.7, 1.4),
    gamma=(0.4, 0.7, 1.5),
    shift=(0.5, -0.4, 0.4),
)
"""Differences between two scans of the same appearance."""


@dataclass(frozen=True)
class Appearance:
    """Intensities and textures of the labels of B volumes."""

    grey: Tensor
    """Mean intensity of each label (B, LABELS)."""
    texture: Tensor
    """Standard deviation of each label's texture (B, LABELS)."""
    is_ct: Tensor
    """Which volumes look like CT (B,) bool."""


def draw_appearance(count: int, generator: Generator, device: torch.device | str = "cpu") -> Appearance:
    """Draw random appearances.

    Some labels of a volume have the same intensity, so that only texture, shape and position separate them.

    Args:
        count: Number of volumes B.
        generator: CPU generator of all draws.
        device: Device of the result.
    """
    is_ct = torch.rand(count, generator=generator) < CT_PROB
    levels = torch.rand(count, LABELS, generator=generator)
    mr = 3 * levels - 1.5
    probabilities = torch.tensor(TISSUE_PROBS).expand(count, -1)
    tissue = torch.multinomial(probabilities, LABELS, True, generator=generator)
    low, high = torch.tensor(TISSUES_HU).unbind(1)
    hu = low[tissue] + levels * (high - low)[tissue]
    grey = torch.where(is_ct[:, None], torch.asinh((hu - 40) / 100), mr)
    number = torch.randint(3, LABELS + 1, (count, 1), generator=generator)
    shared = (torch.rand(count, LABELS, generator=generator) * number).long()
    grey = grey.gather(1, shared)
    # The background is usually air or zero.
    empty = torch.rand(count, generator=generator) < 0.85
    lowest = torch.where(is_ct, torch.asinh(torch.tensor((-1000.0 - 40) / 100)), grey.amin(1) - 0.2)
    grey[:, OUTSIDE] = torch.where(empty, lowest, grey[:, OUTSIDE])
    texture = 0.25 * torch.rand(count, LABELS, generator=generator).square()
    texture[:, OUTSIDE] *= torch.where(empty, 0.1, 1.0)
    return Appearance(send(grey, device), send(texture, device), send(is_ct, device))


def mixed(first: Appearance, second: Appearance, take_second: Tensor) -> Appearance:
    """Combine two batches of appearances, volume by volume.

    Args:
        first: Appearances of B volumes.
        second: Appearances of B volumes.
        take_second: Volumes that take the second appearance (B,) bool.
    """
    choose = send(take_second, first.grey.device)
    return Appearance(
        torch.where(choose[:, None], second.grey, first.grey),
        torch.where(choose[:, None], second.texture, first.texture),
        torch.where(choose, second.is_ct, first.is_ct),
    )


def render(labels: Tensor, appearance: Appearance, generator: Generator) -> Tensor:
    """Render label maps: texture, bias field, partial volume across slices, then the scanner's noise, blur,
    contrast, gamma and shift.

    Args:
        labels: Label maps (B, S, H, W) uint8.
        appearance: Appearances of the B volumes.
        generator: CPU generator of all draws.

    Returns:
        Images (B, S, H, W) float32, in the range of normalised scans.
    """
    count, slices, height, width = labels.shape
    flat = labels.long().flatten(1)
    grey = appearance.grey.gather(1, flat).view(labels.shape)
    rough = appearance.texture.gather(1, flat).view(labels.shape)
    image = grey + rough * _texture(labels.shape, generator, grey.device)
    image = image + _bias(count, height, width, generator, grey.device)
    thick = send(0.5 * torch.rand(count, 1, 1, 1, generator=generator), grey.device)
    if slices > 1:
        around = F.pad(image.flatten(2), (0, 0, 1, 1), mode="replicate")
        around = around.view(count, slices + 2, height, width)
        image = (1 - thick) * image + thick * (around[:, :-2] + around[:, 2:]) / 2
    mean, deviation = image.mean((1, 2, 3), keepdim=True), image.std((1, 2, 3), keepdim=True)
    standard = (image - mean) / deviation.clamp(min=0.2)
    # Hounsfield units are absolute; MR is standardised, as whole scans are.
    image = torch.where(appearance.is_ct.view(-1, 1, 1, 1), image, standard)
    return change_intensity(image, SCANNER, generator)


def same_scanner(appearance: Appearance, generator: Generator, amount: float = 0.1) -> Appearance:
    """Vary an appearance as between two patients on one scanner: Gaussian noise on the mean intensities.

    Args:
        appearance: Appearances of B volumes.
        generator: Generator of the noise.
        amount: Standard deviation of the noise.
    """
    noise = normal(appearance.grey.shape, generator, appearance.grey.device)
    return replace(appearance, grey=appearance.grey + amount * noise)


def _texture(shape: torch.Size, generator: Generator, device: torch.device) -> Tensor:
    """Noise of unit variance with grains of one to eight pixels, mixed the same way throughout a volume."""
    count, slices, height, width = shape
    fine = normal(shape, generator, device)
    total = fine * send(torch.rand(count, 1, 1, 1, generator=generator), device)
    for grain in (2, 4, 8):
        size = (-(-height // grain) + 1, -(-width // grain) + 1)
        coarse = normal((count, slices, *size), generator, device)
        weight = send(torch.rand(count, 1, 1, 1, generator=generator), device)
        total = total + weight * F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return total / total.std((1, 2, 3), keepdim=True)


def _bias(count: int, height: int, width: int, generator: Generator, device: torch.device) -> Tensor:
    """Smooth bias field (count, 1, height, width), up to about 0.3."""
    knots = torch.randn(count, 1, 3, 3, generator=generator) * 0.3
    knots = send(knots * torch.rand(count, 1, 1, 1, generator=generator), device)
    return F.interpolate(knots, (height, width), mode="bilinear", align_corners=True)
