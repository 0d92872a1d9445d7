"""SAL's two losses as functions of feature maps and slices; equations and departures stand in sal.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.nn.devices import full_precision


def windows(maps: Tensor, side: int) -> Tensor:
    """(B, C, h, w) cut into windows of side x side cells: (B, windows, cells, C), 0 beyond the far ends.

    With side 0, and along an axis shorter than `side`, a window is as long as the map.
    """
    height, width = maps.shape[2:]
    tall, wide = min(side or height, height), min(side or width, width)
    maps = F.pad(maps, (0, -width % wide, 0, -height % tall))
    parts = maps.unflatten(3, (-1, wide)).unflatten(2, (-1, tall))
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


@full_precision
def local_alignment(
    one: Tensor,
    two: Tensor,
    window: int = 0,
    weights: Sequence[Tensor] | None = None,
    *,
    detach: bool = False,
    mutual: bool = False,
    least_match: float = -1.0,
) -> Tensor:
    """LA, or WLA in windows of `window` cells, in both directions: 0..2, and 0 where no cell counts.

    one, two: (B, C, h, w) of the two slices, normalised here; weights: (B, h, w) each, of the cells that look
    for a partner. Makes windows x cells^2 cosines, in fp32: in bf16 there are two digits near 1.
    """
    first, second = (windows(F.normalize(each.float(), dim=1), window) for each in (one, two))
    inside = windows(torch.ones_like(one[:, :1], dtype=torch.float32), window)[..., 0]
    total = first.new_zeros(())
    for number, (queries, keys) in enumerate([(first, second), (second, first)]):
        best, counts = best_match(queries, keys.detach() if detach else keys, inside > 0, mutual)
        weight = inside if weights is None else windows(weights[number].float()[:, None], window)[..., 0]
        weight = weight * counts * (best >= least_match - 1e-6)
        total = total + ((1 - best).abs() * weight).sum() / weight.sum().clamp(min=1e-6)
    return total / 2


def best_match(queries: Tensor, keys: Tensor, inside: Tensor, mutual: bool = False) -> tuple[Tensor, Tensor]:
    """Each cell's largest cosine in its window (B, n, cells), and whether its partner chose it in turn.

    queries, keys: (B, n, cells, C) unit vectors; inside (B, n, cells) is True on the map. The gradient goes
    through the largest alone. Without `mutual` no partner is asked, and all answers are True.
    """
    cosines = queries @ keys.transpose(-1, -2)
    best, partner = cosines.masked_fill(~inside[..., None, :], -math.inf).max(-1)
    if not mutual:
        return best, torch.ones_like(inside)
    chosen = cosines.detach().masked_fill(~inside[..., None], -math.inf).argmax(-2)
    return best, chosen.gather(-1, partner) == torch.arange(inside.shape[-1], device=inside.device)


def positive_mask(position: Tensor, near: float) -> Tensor:
    """(2B, 2B) bool: slices whose positions (2B,) differ by less than `near`, and partners, B apart."""
    order = torch.arange(len(position), device=position.device)
    apart = (order[:, None] - order).abs()
    close = (position[:, None] - position).abs() < near
    return (close | (apart == len(position) // 2)) & (apart > 0)


@full_precision
def contrast(slices: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """PCL's loss of features (N, C), N > 1, with positives (N, N): mean over slices that have any, or 0."""
    unit = F.normalize(slices.float(), dim=1)
    scores = unit @ unit.T / temperature
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    shares = scores - scores.masked_fill(itself, -math.inf).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    each = -(shares * positive).sum(1) / count.clamp(min=1)
    return each.sum() / (count > 0).sum().clamp(min=1)


@full_precision
def positional_regression(slices: Tensor, position: Tensor) -> Tensor:
    """Mean of |cos(a, b) - (1 - |position a - position b|)| over all pairs of features (N, C), in 0..2."""
    unit = F.normalize(slices.float(), dim=1)
    wanted = 1 - (position[:, None] - position).abs()
    return (unit @ unit.T - wanted).abs().mean()


@full_precision
def within_slice_std(cells: Tensor) -> Tensor:
    """(B,) mean deviation of unit vectors' channels within each map (B, C, h, w) times sqrt(C), in 0..1."""
    unit = F.normalize(cells.float(), dim=1).flatten(2)
    return (unit.var(2, correction=0) + 1e-12).sqrt().mean(1) * math.sqrt(cells.shape[1])
