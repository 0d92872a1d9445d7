"""Local contrastive loss with pseudo-labels (Chaitanya et al., arXiv 2112.09645; MedIA 87, 2023).

The network labels unannotated voxels (pseudo_labels.py). These pseudo-labels never enter the segmentation
loss; they only shape the features. A small head on the finest decoder map gives each pixel a vector h, which
is attracted to the mean vector of its class, m_c, and repelled from those of the other classes. For a pixel p
of class c in crop x and a set M of class means

    l(p, c; M) = -log( exp(cos(h_p, m_c) / tau) / sum over m in M of exp(cos(h_p, m) / tau) )

intra:  M are the means of x itself,             L = mean over pairs, classes, pixels of  l(p) + l(p')
inter:  M are the means of x and of another x',  L = mean of  (l(p, c) + l(p, c') + l(p', c') + l(p', c)) / 2

    total = loss on annotated voxels + contrast_weight * L

The class itself is in M (so l >= 0: a softmax over class means). With F classes and all features equal, intra
is 2 log F and inter 2 log 2F; with perfect features intra goes to 0, inter never below 2 log 2, because two
equal means of one class share the mass.

Deviations from the paper, and reasons:
- The crops of the segmentation loss are used as they are, and as many pseudo-labelled ones; pairs are drawn
  from all of them, in any combination. The paper cuts new slices and changes their intensities only; here
  crops are also rotated and deformed together with their labels.
- Intra uses each crop once. The paper uses two augmentations, but its loss never compares them, so one
  augmentation of twice as many crops has the same expectation.
- Classes present in both crops of a pair, instead of only slices with every class, which do not exist for
  many organs. Pairs without a common class contribute nothing.
- Background is excluded as in the released code, except if only one class is annotated: the contrast would
  be constant (and the released loop would skip every step).
- No CRF. The predictions behind the pseudo-labels are smoothed across slices; pseudo-labels of low
  probability (`confidence_threshold`) and small components (`clean_up = "largest"`) can be excluded, and
  become unlabelled instead of background.
- One training instead of four: the moving average makes pseudo-labels in rounds, and training continues with
  the same weights. There is no validation scan to select a checkpoint by, and the segmentation head is kept.
- The network is our U-Net with instance norms, and the segmentation head is its one convolution; the
  published network has six levels, batch norms and a head of three. It starts from the job's weights;
  `--weights random` is as published. Intensities are the project's own, not rescaled between percentiles.
- Predictions give each class the threshold of the best expected Dice, as in all fine-tuning here.
- AdamW. Cross-entropy in addition to Dice, as in all fine-tuning here. 2D and 3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.settings import Count, NotNegative, Positive
from medssl.nn.devices import full_precision
from medssl.nn.shards import BatchNorm, Shard
from medssl.tasks.segment import pseudo_labels
from medssl.tasks.segment.annotated_crops import StepBatch


@dataclass(frozen=True)
class Settings(pseudo_labels.Settings):
    """The released values; settings of the pseudo-labels are those of pseudo_labels.py."""

    contrast_weight: NotNegative = 0.1
    """Weight of the contrastive loss (lambda); the loss on annotated voxels has 1."""
    temperature: Positive = 0.1
    """Temperature of the softmax (tau)."""
    anchors: Count = 3
    """Pixels drawn per class and crop."""
    mode: Literal["inter", "intra"] = "inter"
    """Compare with the class means of both crops of a pair, or of the same crop only."""
    background: bool | None = None
    """Whether the background is a class; None: only if a single class is annotated."""
    detach: bool = False
    """Whether gradients flow through the drawn pixels only, not through the class means."""
    hidden: Count = 16
    """Channels of the head's hidden layer."""
    dimension: Count = 16
    """Length of the vectors."""


class PseudoContrast(nn.Module):
    """Local contrastive loss as a term of fine-tuning, with its own projection head.

    Args:
        plan: Plan of the network.
        settings: Settings of the loss.
        classes: Number of classes including the background.
        painted: Number of annotated classes.

    Raises:
        UserError: "one-class" if there would be nothing to contrast.
    """

    def __init__(self, plan: Plan, settings: Settings, classes: int, painted: int) -> None:
        super().__init__()
        if painted < 2 and settings.background is False:
            raise UserError(
                "Only one class is annotated, and without the background there is nothing to contrast it "
                "with; remove background=false or annotate another class.",
                code="one-class",
            )
        self.settings, self.weight, self.classes = settings, settings.contrast_weight, classes
        self.background = painted < 2 if settings.background is None else settings.background
        convolution = nn.Conv2d if plan.dims == 2 else nn.Conv3d
        self.head = nn.Sequential(
            convolution(plan.channels[0], settings.hidden, 1, bias=False),
            BatchNorm(settings.hidden),
            nn.ReLU(inplace=True),
            convolution(settings.hidden, settings.dimension, 1, bias=False),
        )

    def forward(self, batch: StepBatch, generator: Generator) -> Tensor:
        """The loss over all crops of a step, annotated and pseudo-labelled; a scalar."""
        settings = self.settings
        vectors = self.head(batch.features)
        shard = batch.shard or Shard.whole(len(batch.target))
        pixels = draw(
            vectors, batch.target, self.classes, settings.anchors, generator, self.background, shard
        ).gathered(shard)  # those of all processes, as pairs combine any crops
        if settings.detach:
            pixels = Pixels(pixels.anchors, pixels.means.detach(), pixels.present)
        if settings.mode == "intra":
            return intra(pixels, settings.temperature)
        order = torch.randperm(shard.count, generator=generator).to(batch.target.device)
        first, second = order.chunk(2)
        return inter(pixels.select(first[: len(second)]), pixels.select(second), settings.temperature)


