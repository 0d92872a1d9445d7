"""Supervoxels: the task of shapes.py on the scans themselves, with supervoxels as labels.

Two slices of one scan, a few slices apart, are augmented independently. The prototypes of one slice's
supervoxels classify the pixels of the other, in both directions, on the finest decoder map and on an encoder
level. After SSL-ALPNet (Ouyang et al., arXiv 2007.09886), which uses the superpixels of one slice. The
intensities of one view are mapped by a random, not necessarily monotonic curve: with the same contrast in
both views they alone would solve the task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.events import Emit, Progress
from medssl.core.jobs import Plan
from medssl.core.settings import Count, NotNegative, Positive, Range, Share
from medssl.nn.data.augment import STRONG, change_intensity, join_channels, split_channels
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import CropBatch, cut, cut_targets, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.supervoxels import cut_volumes
from medssl.nn.devices import full_precision, send
from medssl.nn.methods import Method
from medssl.nn.methods.prototypes import pair_losses, prototype_head
from medssl.nn.models.unet import Network
from medssl.nn.shards import Shard, for_all, shard

KNOTS = 6
"""Control points of the random intensity curve."""
STRIDE = 2
"""Every STRIDE-th pixel of the finest map is compared."""


@dataclass(frozen=True)
class SuperVoxelsSettings:
    """Sampling and comparison of pairs."""

    edges_px: tuple[float, ...] = (14.0, 8.0)
    """Typical edges of a supervoxel in working pixels, used by one slab after the other."""
    voxels: Count = 6_000_000
    """Most voxels to segment into supervoxels."""
    apart: int = 3
    """Largest distance between the two slices, in slices."""
    curved: Share = 0.5
    """Fraction of the pairs whose second view's intensities are mapped by a random curve."""
    rotation: NotNegative = 0.35
    """Largest rotation in radians."""
    zoom: Range = (0.8, 1.25)
    """Side of a view in patches, drawn for each view."""
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


