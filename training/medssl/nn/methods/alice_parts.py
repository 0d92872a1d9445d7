"""Parts of Alice: projection head, CASA, the teacher's assignments, cross-entropies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.core.settings import Count, NotNegative, Positive, Share
from medssl.nn.devices import full_precision
from medssl.nn.methods.common import Prototypes
from medssl.nn.methods.mae import masked_error
from medssl.nn.models.anatomical_embedding import EmbeddingSettings
from medssl.nn.shards import BatchNorm, mean, mean_row

WARM = 0.03
"""Fraction of the training over which the teacher's temperature rises: 30 of 1000 epochs."""


@dataclass(frozen=True)
class AliceSettings(EmbeddingSettings):
    """The released code's values; inherits the matcher's settings, as recipes are flat."""

    matching: Share = 0.2
    """Fraction of the training that trains the matcher."""
    threshold: Share = 0.7
    """Least score of a match."""
    candidates: Count = 64
    """Positions that are matched in the other scan, of which the first above the threshold is used."""
    room: float = 1.4
    """Number of crops that fit along a typical scan, by a smaller patch if needed: else all show the same."""
    ratio: Share = 0.75
    """Fraction of the blocks that is masked."""
    block: Count = 16
    """Side of a block in voxels of the view."""
    mask_shape: Literal["cubes", "columns"] = "cubes"
    """Cubes as in MAE, or columns through the whole view."""
    reconstruct_on: Literal["all", "masked"] = "all"
    """Where the reconstruction counts: everywhere, or in masked blocks alone."""
    casa_teacher: Literal["ema", "shared"] = "ema"
    """The teacher's cross-attention: a moving average (ema), or the student's (shared)."""
    kv_teacher: Literal["encoder", "decoder"] = "encoder"
    """Whose cells are the teacher's keys and values: the encoder's or the decoder's."""
    inter: float = 1.0
    """Weight of the term between two people's views (L_cls)."""
    intra: float = 1.0
    """Weight of the term between the cells of a view (L_patch)."""
    reconstruction: NotNegative = 10.0
    """Weight of the reconstruction (L_rec)."""
    hidden: Count = 2048
    """Width of the hidden layers of the heads."""
    bottleneck: Count = 256
    """Width of the heads' narrowest layer."""
    prototypes: Count = 512
    """Classes that the heads share cells out to."""
    attention_heads: Count = 8
    """Heads of the cross-attention."""
    attention_width: Count = 64
    """Width of a head of the cross-attention."""
    student_temperature: Positive = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: tuple[float, float] = (0.008, 0.01)
    """At the start, and after 3 % of the training."""
    assignment: Literal["centering", "sinkhorn"] = "centering"
    """How the teacher's scores become the student's targets."""
    centering_momentum: Share = 0.9
    """Momentum of the running centre."""
    freeze_last_layer: Share = 0.001
    """Fraction of the training in which the heads' last layer is frozen."""
    momentum: Share = 0.996
    """The teacher's at the start; rises to 1 as a cosine."""


