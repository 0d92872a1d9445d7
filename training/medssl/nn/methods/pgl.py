"""PGL, prior-guided local self-supervised learning (Xie et al., arXiv 2011.12640).

BYOL on every voxel: two boxes cut from one scan go through a student (encoder, projector, predictor) and
its moving average, the teacher (encoder, projector). Where the boxes overlap is known, so both feature
maps are brought onto one grid over the overlap, and must point the same way there:

    L(1 -> 2) = mean over u of || p1(u)/|p1(u)| - z'2(u)/|z'2(u)| ||^2,     L = L(1 -> 2) + L(2 -> 1)

Where we depart from the paper, and why:
- AdamW instead of LARS, and a smaller projector in the quick recipe: batches of 8-16 instead of 128.
- Alignment samples at cell centres (RoIAlign) where the paper cuts whole cells: with six cells along an
  axis that would be off by up to 16 voxels.
- 2.5D: boxes lie on the same slice and are flipped in the plane and across slices. In 3D they may differ
  across slices, too, wherever the scan is deeper than the patch, except across thick slices.
- Boxes are sized to the scans: where 1.4 patches do not fit into a scan, the patch is made smaller.
- No augmentation where the paper has none: no turning, no bending.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.events import Emit
from medssl.core.jobs import Plan
from medssl.nn.data.correspondence import align
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.common import (
    Head,
    cut_pair,
    feature_std,
    momentum,
    move_teacher,
    network_of,
    place_pairs,
    teacher_forward,
    teacher_in,
    teacher_of,
)
from medssl.nn.models.unet import Network


@dataclass(frozen=True)
class PGLSettings:
    """The paper's numbers, as far as they are known."""

    zoom: tuple[float, float] = (1.1, 1.4)
    """Side of a box in patches, drawn for each box."""
    min_overlap: float = 0.1
    """Least intersection over union of a pair."""
    level: Literal[-1, -2] = -1
    """Encoder level whose features are aligned: the deepest (published) or the one before."""
    hidden: int = 4096
    dimension: int = 256
    momentum: float = 0.99
    """The teacher's at the start; rises to 1 as a cosine (BYOL)."""


class PGL:
    """Student, teacher and what a step makes of a pair of views."""

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

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Nothing to prepare: pairs can be cut from any scan."""

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric local loss of a new batch of pairs; "feature_std" near 1 is healthy, near 0
        collapsed."""
        return self.compare(*self.views(dataset, generator))

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut; all that follows from them."""
        # Both views in one batch: half the calls, and the batch norms of the heads see both.
        images = torch.cat([shown(first), shown(second)])
        return self.agreement(self._encode(images), images, first, second)

    def agreement(
        self, features: Tensor, images: Tensor, first: CropBatch, second: CropBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss between the student's features of both views and what the teacher sees in `images`.

        features: (2B, C, ...) of the settings' level, images: (2B, ...), the first views before the second.
        """
        predicted = self.modules["predictor"](self.modules["projector"](features))
        teacher = teacher_in(self.modules)
        with torch.no_grad():
            wanted = teacher["projector"](teacher_forward(teacher, images)[self.settings.level])
        predicted_one, predicted_two = predicted.float().chunk(2)
        wanted_one, wanted_two = wanted.float().chunk(2)
        cells = tuple(predicted.shape[2:]) if self.plan.dims == 3 else (1, *predicted.shape[2:])
        loss = local_consistency(predicted_one, first, wanted_two, second, cells)
        loss = loss + local_consistency(predicted_two, second, wanted_one, first, cells)
        return loss, {"feature_std": feature_std(wanted)}

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """A batch of pairs, cut and with the published grey-value changes, each view by itself."""
        return cut_pair(dataset, self.plan, self.pair(dataset, generator), generator)

    def pair(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """Where the next batch of pairs lies; what is shared spans a feature cell at least."""
        settings = self.settings
        return place_pairs(
            dataset,
            self.plan,
            generator,
            zoom=settings.zoom,
            min_overlap=settings.min_overlap,
            level=settings.level,
        )

    def after_step(self, fraction: float) -> None:
        """Move the teacher a little towards the student."""
        move_teacher(self.modules, momentum(self.settings.momentum, fraction))

    def _encode(self, images: Tensor) -> Tensor:
        return network_of(self.modules).encode(images)[self.settings.level]


def local_consistency(
    predicted: Tensor, views: CropBatch, wanted: Tensor, other_views: CropBatch, cells: tuple[int, ...]
) -> Tensor:
    """Mean squared distance of unit vectors over the overlap, in 0..4 (one direction of the loss).

    predicted, wanted: (B, C, ...) feature maps of `views` and `other_views`; `cells` (3,) is the common
    grid. Vectors are normalised after alignment: between unit vectors lies none. Pairs without overlap
    count 0 and give no gradient.
    """
    one, two, valid = align(predicted, views, wanted, other_views, cells)
    one, two = F.normalize(one, dim=1, eps=1e-6), F.normalize(two, dim=1, eps=1e-6)
    distance = (one - two).square().sum(1).flatten(1).mean(1)
    return torch.where(valid, distance, 0.0).sum() / valid.sum().clamp(min=1)
