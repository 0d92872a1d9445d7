"""Training on partial labels: crops around annotated voxels, and a loss restricted to annotated voxels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE
from medssl.core.settings import NotNegative, Range, Share
from medssl.nn.data.crops import CropBatch, crop_step, scan_shapes
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.multiplanar import ORDERS, axis_orders, reoriented
from medssl.nn.models.unet import Network
from medssl.nn.shards import Shard, ratio, total


@dataclass(frozen=True)
class Settings:
    """Sampling and augmentation of crops, and how weights are updated and used."""

    foreground: Share = 0.67
    """Fraction of crops around a foreground voxel (classes with equal probability)."""
    zoom: Range = (0.8, 1.25)
    """Range of zoom factors."""
    rotation: NotNegative = 0.35
    """Maximum rotation angle in radians."""
    displacement: NotNegative = 3.0
    """Typical maximum displacement of the elastic deformation in working voxels."""
    reach: Share = 0.8
    """Range of the annotated voxel around the centre of the crop, as a fraction of the crop."""
    ema_decay: Share = 0.99
    """Decay of the moving average of the weights, which makes the predictions."""
    multiplanar: bool = True
    """Whether to learn and segment scans with nearly cubic voxels in all orientations (multiplanar.py)."""
    multiplanar_prob: Share = 0.33
    """Fraction of steps whose annotated crops have another orientation, in which an annotated slice is a
    line."""
    location_prior: bool = True
    """Whether to use the relative positions of structures (inference/location_prior.py)."""
    posterior_smoothing: bool = True
    """Whether to smooth class posteriors spatially (inference/posterior_smoothing.py)."""
    first_head: bool = True
    """Whether to fit the head to the annotated voxels before the first step (first_head.py)."""
    pretrained_rate: float = 1.0
    """Factor of the learning rate for layers with pre-trained weights."""
    interpolated_weight: NotNegative = 0.3
    """Weight of the loss on labels interpolated between complete slices; that on annotations has 1."""
    validation_slice: bool = False
    """Whether to exclude one complete slice from training and log its Dice (validation_slice.py)."""


@dataclass(frozen=True)
class StepBatch:
    """The crops of a step: annotated ones first, then pseudo-labelled ones."""

    network: Network
    """The network in training."""
    features: Tensor
    """(N, C, ...) finest decoder map, the input of the network's head."""
    target: Tensor
    """(N, ...) long: 0 background, 1..K classes, 255 unlabelled."""
    n_labelled: int
    """Number of leading items from annotated crops; the others are pseudo-labelled."""
    shard: Shard | None = None
    """Which rows of the whole step these items are; None for all."""


