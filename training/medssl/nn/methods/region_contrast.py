"""LRC's local contrastive loss between the pixels of superpixels (Yan et al., arXiv 2304.03406)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.nn.devices import full_precision
from medssl.nn.shards import ratio

NOTHING = -1e30
"""Similarity of pixels that are left out; unlike minus infinity it has a gradient, 0."""


@full_precision
def region_contrast(
    vectors: Tensor, valid: Tensor, temperature: float, pixels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Local contrastive loss (see lrc.py for the equation).

    Args:
        vectors: Features of K pixels of N regions (B, N, K, C), normalised here.
        valid: Which regions exist (B, N) bool.
        temperature: Divides the cosines.
        pixels: Index of each pixel in its view (B, N, K); all differ if omitted. A pixel that was drawn twice
            from a small region is no positive of itself.

    Returns:
        Mean over the views of all processes with negatives (two regions) and positives (a region with two
        pixels), a scalar, 0 if there are none; and which views these are (B,) bool.
    """
    unit = F.normalize(vectors.float(), dim=-1, eps=1e-6)
    regions, samples = unit.shape[1:3]
    flat = unit.flatten(1, 2)
    similarity = flat @ flat.transpose(1, 2) / temperature
    similarity = similarity.unflatten(2, (regions, samples)).unflatten(1, (regions, samples))
    if pixels is None:
        pixels = torch.arange(samples, device=valid.device).expand(unit.shape[:3])
    return contrast(similarity, valid, pixels[..., None] != pixels[..., None, :])


def contrast(similarity: Tensor, valid: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """`region_contrast` of given similarities.

    Args:
        similarity: Cosines of all pairs of pixels, divided by the temperature (B, N, K, N, K).
        valid: Which regions exist (B, N) bool.
        positive: Which pixels of a region are positives of which (B, N, K, K) bool.

    Returns:
        As `region_contrast`.
    """
    regions = similarity.shape[1]
    other = valid[:, :, None] & valid[:, None] & ~torch.eye(regions, dtype=torch.bool, device=valid.device)
    negatives = (
        similarity.masked_fill(~other[:, :, None, :, None], NOTHING).flatten(3).logsumexp(3)
    )  # (B, n, a)
    same = similarity.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # (B, n, a, b)
    # -log(p / (p + q)) = log(1 + q / p)
    surprise = F.softplus(negatives[..., None] - same).masked_fill(~positive, 0)
    pairs = positive.sum((2, 3))  # (B, n)
    counted = valid & (pairs > 0)
    each = surprise.sum((2, 3)) / pairs.clamp(min=1)  # (B, n)
    loss = (each * counted).sum(1) / counted.sum(1).clamp(min=1)
    used = (valid.sum(1) >= 2) & counted.any(1)
    return ratio(torch.where(used, loss, 0.0).sum(), used.sum()), used