class SuperVoxels(Method):
    """Supervoxel pre-training: network, heads and the loss of a batch of pairs."""

    Settings = SuperVoxelsSettings
    TRANSFERS = ("encoder.", "decoder.")
    DECODER_DESCRIBES = True
    SAME_TASK = ("shapes",)

    def __init__(self, network: Network, plan: Plan, settings: SuperVoxelsSettings) -> None:
        if plan.dims != 2:
            raise UserError("supervoxels needs a 2.5D network; set dims=2 or choose mae.", code="not-2d")
        self.plan, self.settings = plan, settings
        self.cut: DeviceDataset | None = None
        self.modules = nn.ModuleDict(
            {
                "network": network,
                "fine": prototype_head(plan.channels[0], settings.hidden, settings.dimension),
                "coarse": prototype_head(plan.channels[settings.level], settings.hidden, settings.dimension),
            }
        )

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Segment the scans into supervoxels."""
        settings = self.settings
        self.cut = cut_volumes(
            dataset,
            self.plan,
            settings.edges_px,
            settings.voxels,
            lambda fraction: emit(Progress("supervoxels", fraction)),
        )

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch of pairs, and "right": the accuracy over pixels of the finest map."""
        images, labels, count = self.pairs(generator)
        settings = self.settings
        (fine, right), (coarse, _) = pair_losses(
            self.modules,
            images,
            labels,
            count,
            generator,
            level=settings.level,
            stride=STRIDE,
            temperature=settings.temperature,
        )
        return fine + settings.level_weight * coarse, {"right": right}

    @full_precision
    def pairs(self, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """Draw a batch of pairs (i, B + i), and cut this process's shard of it.

        Returns:
            Images (2B, S, H, W) float32, labels (2B, H, W) int64 of the middle slices, and the number of
            labels; that number itself stands for no label.
        """
        assert self.cut is not None, "call prepare before the first step"
        dataset, plan, settings = self.cut, self.plan, self.settings
        half = replace(plan, batch=for_all(plan.batch // 2))
        first = sample_anywhere(dataset, half, plan.patch_vox, generator)
        batch = len(first)
        last = scan_shapes(dataset, first.scan)[:, 0] - 1
        apart = torch.randint(-settings.apart, settings.apart + 1, (batch,), generator=generator)
        centre = first.centre.clone()
        centre[:, 0] = (first.centre[:, 0] + apart).clamp(min=0).minimum(last)
        size = torch.tensor(plan.patch_vox)
        shift = (torch.rand(batch, 3, generator=generator) - 0.5) * first.step * size / 4
        centre[:, 1:] += shift[:, 1:]
        views = [self._augmented(first, generator), self._augmented(replace(first, centre=centre), generator)]
        own = shard(batch)
        views = [own.of(crops) for crops in views]
        images = [shown(cut(dataset, crops, plan)) for crops in views]
        curved = own.of(torch.rand(batch, 1, 1, 1, generator=generator) < settings.curved)
        count = plan.n_channels
        split = split_channels(images[1], count)
        mapped = join_channels(map_random_curves(split, generator, own.times(count)), count)
        images[1] = torch.where(send(curved, mapped.device), mapped, images[1])
        labels = torch.cat([cut_targets(dataset, crops, plan, fill_value=-1) for crops in views])
        changed = change_intensity(torch.cat(images), STRONG, generator, count, own.pairs())
        return changed, *renumber_pairs(labels)

    def _augmented(self, views: CropBatch, generator: Generator) -> CropBatch:
        """The views with random zoom and rotation."""
        settings = self.settings
        zoom = torch.empty(len(views), 1).uniform_(*settings.zoom, generator=generator)
        step = torch.cat([views.step[:, :1], views.step[:, 1:] * zoom], 1)
        angle = torch.empty(len(views)).uniform_(-settings.rotation, settings.rotation, generator=generator)
        return replace(views, step=step, angle=angle, flip=torch.zeros(len(views), 3, dtype=torch.bool))


def renumber_pairs(labels: Tensor) -> tuple[Tensor, int]:
    """Renumber the labels of each pair from 0.

    Args:
        labels: Integer labels (2B, H, W) of pairs (i, B + i); negative ones stand for no label.

    Returns:
        Labels (2B, H, W) int64 and the largest number of labels in a pair, which negative labels become.
    """
    half = len(labels) // 2
    numbers = labels.long() - labels.min().long()  # from 0, so that an offset per pair keeps pairs disjoint
    width = numbers.max() + 1
    first = torch.arange(half, device=labels.device) * width
    keys, ranks = (numbers + first.repeat(2).view(-1, 1, 1)).unique(return_inverse=True)
    start = torch.searchsorted(keys, first - labels.min().long().clamp(max=0))
    most = int((torch.searchsorted(keys, first + width) - start).max())
    result = ranks - start.repeat(2).view(-1, 1, 1)
    return torch.where(result < 0, most, result), most


def map_random_curves(images: Tensor, generator: Generator, shard: Shard | None = None) -> Tensor:
    """Map the intensities of each image by a random curve, linear between KNOTS control points.

    Args:
        images: Images (B, ...) float.
        generator: CPU generator of the curves.
        shard: Which rows of a whole batch these images are, as curves are drawn for all of it; None for all.

    Returns:
        Images of the same shape and ranges.
    """
    low, high = images.flatten(1).amin(1), images.flatten(1).amax(1)
    shape = (-1, *[1] * (images.ndim - 1))
    unit = (images - low.view(shape)) / (high - low).clamp(min=1e-6).view(shape)
    shard = shard or Shard.whole(len(images))
    knots = send(shard.of(torch.rand(shard.count, KNOTS, generator=generator)), images.device)
    position = unit * (KNOTS - 1)
    below = position.floor().clamp(0, KNOTS - 2)
    weight = position - below
    index = below.long().flatten(1)
    first, second = knots.gather(1, index), knots.gather(1, index + 1)
    values = torch.lerp(first, second, weight.flatten(1)).view(images.shape)
    return low.view(shape) + values * (high - low).view(shape)
