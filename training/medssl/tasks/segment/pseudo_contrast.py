"""Local contrast with pseudo-labels while fine-tuning (Chaitanya et al., arXiv 2112.09645; MedIA 87, 2023).

The network labels what nobody painted (pseudo_labels.py). Those guesses never enter the segmentation loss;
they only shape the features. A small head on the finest decoder map gives every pixel a vector h. Pixels of
a class are pulled to the mean vector of their class, m_c, and away from those of the others. Between a pixel
p of class c in patch x and a set M of class means

    l(p, c; M) = -log( exp(cos(h_p, m_c) / tau) / sum over m in M of exp(cos(h_p, m) / tau) )

intra:  M are the means of x itself,             L = mean over pairs, classes, pixels of  l(p) + l(p')
inter:  M are the means of x and of another x',  L = mean of  (l(p, c) + l(p, c') + l(p', c') + l(p', c)) / 2

    total = loss on true labels + contrast_weight * L

The class itself is in M (so l >= 0: a softmax over class means). With F classes and all features equal, intra
is 2 log F and inter 2 log 2F; with perfect features intra goes to 0, inter never below 2 log 2, because two
equal means of one class share the mass.

Where we depart from the paper, and why:
- Patches of the segmentation loss take part as they are, and as many around guesses; pairs are drawn from
  all of them, painted with painted, painted with guessed, guessed with guessed. The paper cuts new slices
  and changes their grey values only; here patches are also turned and bent, but their labels with them.
- Intra looks at every patch once. The paper looks twice, but its loss never compares the two looks, so one
  look at twice as many patches has the same expectation.
- Classes that both patches of a pair show, instead of only slices that show every class: of many organs
  there are none. Pairs that share no class count nothing.
- Background is left out as in the released code, except where one class was painted: the contrast would be
  constant (and the released loop would skip every step).
- No CRF. The prediction that guesses are made of is blended across slices; guesses of little probability can
  be left out (`confidence_threshold`), and islands with `clean_up = "largest"`. What is left out is
  unknown, not background.
- One training instead of four: the moving average labels in rounds, and weights go on from where they are.
  There is no validation scan to choose a best checkpoint by, and the segmentation head is not made anew.
- AdamW. Cross-entropy beside Dice, as in all our fine-tuning. Any number of dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.nn.devices import full_precision
from medssl.tasks.segment import pseudo_labels
from medssl.tasks.segment.annotated_crops import StepBatch


@dataclass(frozen=True)
class Settings(pseudo_labels.Settings):
    """The released numbers; how guesses are made stands in pseudo_labels.py."""

    contrast_weight: float = 0.1
    """Weight of the contrast (lambda); the loss on true labels has 1."""
    temperature: float = 0.1
    anchors: int = 3
    """Pixels drawn of every class of every patch."""
    mode: Literal["inter", "intra"] = "inter"
    """Class means of both patches of a pair, or of each patch by itself."""
    background: bool | None = None
    """Whether the background is a class too; None: only where one class was painted."""
    detach: bool = False
    """Whether class means are held still, so that only the drawn pixels move."""
    hidden: int = 16
    dimension: int = 16


class PseudoContrast(nn.Module):
    """The contrast as a term of fine-tuning, with a head of its own.

    Targets hold `classes` numbers, the background's 0 among them; `painted` of the others have painted
    voxels. Raises UserError ("one-class") where there would be nothing to contrast.
    """

    def __init__(self, plan: Plan, settings: Settings, classes: int, painted: int) -> None:
        super().__init__()
        if painted < 2 and settings.background is False:
            raise UserError(
                "Only one class is painted, and without the background there is nothing to contrast it with; "
                "leave out background=false or paint another class.",
                code="one-class",
            )
        self.settings, self.weight, self.classes = settings, settings.contrast_weight, classes
        self.background = painted < 2 if settings.background is None else settings.background
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if plan.dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.head = nn.Sequential(
            convolution(plan.channels[0], settings.hidden, 1, bias=False),
            norm(settings.hidden),
            nn.ReLU(inplace=True),
            convolution(settings.hidden, settings.dimension, 1, bias=False),
        )

    def forward(self, batch: StepBatch, generator: Generator) -> Tensor:
        """The contrast over this step's patches, painted and guessed alike."""
        settings = self.settings
        vectors = self.head(batch.features)
        pixels = draw(vectors, batch.target, self.classes, settings.anchors, generator, self.background)
        if settings.detach:
            pixels = Pixels(pixels.anchors, pixels.means.detach(), pixels.present)
        if settings.mode == "intra":
            return intra(pixels, settings.temperature)
        order = torch.randperm(len(batch.target), generator=generator).to(batch.target.device)
        one, two = order.chunk(2)
        return inter(pixels.of(one[: len(two)]), pixels.of(two), settings.temperature)


