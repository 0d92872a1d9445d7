"""BYOL, bootstrap your own latent (Grill et al., arXiv 2006.07733): the global counterpart of PGL.

Two views of one scan go through a student (encoder, projector, predictor) and its moving average, the teacher
(encoder, projector). A view is one vector, the average of the deepest feature map; the student's prediction
of one view must point in the direction of the teacher's projection of the other:

    L(1 -> 2) = mean over pairs of || p1/|p1| - z'2/|z'2| ||^2,     L = L(1 -> 2) + L(2 -> 1)

Where we depart from the paper, and why:
- AdamW instead of LARS, and a smaller projector in the quick recipe: batches of 8-32 instead of 4096.
- Views are PGL's, which are made for scans: no colour augmentation, and crops that overlap. The table rows of
  PGL and BYOL then differ in the alignment alone.
- Both views pass through the heads as one batch, so the batch norms see twice as many vectors.
- The teacher starts at a momentum of 0.99 as in PGL (0.996 in the paper): trainings are short.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.events import Emit
from medssl.core.jobs import Plan
from medssl.core.settings import Count, Range, Share
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.distributed import world
from medssl.nn.methods import Method
from medssl.nn.methods.common import (
    check_batch,
    cut_pair,
    feature_std,
    mlp,
    momentum,
    network_of,
    pooled,
    sample_view_pairs,
    teacher_forward,
    teacher_in,
    teacher_of,
    update_teacher,
)
from medssl.nn.models.unet import Network
from medssl.nn.shards import mean


@dataclass(frozen=True)
class BYOLSettings:
    """The paper's heads, PGL's views."""

    zoom: Range = (1.1, 1.4)
    """Side of a view in patches, drawn for each view."""
    min_overlap: Share = 0.1
    """Least intersection over union of a pair."""
    hidden: Count = 4096
    """Width of the hidden layer of projector and predictor."""
    dimension: Count = 256
    """Length of the vectors that the loss compares."""
    momentum: Share = 0.99
    """Initial momentum of the teacher; rises to 1 by a cosine schedule."""


class BYOL(Method):
    """BYOL pre-training: student, teacher and the loss of a batch of pairs."""

    Settings = BYOLSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: BYOLSettings) -> None:
        self.plan, self.settings = plan, settings
        projector = mlp(plan.channels[-1], settings.hidden, settings.dimension, norm=True)
        self.modules = nn.ModuleDict(
            {
                "network": network,
                "projector": projector,
                "predictor": mlp(settings.dimension, settings.hidden, settings.dimension, norm=True),
                "teacher": teacher_of(network, projector),
            }
        )

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Check the batch size.

        Raises:
            UserError: "small-batch" for a batch of one pair.
        """
        self._check_batch(self.plan.batch)

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric loss of a new batch of pairs; "feature_std" near 0 indicates a collapse."""
        return self.compare(*self.views(dataset, generator))

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """Draw and cut a batch of pairs, with the published intensity augmentation drawn for each view."""
        pair = sample_view_pairs(
            dataset, self.plan, generator, zoom=self.settings.zoom, min_overlap=self.settings.min_overlap
        )
        return cut_pair(dataset, self.plan, pair, generator)

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut, in 0..8.

        Returns:
            Loss and scalars to log.

        Raises:
            UserError: "small-batch" if short memory has reduced the batch to one pair.
        """
        self._check_batch(len(first) * world())
        images = torch.cat([shown(first), shown(second)])
        network, teacher = network_of(self.modules), teacher_in(self.modules)
        predicted = self.modules["predictor"](self.modules["projector"](pooled(network.encode(images)[-1])))
        with torch.no_grad():
            target = teacher["projector"](pooled(teacher_forward(teacher, images)[-1]))
        predicted_one, predicted_two = predicted.chunk(2)
        target_one, target_two = target.chunk(2)
        loss = disagreement(predicted_one, target_two) + disagreement(predicted_two, target_one)
        return loss, {"feature_std": feature_std(target)}

    def after_step(self, fraction: float) -> None:
        """Update the teacher."""
        update_teacher(self.modules, momentum(self.settings.momentum, fraction))

    @staticmethod
    def _check_batch(batch: int) -> None:
        check_batch(batch, "BYOL", "its heads have batch norms", "pgl")


@full_precision
def disagreement(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of unit vectors: one direction of the loss.

    Args:
        predicted: The student's predictions (B, C), normalised here.
        target: The teacher's projections (B, C), normalised here.

    Returns:
        Scalar in 0..4.
    """
    one, two = (F.normalize(vectors.float(), dim=1, eps=1e-6) for vectors in (predicted, target))
    return mean((one - two).square().sum(1))
