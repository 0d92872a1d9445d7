"""Prototypes: the mean feature of each label in a support image classifies the pixels of a query image.

Snell et al., arXiv 1703.05175, on pixels (PANet, Wang et al., arXiv 1908.06391). As a loss it makes features
of equal labels point the same way and those of different labels apart; as a classifier it answers from a few
painted slices without any training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
LEAST_PIXELS = 8
"""A label with fewer support pixels has no prototype: its mean would be noise."""


def label_prototypes(features: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean unit vector per label, and which labels have enough pixels for one.

    features: (B, C, ...); labels: (B, ...) integers below `count`, others are not used.
    Returns (B, count, C) unit vectors and (B, count) bool.
    """
    unit = F.normalize(features.float(), dim=1).flatten(2)
    known = torch.arange(count, device=labels.device)
    member = (labels.flatten(1)[:, None] == known[:, None]).float()  # (B, count, N)
    pixels = member.sum(2)
    means = torch.einsum("bln,bcn->blc", member, unit)
    return F.normalize(means, dim=2, eps=1e-6), pixels >= LEAST_PIXELS


def prototype_loss(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    count: int,
    temperature: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the query's pixels against the support's prototypes, and the share that is right.

    support, query: (B, C, ...) features; their labels: (B, ...) integers. Pixels whose label has no prototype
    count nothing; without any the loss is 0.
    """
    prototypes, there = label_prototypes(support, support_labels, count)
    unit = F.normalize(query.float(), dim=1).flatten(2)
    scores = torch.einsum("blc,bcn->bln", prototypes, unit) / temperature
    scores = scores.masked_fill(~there[..., None], -1e4)
    wanted = query_labels.long().flatten(1)
    inside = (wanted >= 0) & (wanted < count)
    valid = inside & there.gather(1, wanted.clamp(0, count - 1))
    wanted = torch.where(valid, wanted, IGNORE)
    total = valid.sum().clamp(min=1)
    loss = F.cross_entropy(scores, wanted, ignore_index=IGNORE, reduction="sum") / total
    right = ((scores.detach().argmax(1) == wanted) & valid).sum() / total
    return loss, right
