"""SAL, self-supervised alignment learning (Li, Ouyang and Wan, arXiv 2406.15699).

Two nearby slices i and j of one scan show nearly the same anatomy, so each cell of the one has a partner in
the other. Local alignment (LA) finds it by unit features x of a linear embedding, and pulls it close:

    L(i -> j) = mean over cells p of | 1 - max over cells q of x_i(p) . x_j(q) |,  L = mean of both ways

The windowed variant (WLA) looks for q only in the window of w x w cells that p lies in. A second loss orders
whole slices by their places in the scans: PCL's contrast (Zeng et al., MICCAI 2021), or a regression. No code
for the paper was found; the second loss's formula and most numbers are not known.

Where we depart from the paper or decide what it leaves open, and why:
- The network sees neighbouring slices as channels, so i and j closer than this context share input, and could
  be aligned by reading just that. They are drawn far enough apart to share none where `d_max_mm` and the scan
  leave room, and their grey values change independently. `--set context=1` is the paper's plain 2D.
- How near is near is said in mm, not in slices; in a thick scan it is the next slice.
- Both slices show one box, mirrored and turned alike: windows need registered maps.
- The deepest level of the planner's networks has stride 8, not 16.
- The embedding has no bias: one direction common to all cells is the cheapest way to agree about nothing.
- LA is lowest where all cells of a slice agree, and the second loss does not forbid it. The embedding goes
  there within some twenty steps; the curve "within_slice_std" shows it. `uniformity_weight`, not published,
  works against it.
- Positions are (k + 1/2) / N where PCL has (k + 1) / N: in mm, the share of the scan's extent, the same seen
  from either end. Scans are in canonical order, so positions run the same way in all.
- A slice's partner is near in position at any threshold: in a scan of few slices the contrast would push
  apart what LA pulls together. PCL's constant factor temperature / 0.07 is left out; AdamW for SGD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.nn.data.augment import PUBLISHED, change_intensity
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import CropBatch, cut, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.common import feature_std, mlp, need_pairs, network_of, pooled
from medssl.nn.methods.sal_losses import (
    contrast,
    local_alignment,
    positional_regression,
    positive_mask,
    within_slice_std,
)
from medssl.nn.models.unet import Network

GREY_VALUES = replace(PUBLISHED, blur=(0.0, 0.5, 1.0), shift=(0.5, -0.2, 0.2))
"""Noise, contrast, gamma and brightness, of each slice by itself."""


@dataclass(frozen=True)
class SALSettings:
    """What the paper does not say is taken from PCL or decided here."""

    d_max_mm: float = 5.0
    """Largest distance between the slices of a pair; the next slice where slices lie farther apart."""
    same_slice: bool = False
    """Also pair a slice with itself in other grey values. Only then do scans of one slice take part."""
    window: int = 0
    """Side in cells of the windows of WLA; 0 is LA, which looks for partners in the whole map."""
    level: Literal[-1, -2] = -1
    """Encoder level whose cells are aligned: the deepest, or the one before for finer structures."""
    detach: bool = False
    """Whether a partner stands still while a cell is pulled to it."""
    mutual: bool = False
    """Count only cells that are their partner's partner."""
    least_match: float = -1.0
    """Count only cells whose best cosine is at least this; -1 counts all, as published."""
    foreground: bool = False
    """Weigh each cell by how much of it is brighter than the scan's background; published is 1 for all."""
    positional: Literal["contrast", "regression"] = "contrast"
    positive_threshold: float = 0.1
    """Positions closer than this share of a scan are alike (PCL: 0.1 in CT, 0.35 in cardiac MR)."""
    temperature: float = 0.1
    local_weight: float = 1.0
    global_weight: float = 1.0
    uniformity_weight: float = 0.0
    """Weight of what keeps the cells of a slice from all agreeing; 0 as published."""
    dimension: int = 128
    positional_dimension: int = 512
    rotation_degrees: float = 15.0
    zoom: tuple[float, float] = (0.8, 1.2)


