"""What Alice's student and teacher say of cells, and how it is compared: head, CASA, cross-entropies."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.nn.devices import full_precision


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
def centering(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's scores (..., K) as shares that sum to 1, without what all cells have in common."""
    return torch.softmax((teacher.detach() - centre) / temperature, -1)


@full_precision
def sinkhorn(teacher: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """The same, as a transport in which all prototypes get about as much (Sinkhorn-Knopp).

    A few rounds, as in SwAV (Caron et al., NeurIPS 2020, section 3.1); in logarithms, for scores over a
    hundredth leave the range of floats.
    """
    plan = teacher.detach().flatten(0, -2) / temperature
    for _ in range(rounds):
        plan = plan - plan.logsumexp(0, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    return plan.exp().view_as(teacher)


@full_precision
def cross_entropy(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Mean of H(t, s) over the teacher's shares and the student's scores (..., K)."""
    return -(target * torch.log_softmax(student / temperature, -1)).sum(-1).mean()


def across(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    """(H(T_Q, S_K) + H(T_K, S_Q)) / 2 of (2B, K), Q's before K's."""
    first, second = target.chunk(2)
    return cross_entropy(torch.cat([second, first]), student, temperature)


def perplexity(target: Tensor) -> Tensor:
    """How many prototypes the teacher's cells share evenly: exp of the entropy of their mean."""
    return torch.special.entr(target.flatten(0, -2).mean(0)).sum().exp()