class Head(nn.Module):
    """DINO's projection head, with an input layer for encoder and for decoder cells."""

    def __init__(self, encoder: int, decoder: int, hidden: int, inner: int, prototypes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(encoder, encoder), nn.Linear(decoder, encoder)
        self.shared = nn.Sequential(
            nn.Linear(encoder, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, inner),
        )
        self.standard = BatchNorm(encoder, affine=False)
        self.whole = Prototypes(inner, prototypes)
        self.cell = Prototypes(inner, prototypes)

    def forward(self, cells: Tensor, level: nn.Linear, last: Prototypes, frozen: bool = False) -> Tensor:
        """Score cells against prototypes.

        Args:
            cells: Cells (B, n, C) or vectors (B, C).
            level: Input layer: `encoder` or `decoder` of this head.
            last: Prototypes: `whole` or `cell` of this head.
            frozen: Stop the gradient to the prototypes.

        Returns:
            Cosines (B, n, K) or (B, K).
        """
        inner = F.normalize(self.shared(level(cells)).float(), dim=-1)
        prototypes = last.weight.detach() if frozen else last.weight
        with torch.autocast(inner.device.type, enabled=False):  # the teacher divides scores by a hundredth
            return inner @ F.normalize(prototypes, dim=-1).T


class CASA(nn.Module):
    """Conditional alignment: cross-attention and a two-layer network, each with residual and layer norm."""

    def __init__(self, prototypes: int, heads: int, width: int, hidden: int) -> None:
        super().__init__()
        self.heads, inside = heads, heads * width
        self.query, self.key, self.value = (nn.Linear(prototypes, inside, bias=False) for _ in range(3))
        self.out = nn.Linear(inside, prototypes, bias=False)
        self.attended, self.norm = nn.LayerNorm(prototypes), nn.LayerNorm(prototypes)
        self.network = nn.Sequential(nn.Linear(prototypes, hidden), nn.ReLU(), nn.Linear(hidden, prototypes))

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Attend from queries to context.

        Args:
            queries: Scores of the cells that ask (B, n, K).
            context: Scores of the cells that are keys and values (B, m, K), in any order.

        Returns:
            Aligned scores (B, n, K).
        """
        query, key, value = (
            layer(cells).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, cells in ((self.query, queries), (self.key, context), (self.value, context))
        )
        attention = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        attended = self.attended(queries + self.out(attention).float())
        return self.norm(attended + self.network(attended).float())


@full_precision
def centering(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Turn the teacher's scores into assignments by centering and softmax (DINO).

    Args:
        teacher: Scores (..., K).
        centre: Running mean of the scores (K,).
        temperature: Divides the centred scores.

    Returns:
        Probabilities (..., K).
    """
    return torch.softmax((teacher.detach() - centre) / temperature, -1)


@full_precision
def sinkhorn(teacher: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Turn the teacher's scores into assignments that use all prototypes about equally (Sinkhorn-Knopp).

    After SwAV (Caron et al., NeurIPS 2020, section 3.1); in the log domain, as scores over 0.01 overflow.

    Args:
        teacher: Scores (..., K).
        temperature: Divides the scores.
        rounds: Number of iterations.

    Returns:
        Probabilities (..., K).
    """
    plan = teacher.detach().flatten(0, -2) / temperature
    for _ in range(rounds):
        plan = plan - plan.logsumexp(0, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    return plan.exp().view_as(teacher)


@full_precision
def cross_entropy(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy H(t, s) between assignments and scores.

    Args:
        target: The teacher's assignments, probabilities (..., K).
        student: The student's scores (..., K).
        temperature: Divides the student's scores.

    Returns:
        Scalar.
    """
    return -mean((target * torch.log_softmax(student / temperature, -1)).sum(-1))


def across(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the views of a pair: (H(T_Q, S_K) + H(T_K, S_Q)) / 2.

    Args:
        target: The teacher's assignments of views Q, then K (2B, K).
        student: The student's scores of views Q, then K (2B, K).
        temperature: Divides the student's scores.

    Returns:
        Scalar.
    """
    first, second = target.chunk(2)
    return cross_entropy(torch.cat([second, first]), student, temperature)


def perplexity(target: Tensor) -> Tensor:
    """Effective number of prototypes in use: exp of the entropy of the mean assignment.

    Args:
        target: The teacher's assignments (..., K).

    Returns:
        Scalar in 1..K; 1 after a collapse.
    """
    return torch.special.entr(mean_row(target.flatten(0, -2))).sum().exp()


def teacher_temperature(ends: tuple[float, float], fraction: float) -> float:
    """The teacher's temperature: from the first to the second of `ends` over `WARM` of the training."""
    return ends[0] + (ends[1] - ends[0]) * min(1.0, fraction / WARM)


def cells_of(features: Tensor) -> Tensor:
    """Flatten feature maps to cells.

    Args:
        features: Feature maps (B, C, ...).

    Returns:
        Cells (B, n, C).
    """
    return features.flatten(2).transpose(1, 2)


def reconstruction_loss(
    predicted: Tensor, images: Tensor, visible: Tensor, on: Literal["all", "masked"]
) -> Tensor:
    """Half the mean squared error, L_rec.

    Args:
        predicted: Reconstructions (B, C, ...).
        images: Original images (B, C, ...).
        visible: Masks (B, 1, ...), 0 where masked.
        on: Average over all voxels or over masked ones.

    Returns:
        Scalar.
    """
    return masked_error(predicted, images, visible if on == "masked" else torch.zeros_like(visible)) / 2
