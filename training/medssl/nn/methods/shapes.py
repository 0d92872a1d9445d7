"""Shapes: learn to tell regions apart on made-up volumes, before any scan is seen.

Two slices of one made-up volume (shapes/) are drawn: other position, angle and zoom, the volume of the second
deformed into another person, and in some of the pairs rendered anew with other grey values. Prototypes of the
labels of one classify the pixels of the other, both ways (prototypes.py), on the finest decoder map and on
an encoder level:

    L = prototype loss(finest) + level_weight * prototype loss(level)

Nearest in the literature: anatomix (Dey et al., arXiv 2411.02372), which contrasts two renderings of one
label volume, and UniverSeg (Butoi et al., arXiv 2304.06131), whose task is ours. Neither data nor licences
are needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.events import Emit
from medssl.core.jobs import Plan
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods.common import network_of, update_ema
from medssl.nn.methods.prototypes import pair_losses, prototype_head
from medssl.nn.models.unet import Network
from medssl.nn.shapes.rendering import draw_appearance, mixed, render, same_scanner
from medssl.nn.shapes.views import draw_views
from medssl.nn.shapes.volumes import LABELS, draw, other_person, sample


@dataclass(frozen=True)
class ShapesSettings:
    """How pairs are made and compared."""

    rendered_anew: float = 0.4
    """Share of the pairs whose second slice has grey values of its own."""
    person: float = 0.5
    """How much of the second volume is another person's, 0..1."""
    thickness_px: tuple[float, float] = (0.5, 5.0)
    """Distance of neighbouring slices in pixels of the slice."""
    apart: float = 6.0
    """Largest distance of the two slices, in slices."""
    sizes: tuple[int, ...] = (48, 64, 96)
    """Sides of the views; one is drawn a step, with as many volumes as give the same number of pixels."""
    temperature: float = 0.1
    level: Literal[-1, -2] = -2
    """Encoder level of the second term: the deepest or the one before."""
    level_weight: float = 0.5
    hidden: int = 64
    dimension: int = 32
    stride: int = 2
    """Every so many pixels, from a random first one, are compared on the finest map: neighbours agree."""
    ema_decay: float = 0.998
    """Momentum of the moving average of the weights; the average is what others start from."""


class Shapes:
    """Network, heads and what a step makes of new volumes."""

    Settings = ShapesSettings
    TRANSFERS = ("encoder.", "decoder.")
    DECODER_DESCRIBES = True

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

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Nothing to prepare: volumes are made as they are needed."""

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch of pairs; "right" is the share of pixels whose label is recognised."""
        images, labels = self.pairs(generator, dataset.device)
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
        """First and second views of new volumes; pairs are (i, B + i).

        Returns images (2B, slices, side, side) and the middle slices' labels (2B, side, side) below LABELS;
        side is one of `settings.sizes`, 2B as many as give the plan's number of pixels.
        """
        settings = self.settings
        side = settings.sizes[int(torch.randint(len(settings.sizes), (), generator=generator))]
        count = max(2, round(self.plan.batch * (self.plan.patch_vox[1] / side) ** 2 / 2))
        slices = self.plan.patch_vox[0]
        volumes = draw(count, side, generator, device)
        others = other_person(volumes, generator, settings.person)
        thickness = torch.empty(count).uniform_(*settings.thickness_px, generator=generator)
        middle = (torch.rand(2, count, generator=generator) - 0.5) * settings.apart * thickness
        first, second = (
            draw_views(count, slices, side, thickness, middle[which], generator, device) for which in (0, 1)
        )
        labels = torch.cat([sample(volumes, first), sample(others, second)])
        look = draw_appearance(count, generator, device)
        anew = torch.rand(count, generator=generator) < settings.rendered_anew
        other_look = mixed(same_scanner(look, generator), draw_appearance(count, generator, device), anew)
        images = torch.cat(
            [render(labels[:count], look, generator), render(labels[count:], other_look, generator)]
        )
        return images, labels[:, slices // 2].long()

    def after_step(self, fraction: float) -> None:
        """The moving average follows."""
        average, network = self.modules["average"], network_of(self.modules)
        update_ema(list(average.parameters()), list(network.parameters()), self.settings.ema_decay)


def check_sizes(sizes: Sequence[int], stride: int) -> None:
    """Raises UserError ("bad-job") where a view of that side could not go through the network."""
    for size in sizes:
        if size % stride or size < 2 * stride:
            raise UserError(
                f"A view's side of {size} does not fit the network; write multiples of {stride} from "
                f"{2 * stride} on, e.g. sizes=[{6 * stride}, {8 * stride}].",
                code="bad-job",
            )
    if not sizes:
        raise UserError(f"sizes is empty; write at least one, e.g. [{8 * stride}].", code="bad-job")
