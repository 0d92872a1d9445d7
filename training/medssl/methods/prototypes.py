"""Prototypes: the mean feature of each label in a support image classifies the pixels of a query image.

Snell et al., arXiv 1703.05175, on pixels (PANet, Wang et al., arXiv 1908.06391). As a loss it makes features
of equal labels point the same way and those of different labels apart; as a classifier it answers from a few
painted slices without any training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.devices import full_precision
from medssl.training.networks import Network

Compare = Callable[..., tuple[Tensor, Tensor]]
"""Features and labels of supports and of queries, and the number of labels: a loss, and the share right."""
IGNORE = 255
LEAST_PIXELS = 8
"""A label with fewer support pixels has no prototype: its mean would be noise."""
SHRINK = 0.02
"""Share of the mean variance that is added to each variance before a covariance is inverted."""


def label_prototypes(features: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean unit vector per label, and which labels have enough pixels for one.

    features: (B, C, ...); labels: (B, ...) integers below `count`, others are not used.
    Returns (B, count, C) unit vectors and (B, count) bool.
    """
    unit = F.normalize(features.float(), dim=1).flatten(2)
    member, pixels = _members(labels, count)
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
    return _cross_entropy(scores, there, query_labels)


@full_precision
def discriminant_loss(
    support: Tensor, support_labels: Tensor, query: Tensor, query_labels: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """As `prototype_loss`, with a linear discriminant that is fitted to the support's pixels in closed form.

    It makes features that a linear head separates, which is what fine-tuning puts on them (first_head.py).
    After differentiable closed-form solvers (Bertinetto et al., arXiv 1805.08136); labels weigh the same in
    the covariance, as in the instant preview.
    """
    x, y = support.float().flatten(2), query.float().flatten(2)
    member, pixels = _members(support_labels, count)
    there = pixels >= LEAST_PIXELS
    share = member * (there / pixels.clamp(min=1))[..., None]  # each label's sum to 1
    labels = there.sum(1).clamp(min=1).view(-1, 1, 1)
    means = torch.einsum("bln,bcn->blc", share, x)
    spread = torch.einsum("bcn,bdn->bcd", x * share.sum(1, keepdim=True), x) - means.mT @ means
    spread = spread / labels
    least = SHRINK * spread.diagonal(dim1=1, dim2=2).mean(1) + 1e-6
    spread = spread + least.view(-1, 1, 1) * torch.eye(x.shape[1], device=x.device)
    weights, _ = torch.linalg.solve_ex(spread, means.mT)  # (B, C, count); solve would wait for the device
    prior = (pixels / pixels.sum(1, keepdim=True).clamp(min=1)).clamp(min=1e-6).log()
    offset = prior - (means.mT * weights).sum(1) / 2
    return _cross_entropy(torch.einsum("bcl,bcn->bln", weights, y) + offset[..., None], there, query_labels)


def _members(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which pixels are of which label, (B, count, N) float, and how many, (B, count)."""
    known = torch.arange(count, device=labels.device)
    member = (labels.flatten(1)[:, None] == known[:, None]).float()
    return member, member.sum(2)


def _cross_entropy(scores: Tensor, there: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of scores (B, count, N) for labels that are `there` (B, count), and the share that is right."""
    scores = scores.masked_fill(~there[..., None], -1e4)
    count = there.shape[1]
    wanted = labels.long().flatten(1)
    inside = (wanted >= 0) & (wanted < count)
    valid = inside & there.gather(1, wanted.clamp(0, count - 1))
    wanted = torch.where(valid, wanted, IGNORE)
    total = valid.sum().clamp(min=1)
    loss = F.cross_entropy(scores, wanted, ignore_index=IGNORE, reduction="sum") / total
    right = ((scores.detach().argmax(1) == wanted) & valid).sum() / total
    return loss, right


def both_ways(
    compare: Compare, features: Tensor, labels: Tensor, count: int, **settings: float
) -> tuple[Tensor, Tensor]:
    """`compare` pairs (i, B + i), each of a pair once the support and once the query.

    features: (2B, C, ...); labels: (2B, ...) integers, those below `count` are compared.
    """
    first, second = features.chunk(2)
    first_labels, second_labels = labels.chunk(2)
    query, query_labels = torch.cat([second, first]), torch.cat([second_labels, first_labels])
    return compare(features, labels, query, query_labels, count, **settings)


@dataclass(frozen=True)
class PairLosses:
    """Losses of pairs, and the shares of pixels that are right."""

    fine: Tensor
    right: Tensor
    coarse: Tensor
    right_coarse: Tensor
    linear: Tensor
    right_linear: Tensor


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
) -> PairLosses:
    """Pairs (i, B + i) compared both ways: by prototypes on the finest decoder map and on an encoder level,
    by a linear discriminant on the finest map as it is.

    modules: "network", and the heads "fine" and "coarse" (`prototype_head`); images: (2B, S, H, W); labels:
    (2B, H, W). Of the finest map every `stride`-th pixel is compared, from a random first one: neighbours
    agree.
    """
    network = cast(Network, modules["network"])
    levels = network.encode(images)
    row, column = torch.randint(stride, (2,), generator=generator).tolist()
    finest = network.decode(levels)[..., row::stride, column::stride]
    thinned = labels[..., row::stride, column::stride]
    coarse = modules["coarse"](levels[level])
    shrunk = F.interpolate(labels[:, None].float(), coarse.shape[2:], mode="nearest")[:, 0].long()
    return PairLosses(
        *both_ways(prototype_loss, modules["fine"](finest), thinned, count, temperature=temperature),
        *both_ways(prototype_loss, coarse, shrunk, count, temperature=temperature),
        *both_ways(discriminant_loss, finest, thinned, count),
    )


def prototype_head(channels: int, hidden: int, dimension: int) -> nn.Sequential:
    """Two 1 x 1 convolutions: what is compared, so that the features themselves stay free for other tasks."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, dimension, 1)
    )
