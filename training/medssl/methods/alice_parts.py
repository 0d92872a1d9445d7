"""What Alice's student and teacher say of cells, and how it is compared: head, CASA, cross-entropies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.devices import full_precision


class Head(nn.Module):
    """Cells (B, n, C) to scores of prototypes (B, n, K) in -1..1: DINO's, with a way in for either level."""

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
        self.standard = nn.BatchNorm1d(encoder, affine=False)
        self.whole = nn.Linear(inner, prototypes, bias=False)
        self.cell = nn.Linear(inner, prototypes, bias=False)

    def forward(self, cells: Tensor, level: nn.Linear, last: nn.Linear, frozen: bool = False) -> Tensor:
        """Scores of cells that come in by `level` (of this head); `frozen` leaves the `last` layer alone."""
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

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        """(B, n, K) for queries (B, n, K), whatever the number m and the order of the others (B, m, K)."""
        query, key, value = (
            layer(cells).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, cells in ((self.query, queries), (self.key, others), (self.value, others))
        )
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        attended = self.attended(queries + self.out(found).float())
        return self.norm(attended + self.network(attended).float())


@full_precision
def cross_entropy(
    teacher: Tensor, student: Tensor, centre: Tensor, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """Mean of H(t, s) over scores (..., K); no gradient reaches the teacher."""
    wanted = torch.softmax((teacher.detach() - centre) / teacher_temperature, -1)
    return -(wanted * torch.log_softmax(student / student_temperature, -1)).sum(-1).mean()


def across(teacher: Tensor, student: Tensor, *rest: Any) -> Tensor:
    """(H(T_Q, S_K) + H(T_K, S_Q)) / 2 of scores (2B, K), Q's before K's; `rest` as in cross_entropy."""
    first, second = teacher.chunk(2)
    return cross_entropy(torch.cat([second, first]), student, *rest)


@full_precision
def in_use(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """How many prototypes the teacher's cells share evenly: exp of the entropy of their mean."""
    mean = torch.softmax((teacher - centre) / temperature, -1).flatten(0, -2).mean(0)
    return torch.special.entr(mean).sum().exp()
