"""SAL's losses as functions of feature maps and slice features; sal.py has the equations and departures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.nn.devices import full_precision
from medssl.nn.shards import ratio


def windows(maps: Tensor, side: int) -> Tensor:
    """Partition feature maps into windows.

    Args:
        maps: Feature maps (B, C, h, w).
        side: Side of a window in cells; 0, and along an axis shorter than `side`, the whole axis.

    Returns:
        Cells by window (B, windows, cells, C), padded with 0 at the far ends.
    """
    height, width = maps.shape[2:]
    tall, wide = min(side or height, height), min(side or width, width)
    maps = F.pad(maps, (0, -width % wide, 0, -height % tall))
    tiles = maps.unflatten(3, (-1, wide)).unflatten(2, (-1, tall))
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


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
    """Local alignment (LA), or windowed (WLA), averaged over both directions.

    Computes windows x cells^2 cosines, in fp32: bf16 has two digits near 1.

    Args:
        one: Feature maps of the first slices (B, C, h, w), normalised here.
        two: Feature maps of the second slices (B, C, h, w), normalised here.
        window: Side of WLA's windows in cells; 0 is LA.
        weights: Weights of the cells of the first and of the second slices, each (B, h, w); None for 1.
        detach: Stop the gradient through the match.
        mutual: Use only mutual nearest neighbours.
        least_match: Least cosine of a match to be used.

    Returns:
        Scalar in 0..2; 0 if no cell is used.
    """
    first, second = (windows(F.normalize(maps.float(), dim=1), window) for maps in (one, two))
    inside = windows(torch.ones_like(one[:, :1], dtype=torch.float32), window)[..., 0]
    total = first.new_zeros(())
    for number, (queries, keys) in enumerate([(first, second), (second, first)]):
        best, used = best_match(queries, keys.detach() if detach else keys, inside > 0, mutual)
        weight = inside if weights is None else windows(weights[number].float()[:, None], window)[..., 0]
        weight = weight * used * (best >= least_match - 1e-6)
        total = total + ratio(((1 - best).abs() * weight).sum(), weight.sum(), least=1e-6)
    return total / 2


def best_match(queries: Tensor, keys: Tensor, inside: Tensor, mutual: bool = False) -> tuple[Tensor, Tensor]:
    """Find each cell's best match in its window; the gradient flows through the largest cosine alone.

    Args:
        queries: Unit vectors (B, n, cells, C).
        keys: Unit vectors (B, n, cells, C).
        inside: Cells that lie on the map (B, n, cells) bool; the others are padding.
        mutual: Check whether the match's own best match is the cell.

    Returns:
        Largest cosine of each cell (B, n, cells), and whether the match is mutual (B, n, cells) bool, which
        is True everywhere without `mutual`.
    """
    cosines = queries @ keys.transpose(-1, -2)
    best, match = cosines.masked_fill(~inside[..., None, :], -math.inf).max(-1)
    if not mutual:
        return best, torch.ones_like(inside)
    reverse = cosines.detach().masked_fill(~inside[..., None], -math.inf).argmax(-2)
    return best, reverse.gather(-1, match) == torch.arange(inside.shape[-1], device=inside.device)


def positive_mask(position: Tensor, threshold: float) -> Tensor:
    """Which slices are positives of each other: those at similar positions, and the pairs (i, B + i).

    Args:
        position: Positions of the slices in their scans (2B,), 0..1.
        threshold: Positions that differ by less are similar.

    Returns:
        Mask (2B, 2B) bool.
    """
    order = torch.arange(len(position), device=position.device)
    difference = (order[:, None] - order).abs()
    similar = (position[:, None] - position).abs() < threshold
    return (similar | (difference == len(position) // 2)) & (difference > 0)


@full_precision
def contrast(slices: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """PCL's contrastive loss (Zeng et al., MICCAI 2021).

    Args:
        slices: Features of slices (N, C), N > 1, normalised here.
        positive: Which slices are positives of which (N, N) bool.
        temperature: Divides the cosines.

    Returns:
        Mean over slices that have a positive, a scalar; 0 if there are none.
    """
    unit = F.normalize(slices.float(), dim=1)
    scores = unit @ unit.T / temperature
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    log_probs = scores - scores.masked_fill(diagonal, -math.inf).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    losses = -(log_probs * positive).sum(1) / count.clamp(min=1)
    return losses.sum() / (count > 0).sum().clamp(min=1)


@full_precision
def positional_regression(slices: Tensor, position: Tensor) -> Tensor:
    """Mean of |cos(a, b) - (1 - |position a - position b|)| over all pairs of slices.

    Args:
        slices: Features of slices (N, C), normalised here.
        position: Positions of the slices in their scans (N,), 0..1.

    Returns:
        Scalar in 0..2.
    """
    unit = F.normalize(slices.float(), dim=1)
    target = 1 - (position[:, None] - position).abs()
    return (unit @ unit.T - target).abs().mean()


@full_precision
def within_slice_std(cells: Tensor) -> Tensor:
    """Standard deviation of the normalised channels within each map, times sqrt(C).

    Args:
        cells: Feature maps (B, C, h, w), normalised here.

    Returns:
        Mean over channels (B,), in 0..1.
    """
    unit = F.normalize(cells.float(), dim=1).flatten(2)
    return (unit.var(2, correction=0) + 1e-12).sqrt().mean(1) * math.sqrt(cells.shape[1])
