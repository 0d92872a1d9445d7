"""Views of made-up volumes: a slice with its neighbours, anywhere, at any angle, zoom and slice thickness."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from medssl.nn.devices import send


def draw_views(
    count: int,
    slices: int,
    size_px: int,
    thickness_px: Tensor,
    middle_px: Tensor,
    generator: Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Coordinates (count, slices, size_px, size_px, 3) of views, to be sampled from volumes.

    thickness_px, middle_px: (count,) distance of slices and position of the middle one across the slices.
    Zoom 0.8 to 1.25, turned by up to 0.35, shifted by up to an eighth of the side, bent a little.
    """
    side = torch.arange(size_px, device=device) - (size_px - 1) / 2
    plane = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    angle = torch.empty(count).uniform_(-0.35, 0.35, generator=generator)
    zoom = torch.exp(torch.empty(count).uniform_(math.log(0.8), math.log(1.25), generator=generator))
    shift = (torch.rand(count, 1, 1, 2, generator=generator) - 0.5) * size_px / 4
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    displacement = _displacement(count, size_px, generator, device)
    plane = torch.einsum("hwj,nij->nhwi", plane, send(turn, device)) + send(shift, device) + displacement
    z = middle_px[:, None] + thickness_px[:, None] * (torch.arange(slices) - slices // 2)
    across = send(z, device)[:, :, None, None, None].expand(count, slices, size_px, size_px, 1)
    return torch.cat([across, plane[:, None].expand(count, slices, size_px, size_px, 2)], -1)


def _displacement(
    count: int, size_px: int, generator: Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Smooth displacements (count, size_px, size_px, 2): two waves across the view."""
    strength = torch.rand(count, 2, generator=generator) * size_px / 32
    phase = torch.rand(count, 2, generator=generator) * 2 * math.pi
    wave = torch.empty(count, 2).uniform_(1.0, 2.5, generator=generator) * 2 * math.pi / size_px
    strength, phase, wave = (send(each, device) for each in (strength, phase, wave))
    along = torch.arange(size_px, device=device)
    first = strength[:, :1] * torch.sin(wave[:, :1] * along + phase[:, :1])
    second = strength[:, 1:] * torch.sin(wave[:, 1:] * along + phase[:, 1:])
    shape = (count, size_px, size_px)
    return torch.stack([first[:, None].expand(shape), second[:, :, None].expand(shape)], -1)