@dataclass(frozen=True)
class Pixels:
    """What the contrast knows of N patches and F classes."""

    anchors: Tensor
    """(N, F, P, C) vectors of drawn pixels; of any pixel where the class is absent."""
    means: Tensor
    """(N, F, C) mean vector over all pixels of a class; 0 where it is absent."""
    present: Tensor
    """(N, F) bool."""

    def of(self, rows: Tensor) -> Pixels:
        """Those of some of the patches."""
        return Pixels(self.anchors[rows], self.means[rows], self.present[rows])


@full_precision
def draw(
    vectors: Tensor, target: Tensor, classes: int, anchors: int, generator: Generator, background: bool
) -> Pixels:
    """Class means, and `anchors` pixels of every class, drawn evenly and with replacement.

    vectors: (N, C, ...); target: (N, ...) long in 0..classes - 1, other numbers are unknown and left out.
    """
    flat = vectors.float().flatten(2)  # (N, C, V)
    label = target.flatten(1).clamp(max=classes)  # unknown pixels get a number of their own, dropped below
    counts = torch.zeros(len(flat), classes + 1, dtype=torch.long, device=flat.device)
    counts = counts.scatter_add(1, label, torch.ones_like(label))
    sums = torch.zeros(*flat.shape[:2], classes + 1, device=flat.device)
    sums = sums.scatter_add(2, label[:, None].expand_as(flat), flat)
    means = (sums / counts[:, None].clamp(min=1)).transpose(1, 2)
    # Sorted by class, the pixels of a class lie in one stretch: a share of the stretch is a pixel.
    order = label.argsort(dim=1, stable=True)
    length, begin = counts[..., None], (counts.cumsum(1) - counts)[..., None]
    share = torch.rand(len(flat), classes + 1, anchors, generator=generator).to(flat.device)
    # A share of nearly 1 may be rounded up to the next class; an absent class gets any pixel.
    place = begin + (share * length).long().minimum(length - 1).clamp(min=0)
    pixel = order.gather(1, place.clamp(max=label.shape[1] - 1).flatten(1))
    anchor = flat.gather(2, pixel[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
    kept = slice(0 if background else 1, classes)
    return Pixels(anchor.unflatten(1, place.shape[1:])[:, kept], means[:, kept], counts[:, kept] > 0)


@full_precision
def intra(pixels: Pixels, temperature: float) -> Tensor:
    """Pixels against the class means of their own patch; twice the mean over patches, as a pair has two."""
    loss = _cross_entropy(pixels.anchors, [pixels.means], pixels.present, temperature)
    return 2 * _over_patches(loss, pixels.present)


@full_precision
def inter(one: Pixels, two: Pixels, temperature: float) -> Tensor:
    """Pixels of both patches of a pair against the class means of both, over the classes that both show."""
    shared = one.present & two.present
    loss = _cross_entropy(one.anchors, [one.means, two.means], shared, temperature)
    loss = loss + _cross_entropy(two.anchors, [one.means, two.means], shared, temperature)
    return _over_patches(loss / 2, shared)


def _cross_entropy(anchors: Tensor, means: list[Tensor], present: Tensor, temperature: float) -> Tensor:
    """-log softmax of every drawn pixel at its class, summed over the sets of means: (N, F), mean over P.

    The softmax goes over all means of present classes in all sets.
    """
    unit = F.normalize(anchors, dim=-1, eps=1e-6)
    scores = torch.cat(
        [torch.einsum("nfpc,nkc->nfpk", unit, F.normalize(each, dim=-1, eps=1e-6)) for each in means], -1
    )
    allowed = present.repeat(1, len(means))[:, None, None]
    # Far below any score but finite: where no class is present, -inf would give gradients that are none.
    log = scores.div(temperature).masked_fill(~allowed, -1e4).log_softmax(-1)
    own = log.unflatten(-1, (len(means), -1)).diagonal(dim1=1, dim2=4)  # (N, P, sets, F)
    return -own.sum(2).mean(1)


def _over_patches(loss: Tensor, present: Tensor) -> Tensor:
    """Mean over present classes (N, F), then over the patches or pairs that have any; 0 where none has."""
    count = present.sum(1)
    each = torch.where(present, loss, 0.0).sum(1) / count.clamp(min=1)
    return each.sum() / (count > 0).sum().clamp(min=1)
