"""SimCLR (Chen et al., arXiv 2002.05709): two views of one place are alike, views of other places are not.

Two boxes cut from one scan go through encoder and projector; each view is one vector, projected from the
average over the deepest feature map. Every view must find its partner among all others of the batch
(NT-Xent), with s the cosine and t the temperature, over 2B views z:

    L = - mean over i of log( exp(s(z_i, z_partner(i)) / t) / sum over j != i of exp(s(z_i, z_j) / t) )

Where we depart from the paper, and why:
- AdamW instead of LARS, temperature 0.5 and pairs that share half a side along every axis: the numbers of
  nnssl, whose batches are small too. The paper's batch is 4096, ours 8-32.
- Grey values and flips change as for PGL: rows of a table differ in what is learned, not in the pictures.
- The projector is the paper's equation, without the batch norms of its code: those tell which views came
  together where batches are small.
- No scan gives a second pair of a batch before every scan has given one: two boxes of one scan may show the
  same tissue, which must not be told apart. With fewer scans than pairs some negatives are of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.events import Emit
from medssl.core.jobs import Plan
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods.common import (
    cut_pair,
    feature_std,
    mlp,
    need_pairs,
    need_places,
    need_positive,
    network_of,
    place_pairs,
    pooled,
)
from medssl.nn.models.unet import Network


@dataclass(frozen=True)
class SimCLRSettings:
    """nnssl's numbers and the paper's projector."""

    zoom: tuple[float, float] = (1.1, 1.4)
    """Side of a box in patches, drawn for each box."""
    shared: float = 0.5
    """Least share of a box's side that its partner sees too, along every axis."""
    temperature: float = 0.5
    hidden: int = 2048
    dimension: int = 128


class SimCLR:
    """Encoder, projector and what a step makes of a batch of pairs."""

    Settings = SimCLRSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: SimCLRSettings) -> None:
        need_positive(settings, "temperature")
        self.plan, self.settings = plan, settings
        projector = mlp(plan.channels[-1], settings.hidden, settings.dimension, norm=False)
        self.modules = nn.ModuleDict({"network": network, "projector": projector})

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Nothing to prepare.

        Raises UserError where there is nothing to tell views from: "small-batch", "one-place".
        """
        self._need_pairs(self.plan.batch)
        need_places(dataset, self.plan, self.settings.zoom[1], "SimCLR")

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent of a new batch of pairs; "top1_accuracy" is the share of views whose partner is the most
        alike."""
        return self.compare(*self.views(dataset, generator))

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """A batch of pairs, cut and with the published grey-value changes, each view by itself."""
        settings = self.settings
        pair = place_pairs(
            dataset, self.plan, generator, zoom=settings.zoom, shared=settings.shared, apart=True
        )
        return cut_pair(dataset, self.plan, pair, generator)

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut.

        Raises UserError ("small-batch") where short memory has left one pair.
        """
        self._need_pairs(len(first))
        images = torch.cat([shown(first), shown(second)])
        projected = self.modules["projector"](pooled(network_of(self.modules).encode(images)[-1]))
        loss, found = nt_xent(projected, self.settings.temperature)
        return loss, {"feature_std": feature_std(projected), "top1_accuracy": found}

    def after_step(self, fraction: float) -> None:
        """Nothing follows a step."""

    @staticmethod
    def _need_pairs(batch: int) -> None:
        need_pairs(batch, "SimCLR", "it tells each pair from the others", "moco")


@full_precision
def nt_xent(projected: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent of (2B, C) vectors, view i + B the partner of view i, and the share that is nearest to it."""
    count = len(projected)
    unit = F.normalize(projected.float(), dim=1, eps=1e-6)
    itself = torch.eye(count, dtype=torch.bool, device=unit.device)
    scores = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(count, device=unit.device).roll(count // 2)
    return F.cross_entropy(scores, partner), (scores.argmax(1) == partner).float().mean()