@dataclass(frozen=True)
class Pixels:
    """Drawn pixels and class means of N crops and F classes."""

    anchors: Tensor
    """(N, F, P, C) vectors of drawn pixels; arbitrary where the class is absent."""
    means: Tensor
    """(N, F, C) mean vector over all pixels of a class; 0 where it is absent."""
    present: Tensor
    """(N, F) bool, whether the class is present."""

    def select(self, rows: Tensor) -> Pixels:
        """Pixels and means of some crops.

        Args:
            rows: Indices of the crops, (M,) long.
        """
        return Pixels(self.anchors[rows], self.means[rows], self.present[rows])

    def gathered(self, shard: Shard) -> Pixels:
        """Pixels and means of the crops of all processes, of which `shard` are these."""
        present = shard.gathered(self.present.float()) > 0
        return Pixels(shard.gathered(self.anchors), shard.gathered(self.means), present)


@full_precision
def draw(
    vectors: Tensor,
    target: Tensor,
    classes: int,
    anchors: int,
    generator: Generator,
    background: bool,
    shard: Shard | None = None,
) -> Pixels:
    """Compute class means, and draw pixels of each class uniformly with replacement.

    Args:
        vectors: Vectors of all pixels, (N, C, ...) float.
        target: Labels, (N, ...) long in 0..classes - 1; other numbers are unlabelled and ignored.
        classes: Number of classes including the background.
        anchors: Pixels to draw per class and crop.
        generator: Source of the random draws.
        background: Whether to include the background.
        shard: Which rows of a whole batch these crops are, as draws are made for all of it; None for all.

    Returns:
        Drawn pixels and class means of N crops.
    """
    flat = vectors.float().flatten(2)  # (N, C, V)
    label = target.flatten(1).clamp(max=classes)  # unlabelled pixels become class `classes`, dropped below
    counts = torch.zeros(len(flat), classes + 1, dtype=torch.long, device=flat.device)
    counts = counts.scatter_add(1, label, torch.ones_like(label))
    sums = torch.zeros(*flat.shape[:2], classes + 1, device=flat.device)
    sums = sums.scatter_add(2, label[:, None].expand_as(flat), flat)
    means = (sums / counts[:, None].clamp(min=1)).transpose(1, 2)
    # Sorted by class, the pixels of a class are contiguous: a fraction of that range is a pixel.
    order = label.argsort(dim=1, stable=True)
    length, begin = counts[..., None], (counts.cumsum(1) - counts)[..., None]
    shard = shard or Shard.whole(len(flat))
    fraction = shard.of(torch.rand(shard.count, classes + 1, anchors, generator=generator)).to(flat.device)
    # A fraction close to 1 may round up into the next class; an absent class gets an arbitrary pixel.
    rank = begin + (fraction * length).long().minimum(length - 1).clamp(min=0)
    pixel = order.gather(1, rank.clamp(max=label.shape[1] - 1).flatten(1))
    anchor = flat.gather(2, pixel[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
    used = slice(0 if background else 1, classes)
    return Pixels(anchor.unflatten(1, rank.shape[1:])[:, used], means[:, used], counts[:, used] > 0)


@full_precision
def intra(pixels: Pixels, temperature: float) -> Tensor:
    """Contrast of pixels with the class means of the same crop: twice the mean over crops; a scalar."""
    loss = _cross_entropy(pixels.anchors, [pixels.means], pixels.present, temperature)
    return 2 * _mean_over_crops(loss, pixels.present)


@full_precision
def inter(first: Pixels, second: Pixels, temperature: float) -> Tensor:
    """Contrast of the pixels of pairs of crops with the class means of both; a scalar."""
    shared = first.present & second.present
    means = [first.means, second.means]
    loss = _cross_entropy(first.anchors, means, shared, temperature)
    loss = loss + _cross_entropy(second.anchors, means, shared, temperature)
    return _mean_over_crops(loss / 2, shared)


def _cross_entropy(anchors: Tensor, means: list[Tensor], present: Tensor, temperature: float) -> Tensor:
    """-log softmax of each drawn pixel at its class, summed over the sets of means: (N, F), mean over P.

    The softmax is over the means of all present classes in all sets.
    """
    unit = F.normalize(anchors, dim=-1, eps=1e-6)
    scores = torch.cat(
        [torch.einsum("nfpc,nkc->nfpk", unit, F.normalize(mean, dim=-1, eps=1e-6)) for mean in means], -1
    )
    allowed = present.repeat(1, len(means))[:, None, None]
    # Far below any score but finite: without any present class, -inf would give NaN gradients.
    log = scores.div(temperature).masked_fill(~allowed, -1e4).log_softmax(-1)
    positive = log.unflatten(-1, (len(means), -1)).diagonal(dim1=1, dim2=4)  # (N, P, sets, F)
    return -positive.sum(2).mean(1)


def _mean_over_crops(loss: Tensor, present: Tensor) -> Tensor:
    """Mean over present classes (N, F), then over crops or pairs with any; 0 if none has any."""
    count = present.sum(1)
    mean = torch.where(present, loss, 0.0).sum(1) / count.clamp(min=1)
    return mean.sum() / (count > 0).sum().clamp(min=1)
