"""Grey values for made-up labels, as if from many scanners: CT and MR, sharp and blurred, clean and noisy.

An appearance says which grey value and texture each label has; `render` applies it. CT values are Hounsfield
units through the project's own normalisation, so that air, fat, soft tissue and bone lie where they do in a
user's scans; MR values are arbitrary per volume and standardised. After SynthSeg (Billot et al., arXiv
2107.09559).
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
TISSUE_SHARES = (0.04, 0.06, 0.14, 0.56, 0.08, 0.12)
"""How often a label of a CT is of such a tissue."""
CT_SHARE = 0.4
"""Share of the volumes that look like CT."""

SCANNER = Intensity(
    noise=(0.9, 0.0, 0.04),
    blur=(0.8, 0.3, 1.2),
    contrast=(0.5, 0.7, 1.4),
    gamma=(0.4, 0.7, 1.5),
    shift=(0.5, -0.4, 0.4),
)
"""What differs between two scans of the same appearance."""


@dataclass(frozen=True)
class Appearance:
    """Of B volumes."""

    grey: Tensor
    """(B, LABELS) mean grey value."""
    texture: Tensor
    """(B, LABELS) standard deviation of the texture."""
    is_ct: Tensor
    """(B,) bool."""


def draw_appearance(count: int, generator: Generator, device: torch.device | str = "cpu") -> Appearance:
    """Several labels of a volume share a grey value: only texture, form and place tell them apart."""
    is_ct = torch.rand(count, generator=generator) < CT_SHARE
    levels = torch.rand(count, LABELS, generator=generator)
    mr = 3 * levels - 1.5
    shares = torch.tensor(TISSUE_SHARES).expand(count, -1)
    tissue = torch.multinomial(shares, LABELS, True, generator=generator)
    low, high = torch.tensor(TISSUES_HU).unbind(1)
    hu = low[tissue] + levels * (high - low)[tissue]
    grey = torch.where(is_ct[:, None], torch.asinh((hu - 40) / 100), mr)
    number = torch.randint(3, LABELS + 1, (count, 1), generator=generator)
    shared = (torch.rand(count, LABELS, generator=generator) * number).long()
    grey = grey.gather(1, shared)
    # Around the body lies air, or nothing; sometimes something else.
    empty = torch.rand(count, generator=generator) < 0.85
    lowest = torch.where(is_ct, torch.asinh(torch.tensor((-1000.0 - 40) / 100)), grey.amin(1) - 0.2)
    grey[:, OUTSIDE] = torch.where(empty, lowest, grey[:, OUTSIDE])
    texture = 0.25 * torch.rand(count, LABELS, generator=generator).square()
    texture[:, OUTSIDE] *= torch.where(empty, 0.1, 1.0)
    return Appearance(send(grey, device), send(texture, device), send(is_ct, device))


def mixed(first: Appearance, second: Appearance, take_second: Tensor) -> Appearance:
    """`second` where `take_second` (B,), else `first`."""
    choose = send(take_second, first.grey.device)
    return Appearance(
        torch.where(choose[:, None], second.grey, first.grey),
        torch.where(choose[:, None], second.texture, first.texture),
        torch.where(choose, second.is_ct, first.is_ct),
    )


def render(labels: Tensor, appearance: Appearance, generator: Generator) -> Tensor:
    """Images (B, S, H, W) float32 of labels (B, S, H, W) uint8, in the range of normalised scans.

    Deterministic by the generator. Texture, bias field, partial volume across slices, then the scanner:
    noise, blur, contrast, gamma, shift.
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
    # Hounsfield units mean the same everywhere; MR is standardised, as whole scans are.
    image = torch.where(appearance.is_ct.view(-1, 1, 1, 1), image, standard)
    return change_intensity(image, SCANNER, generator)


def same_scanner(appearance: Appearance, generator: Generator, amount: float = 0.1) -> Appearance:
    """The appearance in another person: grey values a little off."""
    noise = normal(appearance.grey.shape, generator, appearance.grey.device)
    return replace(appearance, grey=appearance.grey + amount * noise)


def _texture(shape: torch.Size, generator: Generator, device: torch.device) -> Tensor:
    """Noise of unit variance, grains of one to eight pixels, the same kind in a whole volume."""
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
    """A smooth drift of the grey values across the image, up to about 0.3."""
    knots = torch.randn(count, 1, 3, 3, generator=generator) * 0.3
    knots = send(knots * torch.rand(count, 1, 1, 1, generator=generator), device)
    return F.interpolate(knots, (height, width), mode="bilinear", align_corners=True)
