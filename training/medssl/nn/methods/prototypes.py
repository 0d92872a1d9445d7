"""Prototypes: the mean feature of each label in a support image classifies the pixels of a query image.

Snell et al., arXiv 1703.05175, on pixels (PANet, Wang et al., arXiv 1908.06391). As a loss it makes features
of equal labels point the same way and those of different labels apart; as a classifier it answers from a few
painted slices without any training.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.nn.methods.common import network_of

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


def both_ways(features: Tensor, labels: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """`prototype_loss` of pairs (i, B + i), each of a pair once the support and once the query.

    features: (2B, C, ...); labels: (2B, ...) integers, those below `count` are compared.
    """
    first, second = features.chunk(2)
    first_labels, second_labels = labels.chunk(2)
    query, query_labels = torch.cat([second, first]), torch.cat([second_labels, first_labels])
    return prototype_loss(features, labels, query, query_labels, count, temperature)


def pair_losses(
    modules: nn.ModuleDict,
    images: Tensor,
    labels: Tensor,
    count: int,
    generator: Generator,
    *,
    level: int,
    stride: int,
    temperature: float,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`both_ways` on the finest decoder map and on an encoder level.

    modules: "network", and the heads "fine" and "coarse" (`prototype_head`); images: (2B, S, H, W); labels:
    (2B, H, W). Of the finest map every `stride`-th pixel is compared, from a random first one: neighbours
    agree.
    """
    network = network_of(modules)
    levels = network.encode(images)
    row, column = torch.randint(stride, (2,), generator=generator).tolist()
    fine = modules["fine"](network.decode(levels)[..., row::stride, column::stride])
    coarse = modules["coarse"](levels[level])
    shrunk = F.interpolate(labels[:, None].float(), coarse.shape[2:], mode="nearest")[:, 0].long()
    return (
        both_ways(fine, labels[..., row::stride, column::stride], count, temperature),
        both_ways(coarse, shrunk, count, temperature),
    )


def prototype_head(channels: int, hidden: int, dimension: int) -> nn.Sequential:
    """Two 1 x 1 convolutions: what is compared, so that the features themselves stay free for other tasks."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, dimension, 1)
    )
