"""Views of synthetic volumes: a slice with its neighbours at random position, angle, zoom and thickness."""

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
    """Draw the coordinates of views: zoom 0.8 to 1.25, rotation up to 0.35 radians, shift up to an eighth of
    the side, and a slight deformation.

    Args:
        count: Number of views B.
        slices: Number of slices S.
        size_px: Side of a view in pixels.
        thickness_px: Slice distance of each view in pixels (B,).
        middle_px: Position of each view's middle slice across the slices, in pixels from the centre (B,).
        generator: CPU generator of all draws.
        device: Device of the result.

    Returns:
        Coordinates (B, S, size_px, size_px, 3) in pixels (z, y, x), for `volumes.sample`.
    """
    side = torch.arange(size_px, device=device) - (size_px - 1) / 2
    plane = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    angle = torch.empty(count).uniform_(-0.35, 0.35, generator=generator)
    zoom = torch.exp(torch.empty(count).uniform_(math.log(0.8), math.log(1.25), generator=generator))
    shift = (torch.rand(count, 1, 1, 2, generator=generator) - 0.5) * size_px / 4
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    displacement = _displacement(count, size_px, generator, device)
    plane = torch.einsum("hwj,nij->nhwi", plane, send(rotation, device)) + send(shift, device) + displacement
    z = middle_px[:, None] + thickness_px[:, None] * (torch.arange(slices) - slices // 2)
    across = send(z, device)[:, :, None, None, None].expand(count, slices, size_px, size_px, 1)
    return torch.cat([across, plane[:, None].expand(count, slices, size_px, size_px, 2)], -1)


def _displacement(
    count: int, size_px: int, generator: Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Smooth displacement field (count, size_px, size_px, 2): a sine wave along each axis."""
    strength = torch.rand(count, 2, generator=generator) * size_px / 32
    phase = torch.rand(count, 2, generator=generator) * 2 * math.pi
    wave = torch.empty(count, 2).uniform_(1.0, 2.5, generator=generator) * 2 * math.pi / size_px
    strength, phase, wave = (send(tensor, device) for tensor in (strength, phase, wave))
    along = torch.arange(size_px, device=device)
    first = strength[:, :1] * torch.sin(wave[:, :1] * along + phase[:, :1])
    second = strength[:, 1:] * torch.sin(wave[:, 1:] * along + phase[:, 1:])
    shape = (count, size_px, size_px)
    return torch.stack([first[:, None].expand(shape), second[:, :, None].expand(shape)], -1)
