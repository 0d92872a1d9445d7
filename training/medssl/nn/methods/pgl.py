"""PGL, prior-guided local self-supervised learning (Xie et al., arXiv 2011.12640).

BYOL on every cell: two views of one scan go through a student (encoder, projector, predictor) and its moving
average, the teacher (encoder, projector). Both feature maps are resampled to a common grid over the known
overlap of the views, where their vectors must point in the same direction:

    L(1 -> 2) = mean over u of || p1(u)/|p1(u)| - z'2(u)/|z'2(u)| ||^2,     L = L(1 -> 2) + L(2 -> 1)

Where we depart from the paper, and why:
- AdamW instead of LARS, and a smaller projector in the quick recipe: batches of 8-16 instead of 128.
- Alignment samples at cell centres (RoIAlign) where the paper crops whole cells: with six cells along an
  axis that would be off by up to 16 voxels.
- 2.5D: views lie on the same slice and are flipped in the plane and across slices. In 3D they may also lie at
  different slices, where the scan is deeper than the patch, except across thick slices.
- The least overlap is intersection over union of the views' volumes, and a feature cell along every axis. The
  paper's tenth is read as one of areas in the plane, at the same slices; 2.5D asks for exactly that.
- Intensities are the project's own (asinh of Hounsfield units, standardised MR), not clipped to -1024..325.
- The encoder is that of our U-Net, with residual blocks.
- Views are sized to the scans: where 1.4 patches do not fit into a scan, the patch is smaller.
- No augmentation that the paper does not have: no rotation, no deformation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.core.settings import Count, Range, Share
from medssl.nn.data.correspondence import align
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import Method
from medssl.nn.methods.common import (
    Head,
    cut_pair,
    feature_std,
    momentum,
    network_of,
    sample_view_pairs,
    teacher_forward,
    teacher_in,
    teacher_of,
    update_teacher,
)
from medssl.nn.models.unet import Network
from medssl.nn.shards import ratio


@dataclass(frozen=True)
class PGLSettings:
    """The paper's values, as far as they are known."""

    zoom: Range = (1.1, 1.4)
    """Side of a view in patches, drawn for each view."""
    min_overlap: Share = 0.1
    """Least intersection over union of a pair."""
    level: Literal[-1, -2] = -1
    """Encoder level whose features are aligned: the deepest (published) or the one before."""
    hidden: Count = 4096
    """Width of the hidden layer of projector and predictor."""
    dimension: Count = 256
    """Length of the vectors that the loss compares."""
    momentum: Share = 0.99
    """Initial momentum of the teacher; rises to 1 by a cosine schedule (BYOL)."""


class PGL(Method):
    """PGL pre-training: student, teacher and the loss of a batch of pairs."""

    Settings = PGLSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: PGLSettings) -> None:
        self.plan, self.settings = plan, settings
        width = plan.channels[settings.level]
        projector = Head(plan.dims, width, settings.hidden, settings.dimension)
        predictor = Head(plan.dims, settings.dimension, settings.hidden, settings.dimension)
        self.modules = nn.ModuleDict(
            {
                "network": network,
                "projector": projector,
                "predictor": predictor,
                "teacher": teacher_of(network, projector),
            }
        )

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric loss of a new batch of pairs; "feature_std" near 0 indicates a collapse."""
        return self.compare(*self.views(dataset, generator))

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut.

        Returns:
            Loss and scalars to log.
        """
        # Both views as one batch: half the calls, and the heads' batch norms see both.
        images = torch.cat([shown(first), shown(second)])
        return self.agreement(self._encode(images), images, first, second)

    def agreement(
        self, features: Tensor, images: Tensor, first: CropBatch, second: CropBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss between the student's features and the teacher's; the first views before the second.

        Args:
            features: The student's feature maps at the settings' level (2B, C, ...).
            images: Input of the teacher (2B, C, ...).
            first: B views.
            second: B views, overlapping those of `first` one by one.

        Returns:
            Loss and scalars to log.
        """
        predicted = self.modules["predictor"](self.modules["projector"](features))
        teacher = teacher_in(self.modules)
        with torch.no_grad():
            target = teacher["projector"](teacher_forward(teacher, images)[self.settings.level])
        predicted_one, predicted_two = predicted.float().chunk(2)
        target_one, target_two = target.float().chunk(2)
        cells = tuple(predicted.shape[2:]) if self.plan.dims == 3 else (1, *predicted.shape[2:])
        loss = local_consistency(predicted_one, first, target_two, second, cells)
        loss = loss + local_consistency(predicted_two, second, target_one, first, cells)
        return loss, {"feature_std": feature_std(target)}

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """Draw and cut a batch of pairs, with the published intensity augmentation drawn for each view."""
        return cut_pair(dataset, self.plan, self.pair(dataset, generator), generator)

    def pair(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """Draw a batch of pairs, not cut yet, that share at least one cell along every axis."""
        settings = self.settings
        return sample_view_pairs(
            dataset,
            self.plan,
            generator,
            zoom=settings.zoom,
            min_overlap=settings.min_overlap,
            level=settings.level,
        )

    def after_step(self, fraction: float) -> None:
        """Update the teacher."""
        update_teacher(self.modules, momentum(self.settings.momentum, fraction))

    def _encode(self, images: Tensor) -> Tensor:
        return network_of(self.modules).encode(images)[self.settings.level]


def local_consistency(
    predicted: Tensor, views: CropBatch, target: Tensor, target_views: CropBatch, cells: tuple[int, ...]
) -> Tensor:
    """Mean squared distance of unit vectors over the overlap: one direction of the loss.

    Vectors are normalised after alignment, as interpolated unit vectors are shorter than 1.

    Args:
        predicted: The student's feature maps (B, C, ...).
        views: B views of the student.
        target: The teacher's feature maps (B, C, ...).
        target_views: B views of the teacher.
        cells: Size (3,) of the common grid; its first number is 1 in 2.5D.

    Returns:
        Scalar in 0..4; pairs without overlap are left out.
    """
    one, two, valid = align(predicted, views, target, target_views, cells)
    one, two = F.normalize(one, dim=1, eps=1e-6), F.normalize(two, dim=1, eps=1e-6)
    distance = (one - two).square().sum(1).flatten(1).mean(1)
    return ratio(torch.where(valid, distance, 0.0).sum(), valid.sum())
