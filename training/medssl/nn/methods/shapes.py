"""Shapes: learn to separate regions on synthetic volumes, without any scan.

Two slices of one synthetic volume (shapes/) are drawn at different positions, angles and zooms; the second
slice's volume is deformed into another person's, and in a fraction of the pairs rendered with other
intensities. The prototypes of one slice's labels classify the pixels of the other, in both directions
(prototypes.py), on the finest decoder map and on an encoder level:

    L = prototype loss(finest) + level_weight * prototype loss(level)

Closest in the literature: anatomix (Dey et al., arXiv 2411.02372), which contrasts two renderings of one
label volume, and UniverSeg (Butoi et al., arXiv 2304.06131), which has the same task. Neither data nor
licences are needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.settings import Count, NotNegative, Positive, Range, Share
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods import Method
from medssl.nn.methods.common import network_of, update_ema
from medssl.nn.methods.prototypes import pair_losses, prototype_head
from medssl.nn.models.unet import Network
from medssl.nn.shapes.rendering import draw_appearance, mixed, render, same_scanner
from medssl.nn.shapes.views import draw_views
from medssl.nn.shapes.volumes import LABELS, draw, other_person, sample
from medssl.nn.shards import for_all, shard


@dataclass(frozen=True)
class ShapesSettings:
    """Sampling and comparison of pairs."""

    rendered_anew: Share = 0.4
    """Fraction of the pairs whose second slice has intensities of its own."""
    person: Share = 0.5
    """Strength of the variation between the two volumes, 0..1 (`other_person`)."""
    thickness_px: Range = (0.5, 5.0)
    """Range of the slice distance in pixels."""
    apart: float = 6.0
    """Largest distance between the two slices, in slices."""
    sizes: tuple[int, ...] = (48, 64, 96)
    """Sides of the views in pixels; each step draws one, and the number of volumes that gives the same number
    of pixels."""
    temperature: Positive = 0.1
    """Temperature of the contrastive loss: smaller is stricter."""
    level: Literal[-1, -2] = -2
    """Encoder level of the second term: the deepest or the one before."""
    level_weight: NotNegative = 0.5
    """Weight of the second term."""
    hidden: Count = 64
    """Width of the hidden layer of projector and predictor."""
    dimension: Count = 32
    """Length of the vectors that the loss compares."""
    stride: Count = 2
    """Every `stride`-th pixel of the finest map is compared, from a random first one: neighbours agree."""
    ema_decay: Share = 0.998
    """Momentum of the weights' moving average, from which other trainings start."""


class Shapes(Method):
    """Pre-training on synthetic volumes: network, its moving average, heads and the loss of a batch."""

    Settings = ShapesSettings
    TRANSFERS = ("encoder.", "decoder.")
    DECODER_DESCRIBES = True
    NEEDS_SCANS = False

    def __init__(self, network: Network, plan: Plan, settings: ShapesSettings) -> None:
        check_sizes(settings.sizes, network.total_stride[0])
        self.plan, self.settings = plan, settings
        self.modules = nn.ModuleDict(
            {
                "network": network,
                "average": copy.deepcopy(network).requires_grad_(False),
                "fine": prototype_head(plan.channels[0], settings.hidden, settings.dimension),
                "coarse": prototype_head(plan.channels[settings.level], settings.hidden, settings.dimension),
            }
        )

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch of pairs, and "right": the accuracy over pixels of the finest map."""
        images, labels = self.pairs(generator, dataset.device)
        own = shard(len(images) // 2).pairs()  # volumes are cheap: each process makes all of them
        images, labels = own.of(images), own.of(labels)
        settings = self.settings
        (fine, right), (coarse, right_coarse) = pair_losses(
            self.modules,
            images,
            labels,
            LABELS,
            generator,
            level=settings.level,
            stride=settings.stride,
            temperature=settings.temperature,
        )
        total = fine + settings.level_weight * coarse
        return total, {"fine": fine.detach(), "right": right, "right_coarse": right_coarse}

    @full_precision
    def pairs(self, generator: Generator, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Draw a batch of pairs (i, B + i) of new volumes.

        Returns:
            Images (2B, slices, side, side) float32 and the middle slices' labels (2B, side, side) int64 below
            LABELS. `side` is one of `settings.sizes`; 2B gives about the plan's number of pixels.
        """
        settings = self.settings
        side = settings.sizes[int(torch.randint(len(settings.sizes), (), generator=generator))]
        count = max(for_all(2), round(self.plan.batch * (self.plan.patch_vox[1] / side) ** 2 / 2))
        slices = self.plan.patch_vox[0]
        volumes = draw(count, side, generator, device)
        varied = other_person(volumes, generator, settings.person)
        thickness = torch.empty(count).uniform_(*settings.thickness_px, generator=generator)
        middle = (torch.rand(2, count, generator=generator) - 0.5) * settings.apart * thickness
        first, second = (
            draw_views(count, slices, side, thickness, middle[view], generator, device) for view in (0, 1)
        )
        labels = torch.cat([sample(volumes, first), sample(varied, second)])
        appearance = draw_appearance(count, generator, device)
        anew = torch.rand(count, generator=generator) < settings.rendered_anew
        other = mixed(same_scanner(appearance, generator), draw_appearance(count, generator, device), anew)
        images = torch.cat(
            [render(labels[:count], appearance, generator), render(labels[count:], other, generator)]
        )
        return images, labels[:, slices // 2].long()

    def after_step(self, fraction: float) -> None:
        """Update the moving average of the weights."""
        average, network = self.modules["average"], network_of(self.modules)
        update_ema(list(average.parameters()), list(network.parameters()), self.settings.ema_decay)


def check_sizes(sizes: Sequence[int], stride: int) -> None:
    """Check that views fit the network.

    Args:
        sizes: Sides of views in pixels.
        stride: Total stride of the network.

    Raises:
        UserError: "bad-job" if a side is not a multiple of the stride, or less than twice the stride.
    """
    for size in sizes:
        if size % stride or size < 2 * stride:
            raise UserError(
                f"A view of {size} pixels does not fit the network; set multiples of {stride} from "
                f"{2 * stride}, e.g. sizes=[{6 * stride}, {8 * stride}].",
                code="bad-job",
            )
    if not sizes:
        raise UserError(f"sizes is empty; set at least one, e.g. sizes=[{8 * stride}].", code="bad-job")
