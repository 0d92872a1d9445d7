"""The segmentation head before the first step: a logistic regression on the features of painted voxels.

Weights that were pre-trained bring features but no head for these classes. With a random one the first steps
would change the features for the sake of a bad head ("head first": LP-FT, Kumar et al., arXiv 2202.10054);
with this one the network segments before any training, and fine-tuning goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE
from medssl.nn.models.unet import Network
from medssl.tasks.loop import autocast

PATCHES, VOXELS = 32, 20_000
"""How many patches are looked at, and at most how many of their annotated voxels are fitted."""
RIDGE = 1e-3
"""Penalty on the weights of standardised features, beside a mean cross-entropy."""

Draw = Callable[[Generator], tuple[Tensor, Tensor]]
"""A batch of patches (B, ...) and their targets (B, ...), 255 where nothing is annotated."""


@torch.no_grad()
def fit_head(network: Network, plan: Plan, draw: Draw, generator: Generator) -> None:
    """Replace the network's head by the best linear one for the patches that `draw` gives."""
    features, labels = [], []
    seen = 0
    while seen < PATCHES:
        image, target = draw(generator)
        seen += len(image)
        with autocast(image.device, plan.precision):
            found = network.finest(image)
        known = target != IGNORE
        features.append(found.float().movedim(1, -1)[known])
        labels.append(target[known])
    x, y = torch.cat(features), torch.cat(labels)
    if len(y) > VOXELS:
        chosen = torch.randperm(len(y), generator=generator)[:VOXELS].to(y.device)
        x, y = x[chosen], y[chosen]
    if len(y):
        _set_head(network, *logistic(x, y, _classes(network)))


def logistic(features: Tensor, labels: Tensor, classes: int, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Weight (classes, C) and bias (classes,) of a multinomial logistic regression.

    features: (N, C); labels: (N,) integers below `classes`. In float64, by L-BFGS: a convex problem has one
    answer.
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
    convolution.weight.copy_(weight.to(convolution.weight).view(convolution.weight.shape))
    convolution.bias.copy_(bias.to(convolution.bias))
