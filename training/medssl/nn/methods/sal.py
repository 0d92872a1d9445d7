"""SAL, self-supervised alignment learning (Li, Ouyang and Wan, arXiv 2406.15699).

Two nearby slices i and j of one scan show nearly the same anatomy, so each cell of one has a match in the
other. Local alignment (LA) finds it by unit features x of a linear embedding, and maximises the cosine:

    L(i -> j) = mean over cells p of | 1 - max over cells q of x_i(p) . x_j(q) |,  L = mean of both directions

The windowed variant (WLA) searches only the window of w x w cells that contains p. A second loss orders whole
slices by their positions in the scans: PCL's contrastive loss (Zeng et al., MICCAI 2021), or a regression. No
code for the paper was found; the second loss's formula and most numbers are not known.

Where we depart from the paper or decide what it leaves open, and why:
- The network sees neighbouring slices as channels, so slices i and j closer than this context share input and
  could be aligned by that alone. They are drawn far enough apart to share none if `d_max_mm` and the scan
  allow it, and are augmented independently. `--set context=1` is the paper's plain 2D.
- The largest distance is in mm, not in slices; in a thick-sliced scan it is the next slice.
- Both slices show the same box with the same flips and rotation: windows need registered maps.
- The deepest level of the planner's networks has stride 8, not 16.
- The embedding has no bias: a direction common to all cells would minimise LA without any information.
- LA is minimal if all cells of a slice agree, and the second loss does not prevent it. The embedding
  collapses in this way within some twenty steps; the curve "within_slice_std" shows it. `uniformity_weight`,
  not published, counteracts it.
- Positions are (k + 1/2) / N where PCL has (k + 1) / N: the fraction of the scan's extent in mm, symmetric
  from both ends. Scans are in canonical order, so positions increase in the same direction in all.
- The paired slice is a positive at any threshold: in a scan of few slices the contrast would push apart what
  LA pulls together. PCL's constant factor temperature / 0.07 is left out; AdamW for SGD.
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
from medssl.core.settings import Count, NotNegative, Positive, Range
from medssl.nn.data.augment import PUBLISHED, change_intensity
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import CropBatch, cut, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import Method
from medssl.nn.methods.common import check_batch, feature_std, mlp, network_of, pooled
from medssl.nn.methods.sal_losses import (
    contrast,
    local_alignment,
    positional_regression,
    positive_mask,
    within_slice_std,
)
from medssl.nn.models.unet import Network
from medssl.nn.shards import mean, shard

GREY_VALUES = replace(PUBLISHED, blur=(0.0, 0.5, 1.0), shift=(0.5, -0.2, 0.2))
"""Noise, contrast, gamma and brightness, drawn for each slice."""


@dataclass(frozen=True)
class SALSettings:
    """Settings; what the paper leaves open is taken from PCL or decided here."""

    d_max_mm: Positive = 5.0
    """Largest distance between the slices of a pair; the next slice if slices are farther apart."""
    same_slice: bool = False
    """Also pair a slice with itself, augmented differently. Scans of one slice are used only then."""
    window: int = 0
    """Side of WLA's windows in cells; 0 is LA, which searches the whole map."""
    level: Literal[-1, -2] = -1
    """Encoder level whose cells are aligned: the deepest, or the one before for finer structures."""
    detach: bool = False
    """Stop the gradient through the match."""
    mutual: bool = False
    """Use only mutual nearest neighbours."""
    least_match: float = -1.0
    """Least cosine of a match to be used; -1 uses all, as published."""
    foreground: bool = False
    """Weight each cell by its fraction of pixels brighter than the background; as published, all weigh 1."""
    positional: Literal["contrast", "regression"] = "contrast"
    """How positions along the body are learned: PCL's contrast, or regression."""
    positive_threshold: Positive = 0.1
    """Slices whose positions differ by less are positives, as a fraction of the scan (PCL: 0.1 in CT, 0.35 in
    cardiac MR)."""
    temperature: Positive = 0.1
    """Temperature of the contrastive loss: smaller is stricter."""
    local_weight: NotNegative = 1.0
    """Weight of the local alignment."""
    global_weight: NotNegative = 1.0
    """Weight of the positional term."""
    uniformity_weight: NotNegative = 0.0
    """Weight of the term that spreads the cells of a slice; 0 as published."""
    dimension: Count = 128
    """Length of the vectors that the loss compares."""
    positional_dimension: Count = 512
    """Length of the vectors that the positional term compares."""
    rotation_degrees: NotNegative = 15.0
    """Largest angle of a view."""
    zoom: Range = (0.8, 1.2)
    """Side of a view in patches, drawn for each view."""


