"""Prototypes: the mean feature of each label in a support image classifies the pixels of a query image.

Prototypical networks (Snell et al., arXiv 1703.05175) on pixels (PANet, Wang et al., arXiv 1908.06391). As a
loss they align the features of a label and separate those of different labels; as a classifier they segment
from a few annotated slices without any training.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.nn.methods.common import network_of
from medssl.nn.shards import ratio

IGNORE = 255
MIN_PIXELS = 8
"""A label with fewer support pixels has no prototype: its mean would be noise."""


def label_prototypes(features: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute the prototype of each label: the direction of its pixels' mean unit vector.

    Args:
        features: Feature maps (B, C, ...).
        labels: Integer labels (B, ...); those not in 0..count-1 are ignored.
        count: Number of labels.

    Returns:
        Prototypes, unit vectors (B, count, C), and which labels have enough pixels for one (B, count) bool.
    """
    unit = F.normalize(features.float(), dim=1).flatten(2)
    classes = torch.arange(count, device=labels.device)
    member = (labels.flatten(1)[:, None] == classes[:, None]).float()  # (B, count, N)
    pixels = member.sum(2)
    means = torch.einsum("bln,bcn->blc", member, unit)
    return F.normalize(means, dim=2, eps=1e-6), pixels >= MIN_PIXELS


def prototype_loss(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    count: int,
    temperature: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the query's pixels against the support's prototypes.

    Args:
        support: Feature maps (B, C, ...) that give the prototypes.
        support_labels: Integer labels (B, ...) of the support.
        query: Feature maps (B, C, ...) to classify.
        query_labels: Integer labels (B, ...) of the query; pixels whose label has no prototype are ignored.
        count: Number of labels.
        temperature: Divides the cosines.

    Returns:
        Loss and accuracy over the pixels that count, scalars; both 0 if there are none.
    """
    prototypes, exists = label_prototypes(support, support_labels, count)
    unit = F.normalize(query.float(), dim=1).flatten(2)
    logits = torch.einsum("blc,bcn->bln", prototypes, unit) / temperature
    logits = logits.masked_fill(~exists[..., None], -1e4)
    target = query_labels.long().flatten(1)
    in_range = (target >= 0) & (target < count)
    valid = in_range & exists.gather(1, target.clamp(0, count - 1))
    target = torch.where(valid, target, IGNORE)
    loss = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    right = ((logits.detach().argmax(1) == target) & valid).sum()
    return ratio(loss, valid.sum()), ratio(right, valid.sum())


def symmetric_prototype_loss(
    features: Tensor, labels: Tensor, count: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """`prototype_loss` of pairs in both directions: each image is once the support and once the query.

    Args:
        features: Feature maps (2B, C, ...); pairs are (i, B + i).
        labels: Integer labels (2B, ...).
        count: Number of labels.
        temperature: Divides the cosines.

    Returns:
        Loss and accuracy, scalars.
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
    """`symmetric_prototype_loss` on the finest decoder map and on an encoder level.

    Args:
        modules: "network", and the heads "fine" and "coarse" (`prototype_head`).
        images: Images (2B, S, H, W); pairs are (i, B + i).
        labels: Integer labels (2B, H, W) of the middle slices.
        count: Number of labels.
        generator: CPU generator of the pixels that are compared.
        level: Encoder level, negative from the deepest.
        stride: Every `stride`-th pixel of the finest map is compared, as neighbouring ones agree.
        temperature: Divides the cosines.

    Returns:
        Loss and accuracy on the finest map, and on the encoder level, scalars.
    """
    network = network_of(modules)
    levels = network.encode(images)
    row, column = torch.randint(stride, (2,), generator=generator).tolist()
    fine = modules["fine"](network.decode(levels)[..., row::stride, column::stride])
    coarse = modules["coarse"](levels[level])
    shrunk = F.interpolate(labels[:, None].float(), coarse.shape[2:], mode="nearest")[:, 0].long()
    return (
        symmetric_prototype_loss(fine, labels[..., row::stride, column::stride], count, temperature),
        symmetric_prototype_loss(coarse, shrunk, count, temperature),
    )


def prototype_head(channels: int, hidden: int, dimension: int) -> nn.Sequential:
    """Two 1x1 convolutions, whose output is compared in place of the features themselves."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, dimension, 1)
    )
