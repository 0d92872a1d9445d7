"""MAE + PGL: reconstruct masked blocks, and match the features of an unmasked teacher ("aligned MAE").

The strongest combination on convolutional networks in the SSL3D challenge of 2025 (LatentCampus, MAE + CVA).
The student sees two overlapping views with most blocks masked. It reconstructs them, and its features must
match those of its moving average (teacher), which sees both views unmasked:

    L = reconstruction * Huber(masked voxels) + consistency * PGL's local consistency over the overlap

Where we depart from the released code, and why:
- Views are aligned by PGL's module through their affines, which include flips and scales; the released code
  draws its crops after all geometric augmentation instead, and confuses two axes.
- One encoder level is aligned (PGL's) instead of all levels pooled together: a quarter of the memory.
- The consistency is a cosine. The released flags choose Gram matrices; the published table says cosine.
- The smaller third term, a contrast of whole views, is left out: with batches of a dozen views from similar
  scans its negatives show the same anatomy.
- Views, heads and momentum are PGL's: an overlap of at least a tenth (0.4 to 0.8 there), two layers with a
  norm between them (three there), and a momentum that rises from 0.995 to 1 (constant there).
- Masked voxels become the mean of the visible ones, as in our MAE.
- Training starts from random weights instead of those of a finished MAE: one training, not two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.events import Emit
from medssl.core.jobs import Plan
from medssl.core.settings import Count, NotNegative, Range, Share
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import Method, pgl
from medssl.nn.methods.common import network_of
from medssl.nn.methods.mae import draw_mask, masked
from medssl.nn.models.unet import Network
from medssl.nn.shards import ratio, shard


@dataclass(frozen=True)
class MAEPGLSettings:
    """Weights of the terms and masking as released; views and heads as in PGL."""

    reconstruction: NotNegative = 5.0
    """Weight of the reconstruction."""
    consistency: NotNegative = 1.0
    """Weight of the consistency; 0 is an MAE on PGL's views."""
    ratio: Share = 0.75
    """Fraction of the blocks that is masked."""
    block: Count = 16
    """Side of a block in working voxels."""
    zoom: Range = (1.1, 1.4)
    """Side of a box in patches, drawn for each box."""
    min_overlap: Share = 0.1
    """Least intersection over union of a pair."""
    level: Literal[-1, -2] = -1
    """Encoder level whose features are aligned: the deepest or the one before."""
    hidden: Count = 2048
    """Width of the hidden layer of projector and predictor."""
    dimension: Count = 2048
    """Length of the vectors that the loss compares."""
    momentum: Share = 0.995
    """The teacher's at the start; rises to 1 as a cosine."""

    def of_pgl(self) -> pgl.PGLSettings:
        """The settings of PGL."""
        return pgl.PGLSettings(
            self.zoom, self.min_overlap, self.level, self.hidden, self.dimension, self.momentum
        )


class MAEPGL(Method):
    """PGL's student and teacher; the student's decoder also reconstructs the masked blocks."""

    Settings = MAEPGLSettings
    TRANSFERS = ("encoder.", "decoder.")

    def __init__(self, network: Network, plan: Plan, settings: MAEPGLSettings) -> None:
        self.settings = settings
        self.pgl = pgl.PGL(network, plan, settings.of_pgl())
        self.modules = self.pgl.modules

    @property
    def plan(self) -> Plan:
        """The plan, shared with PGL."""
        return self.pgl.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.pgl.plan = plan

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Prepare PGL."""
        self.pgl.prepare(dataset, emit)

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch of pairs; both terms are logged too."""
        first, second = self.pgl.views(dataset, generator)
        size = tuple(shown(first).shape[2:])
        own = shard(self.plan.batch).pairs()
        visible = own.of(draw_mask(own.count, size, self.settings.block, self.settings.ratio, generator))
        return self.compare(first, second, visible.to(dataset.device)[:, None])

    def compare(
        self, first: CropBatch, second: CropBatch, visible: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut.

        Args:
            first: B views.
            second: B views, overlapping those of `first` one by one.
            visible: Masks of the first, then of the second views (2B, 1, ...), 0 where masked.

        Returns:
            Loss and scalars to log.
        """
        images = torch.cat([shown(first), shown(second)])
        network = network_of(self.modules)
        levels = network.encode(masked(images, visible))
        reconstructed = network.head(network.decode(levels))
        reconstruction = masked_huber(reconstructed.float(), images, visible)
        consistency, numbers = self.pgl.agreement(levels[self.settings.level], images, first, second)
        loss = self.settings.reconstruction * reconstruction + self.settings.consistency * consistency
        return loss, {
            **numbers,
            "reconstruction": reconstruction.detach(),
            "consistency": consistency.detach(),
        }

    def after_step(self, fraction: float) -> None:
        """Update the teacher."""
        self.pgl.after_step(fraction)


def masked_huber(predicted: Tensor, image: Tensor, visible: Tensor) -> Tensor:
    """Mean Huber loss (delta 1) over masked voxels.

    Args:
        predicted: Reconstructions (B, C, ...).
        image: Original images (B, C, ...).
        visible: Masks, 0 where masked, that broadcast over the images, such as (B, 1, ...).

    Returns:
        Scalar; 0 if nothing is masked.
    """
    hidden = (1 - visible).expand_as(image)
    distance = F.huber_loss(predicted, image, reduction="none")
    return ratio((hidden * distance).sum(), hidden.sum())
