"""Initial segmentation head: a logistic regression on the features of annotated voxels.

Pre-trained weights have no head for the classes of a project. With a random head the first steps would
distort the features (LP-FT, Kumar et al., arXiv 2202.10054); with a fitted one the network segments before
any training, and fine-tuning continues from there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE
from medssl.nn.devices import autocast
from medssl.nn.models.unet import Network

PATCHES, VOXELS = 32, 20_000
"""Number of crops, and maximum number of their annotated voxels, that the head is fitted to."""
RIDGE = 1e-3
"""L2 penalty on the weights of standardized features, added to a mean cross-entropy."""

Draw = Callable[[Generator], tuple[Tensor, Tensor]]
"""Draws a batch of crops (B, C, ...) and their targets (B, ...), 255 where nothing is annotated."""


@torch.no_grad()
def fit_head(network: Network, plan: Plan, draw: Draw, generator: Generator) -> None:
    """Replace the network's head by a logistic regression on annotated voxels.

    Args:
        network: The network, changed in place.
        plan: Its plan.
        draw: Draws a batch of crops and targets.
        generator: Passed to `draw`; also chooses the voxels.
    """
    features, labels = [], []
    n_crops = 0
    while n_crops < PATCHES:
        image, target = draw(generator)
        n_crops += len(image)
        with autocast(image.device, plan.precision):
            finest = network.finest(image)
        labelled = target != IGNORE
        features.append(finest.float().movedim(1, -1)[labelled])
        labels.append(target[labelled])
    x, y = torch.cat(features), torch.cat(labels)
    if len(y) > VOXELS:
        chosen = torch.randperm(len(y), generator=generator)[:VOXELS].to(y.device)
        x, y = x[chosen], y[chosen]
    if len(y):
        _set_head(network, *logistic(x, y, _classes(network)))


def logistic(features: Tensor, labels: Tensor, classes: int, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression in float64 by L-BFGS; the problem is convex.

    Args:
        features: Feature vectors, (N, C) float.
        labels: Class numbers, (N,) long, 0 .. classes - 1.
        classes: Number of classes.
        ridge: L2 penalty on the weights of standardized features.

    Returns:
        Weight (classes, C) and bias (classes,), float64.
    """
    x = features.double()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / deviation
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels) + ridge * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scaled = weight.detach() / deviation
    return scaled, bias.detach() - scaled @ mean


def _classes(network: Network) -> int:
    return int(network.head.conv.conv.weight.shape[0])


def _set_head(network: Network, weight: Tensor, bias: Tensor) -> None:
    convolution = network.head.conv.conv
    assert convolution.bias is not None
    convolution.weight.copy_(weight.to(convolution.weight).view(convolution.weight.shape))
    convolution.bias.copy_(bias.to(convolution.bias))