def partial_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the annotated voxels of a batch, that of all processes.

    Unannotated voxels contribute neither value nor gradient. The Dice term averages over the classes present
    in the annotated voxels of the batch; background has the cross-entropy only.

    Args:
        scores: Logits, (B, K + 1, ...).
        target: Labels, (B, ...) long: 0 background, 1..K classes, 255 not annotated.

    Returns:
        The loss, a scalar; 0 for a batch without annotated voxels.
    """
    # No boolean indexing and no reading of values: both would synchronize with an accelerator.
    labelled = target != IGNORE
    entropy = F.cross_entropy(scores.float(), target, ignore_index=IGNORE, reduction="sum")
    classes = torch.arange(scores.shape[1], device=target.device).view(-1, *[1] * (target.ndim - 1))
    truth = target[:, None] == classes  # (B, K+1, ...)
    probability = scores.float().softmax(1) * labelled[:, None]
    axes = (0, *range(2, scores.ndim))
    volumes = torch.stack([volume.sum(axes)[1:] for volume in (probability * truth, probability, truth)])
    overlap, predicted, actual = total(volumes)
    entropy = ratio(entropy, labelled.sum())
    dice = (2 * overlap + 1) / (predicted + actual + 1)
    present = actual > 0
    return entropy + ((1 - dice) * present).sum() / present.sum().clamp(min=1)


MAX_PER_SCAN = 20_000
"""Maximum number of stored positions per class and scan; more are thinned evenly."""


@dataclass(frozen=True)
class AnnotatedVoxels:
    """Positions of annotated voxels by class, collected once so that sampling is a table look-up."""

    by_class: tuple[Tensor, ...]
    """Per annotated class, background first: (N, 4) int32 of scan, slice, row, column."""

    @classmethod
    def of(cls, dataset: DeviceDataset) -> AnnotatedVoxels:
        """Collect the positions from all targets of a dataset.

        Raises:
            UserError: "one-class" if only background, or no background, is annotated.
        """
        positions: dict[int, list[Tensor]] = {}
        for scan, target in enumerate(dataset.targets):
            target = target.cpu()
            for label in torch.unique(target).tolist():
                if label == IGNORE:
                    continue
                index = (target == label).nonzero()
                index = index[:: max(1, len(index) // MAX_PER_SCAN)].int()
                positions.setdefault(label, []).append(
                    torch.cat([torch.full((len(index), 1), scan, dtype=torch.int32), index], dim=1)
                )
        if set(positions) <= {0}:
            raise UserError(
                "Only background is annotated; annotate the structure itself on some slices.",
                code="one-class",
            )
        if 0 not in positions:
            raise UserError(
                "No background is annotated; mark an annotated slice complete or paint sure background.",
                code="one-class",
            )
        return cls(tuple(torch.cat(positions[label]) for label in sorted(positions)))

    def draw(self, count: int, generator: Generator, foreground: float) -> Tensor:
        """Draw annotated voxels.

        Args:
            count: Number of voxels.
            generator: Source of the random draws.
            foreground: Probability of a foreground class (all with equal probability) instead of background.

        Returns:
            Positions, (count, 4) long of scan, slice, row, column.
        """
        is_foreground = torch.rand(count, generator=generator) < foreground
        label = torch.randint(1, len(self.by_class), (count,), generator=generator)
        label = torch.where(is_foreground, label, 0)
        quantile = torch.rand(count, generator=generator)
        rows = [
            self.by_class[number][int(fraction * len(self.by_class[number]))]
            for number, fraction in zip(label.tolist(), quantile.tolist(), strict=True)
        ]
        return torch.stack(rows).long()


def orientations(dataset: DeviceDataset, plan: Plan) -> Iterator[tuple[DeviceDataset, AnnotatedVoxels]]:
    """The annotated scans in every orientation that the plan and their spacing allow.

    Args:
        dataset: The annotated scans in work order.
        plan: Plan of the network.

    Yields:
        Scans and annotated voxels per orientation, the annotated one first. Other orientations without any
        foreground are skipped.

    Raises:
        UserError: "one-class" if only background, or no background, is annotated.
    """
    yield dataset, AnnotatedVoxels.of(dataset)
    for order in ORDERS[1:]:
        scans = [n for n, spacing in enumerate(dataset.spacing_mm) if order in axis_orders(plan, spacing)]
        if scans:
            other = reoriented(dataset.part(scans), order)
            with suppress(UserError):
                yield other, AnnotatedVoxels.of(other)


def sample_annotated(
    dataset: DeviceDataset,
    plan: Plan,
    voxels: AnnotatedVoxels,
    generator: Generator,
    *,
    foreground: Share = 0.67,
    zoom: Range = (0.8, 1.25),
    rotation: NotNegative = 0.35,
    reach: Share = 0.8,
    overshoot: float = 0.1,
) -> CropBatch:
    """Sample crops that contain an annotated voxel at a random position.

    In 3D the annotated plane thus occurs at every depth of the crop; a network that always had it in the
    middle would learn the position instead of the tissue. Crops are not mirrored, because the network must
    distinguish left from right.

    Args:
        dataset: Scans in work order.
        plan: Gives the batch and the patch size.
        voxels: Annotated voxels of the dataset.
        generator: Source of all random draws.
        foreground: Fraction of crops around a foreground voxel.
        zoom: Range of zoom factors.
        rotation: Maximum rotation angle in radians.
        reach: Range of the annotated voxel around the centre, as a fraction of the crop.
        overshoot: Maximum fraction of a crop that lies outside of the scan, per side.

    Returns:
        Geometry of the crops; `cut` samples the images.
    """
    batch = plan.batch
    positions = voxels.draw(batch, generator, foreground)
    scan = positions[:, 0]
    scale = torch.empty(batch, 1).uniform_(*zoom, generator=generator)
    step = crop_step(dataset, plan, scan)
    step = step * (torch.cat([torch.ones(batch, 1), scale, scale], 1) if plan.dims == 2 else scale)
    size = torch.tensor(plan.patch_vox)
    offset = (torch.rand(batch, 3, generator=generator) - 0.5) * reach * size * step
    centre = positions[:, 1:].float() + offset
    if plan.dims == 2:
        centre = _clamp_centre(centre, scan_shapes(dataset, scan), size * step, overshoot)
        centre[:, 0] = positions[:, 1]
    flip = torch.zeros(batch, 3, dtype=torch.bool)
    angle = torch.empty(batch).uniform_(-rotation, rotation, generator=generator)
    return CropBatch(plan.patch_vox, scan, centre, step, flip, angle)


def _clamp_centre(centre: Tensor, shape: Tensor, extent: Tensor, overshoot: float) -> Tensor:
    """Shift centres so that at most a fraction `overshoot` of the crop lies outside of the scan.

    For a scan smaller than the crop the same tolerance applies around the middle of the scan. All tensors are
    (B, 3) scan voxels.
    """
    low, high = extent / 2 - 0.5, shape - extent / 2 - 0.5
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return torch.maximum(torch.minimum(centre, high + overshoot * extent), low - overshoot * extent)
