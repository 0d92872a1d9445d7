"""SimCLR (Chen et al., arXiv 2002.05709): views of one position attract, views of other positions repel.

Two views of one scan go through encoder and projector; a view is one vector, projected from the average of
the deepest feature map. Every view must identify the other view of its pair among all others of the batch
(NT-Xent), with s the cosine and t the temperature, over 2B views z:

    L = - mean over i of log( exp(s(z_i, z_pair(i)) / t) / sum over j != i of exp(s(z_i, z_j) / t) )

Where we depart from the paper, and why:
- AdamW instead of LARS, temperature 0.5 and pairs that share half a side along every axis: the values of
  nnssl, whose batches are small too. The paper's batch is 4096, ours 8-32.
- Augmentation is PGL's, so that table rows differ in what is learned, not in the images.
- The projector is the paper's equation, without the batch norms of its code: in small batches they reveal
  which views belong together.
- No scan gives a second pair of a batch before every scan has given one: two crops of one scan may show the
  same tissue, a false negative. With fewer scans than pairs some negatives are of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.events import Emit
from medssl.core.jobs import Plan
from medssl.core.settings import Count, Positive, Range, Share
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.distributed import world
from medssl.nn.methods import Method
from medssl.nn.methods.common import (
    check_batch,
    check_positions,
    check_positive,
    cut_pair,
    feature_std,
    mlp,
    network_of,
    pooled,
    sample_view_pairs,
)
from medssl.nn.models.unet import Network
from medssl.nn.shards import shard


@dataclass(frozen=True)
class SimCLRSettings:
    """nnssl's values and the paper's projector."""

    zoom: Range = (1.1, 1.4)
    """Side of a view in patches, drawn for each view."""
    shared: Share = 0.5
    """Least fraction of a view's side that a pair shares along every axis."""
    temperature: Positive = 0.5
    """Temperature of the contrastive loss: smaller is stricter."""
    hidden: Count = 2048
    """Width of the hidden layer of projector and predictor."""
    dimension: Count = 128
    """Length of the vectors that the loss compares."""


class SimCLR(Method):
    """SimCLR pre-training: encoder, projector and the loss of a batch of pairs."""

    Settings = SimCLRSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: SimCLRSettings) -> None:
        check_positive(settings, "temperature")
        self.plan, self.settings = plan, settings
        projector = mlp(plan.channels[-1], settings.hidden, settings.dimension, norm=False)
        self.modules = nn.ModuleDict({"network": network, "projector": projector})

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Check that there are negatives.

        Raises:
            UserError: "small-batch" for a batch of one pair, "one-place" if the scans have one position only.
        """
        self._check_batch(self.plan.batch)
        check_positions(dataset, self.plan, self.settings.zoom[1], "SimCLR")

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent of a new batch of pairs, and the accuracy of `nt_xent`."""
        return self.compare(*self.views(dataset, generator))

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """Draw and cut a batch of pairs, with the published intensity augmentation drawn for each view."""
        settings = self.settings
        pair = sample_view_pairs(
            dataset, self.plan, generator, zoom=settings.zoom, shared=settings.shared, apart=True
        )
        return cut_pair(dataset, self.plan, pair, generator)

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut.

        Returns:
            Loss and scalars to log.

        Raises:
            UserError: "small-batch" if short memory has reduced the batch to one pair.
        """
        self._check_batch(len(first) * world())
        images = torch.cat([shown(first), shown(second)])
        projected = self.modules["projector"](pooled(network_of(self.modules).encode(images)[-1]))
        every = shard(self.plan.batch).pairs().gathered(projected)
        loss, accuracy = nt_xent(every, self.settings.temperature)
        return loss, {"feature_std": feature_std(projected), "top1_accuracy": accuracy}

    @staticmethod
    def _check_batch(batch: int) -> None:
        check_batch(batch, "SimCLR", "other pairs are its negatives", "moco")


@full_precision
def nt_xent(projected: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent (see the module's equation; eq. 1 of the paper).

    Args:
        projected: Projections (2B, C), normalised here; pairs are (i, B + i).
        temperature: Divides the cosines.

    Returns:
        Loss, and the fraction of the views that are closest to the other view of their pair, scalars.
    """
    count = len(projected)
    unit = F.normalize(projected.float(), dim=1, eps=1e-6)
    diagonal = torch.eye(count, dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(diagonal, -torch.inf)
    target = torch.arange(count, device=unit.device).roll(count // 2)
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()