class SAL:
    """Encoder, an embedding for cells and one for slices, and what a step makes of pairs of slices."""

    Settings = SALSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: SALSettings) -> None:
        self.plan, self.settings = plan, settings
        self.background = torch.zeros(0)
        """(scans,) grey values below which a scan is background; made by `prepare`."""
        width = plan.channels[-1]
        embedding = nn.Conv2d(plan.channels[settings.level], settings.dimension, 1, bias=False)
        place = mlp(width, width, settings.positional_dimension, norm=False)
        self.modules = nn.ModuleDict({"network": network, "local": embedding, "global": place})

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Find out where each scan's background ends.

        Raises UserError: "not-2d" for a 3D network, "one-slice" where no scan has two, "small-batch".
        """
        if self.plan.dims != 2:
            raise UserError(
                "SAL compares slices, but the network would be 3D; set dims=2 or choose another method.",
                code="not-2d",
            )
        left_out = len(dataset) - len(pairable(dataset, self.settings.same_slice))
        if left_out == len(dataset):
            raise UserError(
                "SAL compares nearby slices and every scan has just one; add scans with more of them, set "
                "same_slice=true and near=0, or choose mae.",
                code="one-slice",
            )
        if left_out:
            emit(Notice(f"SAL leaves out {left_out} of {len(dataset)} scans, which have a single slice."))
        self._need_pairs(self.plan.batch)
        self.background = torch.stack([background_level(image) for image in dataset.images]).to(
            dataset.device
        )

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Alignment and position of a new batch of pairs; after a collapse "feature_std" or
        "within_slice_std" is near 0.

        Raises UserError ("small-batch") where short memory has left one pair.
        """
        self._need_pairs(self.plan.batch)
        pair = sample_slice_pairs(dataset, self.plan, self.settings, generator)
        images = torch.cat([shown(cut(dataset, views, self.plan)) for views in pair])
        position = torch.cat([positions(dataset, views) for views in pair]).to(images.device)
        levels = network_of(self.modules).encode(change_intensity(images, GREY_VALUES, generator))
        cells = self.modules["local"](levels[self.settings.level])
        weights = None
        if self.settings.foreground:
            level = self.background[torch.cat([views.scan for views in pair]).to(images.device)]
            weights = share_above(images, level, cells.shape[2:])
        return self.combine(cells, self.modules["global"](pooled(levels[-1])), position, weights)

    def combine(
        self, cells: Tensor, slices: Tensor, position: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of embedded cells (2B, c, h, w) and slices (2B, d); partners stand B apart."""
        settings = self.settings
        one, two = cells.chunk(2)
        local = local_alignment(
            one,
            two,
            settings.window,
            None if weights is None else weights.chunk(2),
            detach=settings.detach,
            mutual=settings.mutual,
            least_match=settings.least_match,
        )
        if settings.positional == "contrast":
            order = contrast(
                slices, positive_mask(position, settings.positive_threshold), settings.temperature
            )
        else:
            order = positional_regression(slices, position)
        loss = settings.local_weight * local + settings.global_weight * order
        within_std = within_slice_std(cells)
        if settings.uniformity_weight:
            loss = loss + settings.uniformity_weight * (1 - within_std).clamp(min=0).square().mean()
        return loss, {
            "local": local,
            "global": order,
            "feature_std": feature_std(cells),
            "within_slice_std": within_std.mean(),
        }

    def after_step(self, fraction: float) -> None:
        """Nothing follows a step."""

    def _need_pairs(self, batch: int) -> None:
        if self.settings.positional == "contrast":
            need_pairs(batch, "SAL", "it tells places from each other", "mae")


def pairable(dataset: DeviceDataset, same_slice: bool) -> Tensor:
    """(n,) numbers of the scans that pairs can be drawn from: those of several slices, or all."""
    fit = [number for number, image in enumerate(dataset.images) if same_slice or len(image) > 1]
    return torch.tensor(fit, dtype=torch.long)


def sample_slice_pairs(
    dataset: DeviceDataset, plan: Plan, settings: SALSettings, generator: Generator
) -> tuple[CropBatch, CropBatch]:
    """`plan.batch` pairs of slices, each of one scan: the same box in both, mirrored and turned alike."""
    fit = pairable(dataset, settings.same_slice)
    scan = fit[torch.randint(len(fit), (plan.batch,), generator=generator)]
    count, context = scan_shapes(dataset, scan)[:, 0], plan.patch_vox[0]
    apart_mm = torch.tensor([spacing[0] for spacing in dataset.spacing_mm])[scan]
    chosen = draw_slices(count, apart_mm, settings.d_max_mm, context, settings.same_slice, generator)
    rotation = math.radians(settings.rotation_degrees)
    views = replace(
        sample_anywhere(dataset, plan, plan.patch_vox, generator, scan=scan, zoom=settings.zoom),
        flip=torch.rand(len(scan), 3, generator=generator) < 0.5,
        angle=torch.empty(len(scan)).uniform_(-rotation, rotation, generator=generator),
    )
    centres = (torch.cat([index[:, None], views.centre[:, 1:]], dim=1) for index in chosen)
    first, second = (replace(views, centre=centre) for centre in centres)
    return first, second


def draw_slices(
    count: Tensor, apart_mm: Tensor, d_max_mm: float, context: int, same_slice: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Numbers (B,) of two slices of scans with `count` (B,) slices `apart_mm` (B,), in random order.

    They lie at most `d_max_mm` apart, or one slice where that is less; of these distances those of at least
    `context` slices, if there are any. `same_slice` adds the distance 0, and allows scans of one slice.
    """
    # What rounding makes of d_max is still d_max.
    most = (d_max_mm / apart_mm + 1e-4).floor().clamp(min=1).minimum(count - 1)
    least = torch.where(most >= context, context, 1).minimum(most)
    lowest = (least - int(same_slice)).clamp(min=0)
    gap = lowest + (torch.rand(count.shape, generator=generator) * (most - lowest + 1)).floor()
    gap = torch.where(gap < least, 0, gap)
    lower = (torch.rand(count.shape, generator=generator) * (count - gap)).floor()
    swap = torch.rand(count.shape, generator=generator) < 0.5
    return lower + gap * swap, lower + gap * ~swap


def positions(dataset: DeviceDataset, views: CropBatch) -> Tensor:
    """(B,) where each view's slice lies in its scan, as a share 0..1 of the extent in mm across slices."""
    return (views.centre[:, 0] + 0.5) / scan_shapes(dataset, views.scan)[:, 0]


def background_level(scan: Tensor) -> Tensor:
    """The grey value a tenth of the way from a scan's first percentile to its 99th."""
    values = scan.flatten()[:: max(1, scan.numel() // 100_000)].float()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], device=values.device))
    return low + 0.1 * (high - low)


def share_above(images: Tensor, level: Tensor, cells: torch.Size) -> Tensor:
    """(B, h, w): how much of each cell of the middle slice of (B, S, H, W) is brighter than `level` (B,)."""
    above = images[:, images.shape[1] // 2] > level[:, None, None]
    return F.adaptive_avg_pool2d(above[:, None].float(), (cells[0], cells[1]))[:, 0]
