"""What several methods share: heads on feature maps, the teacher's moving average, a measure of collapse."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Sequential):
    """Projector or predictor: 1x1 convolution, batch norm, ReLU, 1x1 convolution, on every cell."""

    def __init__(self, dims: int, inside: int, hidden: int, outside: int) -> None:
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        super().__init__(
            convolution(inside, hidden, 1, bias=False),
            norm(hidden),
            nn.ReLU(inplace=True),
            convolution(hidden, outside, 1),
        )


def momentum(start: float, fraction: float) -> float:
    """The teacher's momentum: from `start` to 1 as a cosine (BYOL, arXiv 2006.07733)."""
    return 1 - (1 - start) * (math.cos(math.pi * fraction) + 1) / 2


@torch.no_grad()
def follow(teacher: list[nn.Parameter], student: list[nn.Parameter], keep: float) -> None:
    """teacher <- keep * teacher + (1 - keep) * student."""
    torch._foreach_lerp_(teacher, student, 1 - keep)


def spread(features: Tensor) -> Tensor:
    """Mean standard deviation of the unit vectors' channels times sqrt(C): 1 when they fill the sphere."""
    unit = F.normalize(features.detach().float(), dim=1).movedim(1, -1).flatten(0, -2)
    return unit.std(0).mean() * math.sqrt(unit.shape[1])