class SAL(Method):
    """SAL pre-training: encoder, embeddings of cells and slices, and the loss of a batch of slice pairs."""

    Settings = SALSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: SALSettings) -> None:
        self.plan, self.settings = plan, settings
        self.background = torch.zeros(0)
        """Background threshold of each scan (n_scans,); set by `prepare`."""
        width = plan.channels[-1]
        embedding = nn.Conv2d(plan.channels[settings.level], settings.dimension, 1, bias=False)
        positional = mlp(width, width, settings.positional_dimension, norm=False)
        self.modules = nn.ModuleDict({"network": network, "local": embedding, "global": positional})

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Estimate each scan's background threshold.

        Raises:
            UserError: "not-2d" for a 3D network, "one-slice" if no scan has two slices, "small-batch" for a
                batch of one pair.
        """
        if self.plan.dims != 2:
            raise UserError(
                "SAL needs a 2.5D network; set dims=2 or choose another method.",
                code="not-2d",
            )
        left_out = len(dataset) - len(pairable(dataset, self.settings.same_slice))
        if left_out == len(dataset):
            raise UserError(
                "SAL compares nearby slices, and every scan has only one; add scans with more slices, set "
                "same_slice=true and positive_threshold=0, or choose mae.",
                code="one-slice",
            )
        if left_out:
            emit(Notice(f"SAL leaves out {left_out} of {len(dataset)} scans, which have only one slice."))
        self._check_batch(self.plan.batch)
        self.background = torch.stack([background_level(image) for image in dataset.images]).to(
            dataset.device
        )

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch of pairs; after a collapse "feature_std" or "within_slice_std" is near 0.

        Raises:
            UserError: "small-batch" if short memory has reduced the batch to one pair.
        """
        self._check_batch(self.plan.batch)
        pair = sample_slice_pairs(dataset, self.plan, self.settings, generator)
        own = shard(self.plan.batch)
        images = torch.cat([shown(cut(dataset, own.of(views), self.plan)) for views in pair])
        position = torch.cat([positions(dataset, views) for views in pair]).to(images.device)
        changed = change_intensity(images, GREY_VALUES, generator, self.plan.n_channels, own.pairs())
        levels = network_of(self.modules).encode(changed)
        cells = self.modules["local"](levels[self.settings.level])
        weights = None
        if self.settings.foreground:
            level = self.background[torch.cat([own.of(views.scan) for views in pair]).to(images.device)]
            weights = fraction_above(images[:, : self.plan.patch_vox[0]], level, cells.shape[2:])
        slices = own.pairs().gathered(self.modules["global"](pooled(levels[-1])))
        return self.combine(cells, slices, position, weights)

    def combine(
        self, cells: Tensor, slices: Tensor, position: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Combine the losses; pairs of slices are (i, B + i).

        Args:
            cells: Embedded cells of this process's shard (2B, C, h, w).
            slices: Embedded slices of the whole batch (2B, D).
            position: Positions of these slices in their scans (2B,), 0..1.
            weights: Weights of the cells (2B, h, w); None for 1.

        Returns:
            Loss and scalars to log.
        """
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
            loss = loss + settings.uniformity_weight * mean((1 - within_std).clamp(min=0).square())
        numbers = {"local": local, "global": order, "feature_std": feature_std(cells)}
        return loss, {**numbers, "within_slice_std": mean(within_std)}

    def _check_batch(self, batch: int) -> None:
        if self.settings.positional == "contrast":
            check_batch(batch, "SAL", "its contrastive loss needs negatives", "mae")


def pairable(dataset: DeviceDataset, same_slice: bool) -> Tensor:
    """Indices of the scans that pairs can be drawn from (n,): those with several slices, or all."""
    usable = [index for index, image in enumerate(dataset.images) if same_slice or len(image) > 1]
    return torch.tensor(usable, dtype=torch.long)


def sample_slice_pairs(
    dataset: DeviceDataset, plan: Plan, settings: SALSettings, generator: Generator
) -> tuple[CropBatch, CropBatch]:
    """Draw `plan.batch` pairs of slices of one scan each: the same box with the same flips and rotation.

    Returns:
        First and second views, not cut yet.
    """
    usable = pairable(dataset, settings.same_slice)
    scan = usable[torch.randint(len(usable), (plan.batch,), generator=generator)]
    count, context = scan_shapes(dataset, scan)[:, 0], plan.patch_vox[0]
    spacing_mm = torch.tensor([spacing[0] for spacing in dataset.spacing_mm])[scan]
    chosen = draw_slices(count, spacing_mm, settings.d_max_mm, context, settings.same_slice, generator)
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
    count: Tensor, spacing_mm: Tensor, d_max_mm: float, context: int, same_slice: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw pairs of nearby slices.

    Args:
        count: Number of slices of each scan (B,) int64.
        spacing_mm: Slice spacing of each scan in mm (B,).
        d_max_mm: Largest distance of a pair; at least the next slice is allowed.
        context: Slices that the network sees; smaller distances are used only if the scan has no others.
        same_slice: Also allow the distance 0, and with it scans of one slice.
        generator: CPU generator of all draws.

    Returns:
        Numbers of the first and second slices, each (B,), in random order.
    """
    # The tolerance keeps a distance of exactly d_max despite rounding.
    longest = (d_max_mm / spacing_mm + 1e-4).floor().clamp(min=1).minimum(count - 1)
    shortest = torch.where(longest >= context, context, 1).minimum(longest)
    lowest = (shortest - int(same_slice)).clamp(min=0)
    gap = lowest + (torch.rand(count.shape, generator=generator) * (longest - lowest + 1)).floor()
    gap = torch.where(gap < shortest, 0, gap)
    lower = (torch.rand(count.shape, generator=generator) * (count - gap)).floor()
    swap = torch.rand(count.shape, generator=generator) < 0.5
    return lower + gap * swap, lower + gap * ~swap


def positions(dataset: DeviceDataset, views: CropBatch) -> Tensor:
    """Position of each view's slice in its scan (B,), as a fraction 0..1 of the extent across slices."""
    return (views.centre[:, 0] + 0.5) / scan_shapes(dataset, views.scan)[:, 0]


def background_level(scan: Tensor) -> Tensor:
    """Background threshold: a tenth of the way from the 1st to the 99th percentile.

    Args:
        scan: Scan of any shape.

    Returns:
        Intensity, a scalar tensor.
    """
    values = scan.flatten()[:: max(1, scan.numel() // 100_000)].float()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], device=values.device))
    return low + 0.1 * (high - low)


def fraction_above(images: Tensor, level: Tensor, cells: torch.Size) -> Tensor:
    """Fraction of each cell's pixels that is brighter than a threshold, in the middle slice.

    Args:
        images: Images (B, S, H, W).
        level: Threshold of each image (B,).
        cells: Size (h, w) of the result.

    Returns:
        Fractions (B, h, w).
    """
    above = images[:, images.shape[1] // 2] > level[:, None, None]
    return F.adaptive_avg_pool2d(above[:, None].float(), (cells[0], cells[1]))[:, 0]
