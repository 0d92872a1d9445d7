"""Training from partial labels: where to sample annotated voxels, and a loss that looks at them only."""

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
from medssl.nn.data.crops import CropBatch, crop_step, scan_shapes
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.multiplanar import ORDERS, axis_orders, reoriented
from medssl.nn.models.unet import Network


@dataclass(frozen=True)
class Settings:
    """How patches are drawn and changed, and how weights move."""

    foreground: float = 0.67
    """Share of patches around a voxel of a painted class (classes drawn evenly)."""
    zoom: tuple[float, float] = (0.8, 1.25)
    rotation: float = 0.35
    """Largest angle of the patch, radians."""
    displacement: float = 3.0
    """Typical largest displacement of the elastic deformation, working voxels."""
    reach: float = 0.8
    """How far from the patch's middle the annotated voxel may lie, as a share of the patch."""
    ema_decay: float = 0.99
    """Momentum of the moving average of the weights; the average is what predicts."""
    multiplanar: bool = True
    """From where scans of nearly cubic voxels are learned and segmented (multiplanar.py)."""
    multiplanar_prob: float = 0.33
    """Share of steps whose patches around painted voxels are cut from another side; there, a painted slice
    is a line."""
    location_prior: bool = True
    """Hold structures to where painted scans have them among each other (inference/location_prior.py)."""
    posterior_smoothing: bool = True
    """Ask a voxel's neighbours, too, which class it is (inference/posterior_smoothing.py)."""
    first_head: bool = True
    """Fit the head to the painted voxels before the first step (first_head.py)."""
    pretrained_rate: float = 1.0
    """Factor of the learning rate for layers that start from pre-trained weights."""
    interpolated_weight: float = 0.3
    """Weight of the loss on what was filled in between complete slices; that on painted voxels has 1."""
    validation_slice: bool = False
    """Learn nothing from one complete slice, and say how well it is segmented (validation_slice.py)."""


@dataclass(frozen=True)
class StepBatch:
    """A step's patches as the network sees them: those around painted voxels, then those around guesses."""

    network: Network
    features: Tensor
    """(N, C, ...) finest decoder map; the network's head makes scores of it."""
    target: Tensor
    """(N, ...) long: 0 background, 1..K, 255 unknown."""
    n_labelled: int
    """Number of leading items that come from annotated patches; the others come from pseudo-labels."""


def partial_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the annotated voxels of a batch (Dice over the whole batch).

    scores: (B, K+1, ...) before softmax; target: (B, ...) long with 0 background, 1..K, 255 not annotated.
    Unannotated voxels give neither value nor gradient; a batch without any annotated voxel gives 0.
    The Dice term counts classes that occur in the batch's annotated voxels; background is left to the
    cross-entropy.
    """
    # Nothing is picked out by a mask, and nothing asked: an accelerator would be waited for.
    known = target != IGNORE
    entropy = F.cross_entropy(scores.float(), target, ignore_index=IGNORE, reduction="sum")
    entropy = entropy / known.sum().clamp(min=1)
    classes = torch.arange(scores.shape[1], device=target.device).view(-1, *[1] * (target.ndim - 1))
    truth = target[:, None] == classes  # (B, K+1, ...)
    probability = scores.float().softmax(1) * known[:, None]
    rest = (0, *range(2, scores.ndim))
    both, found, there = (each.sum(rest)[1:] for each in (probability * truth, probability, truth))
    dice = (2 * both + 1) / (found + there + 1)
    present = there > 0
    return entropy + ((1 - dice) * present).sum() / present.sum().clamp(min=1)


MOST_A_SCAN = 20_000
"""Positions of a class remembered in one scan; evenly thinned beyond that."""


@dataclass(frozen=True)
class AnnotatedVoxels:
    """Positions of annotated voxels by class, found once: drawing a patch is then a table look-up."""

    by_class: tuple[Tensor, ...]
    """For every class that was painted, and first for background: (N, 4) of scan, slice, row, column."""

    @classmethod
    def of(cls, dataset: DeviceDataset) -> AnnotatedVoxels:
        """Look at all targets of the pool.

        Raises UserError ("one-class") where only background or only one class was annotated.
        """
        found: dict[int, list[Tensor]] = {}
        for scan, target in enumerate(dataset.targets):
            target = target.cpu()
            for label in torch.unique(target).tolist():
                if label == IGNORE:
                    continue
                at = (target == label).nonzero()
                at = at[:: max(1, len(at) // MOST_A_SCAN)].int()
                found.setdefault(label, []).append(
                    torch.cat([torch.full((len(at), 1), scan, dtype=torch.int32), at], dim=1)
                )
        if set(found) <= {0}:
            raise UserError(
                "Only background is annotated; paint the structure itself on some slices.", code="one-class"
            )
        if 0 not in found:
            raise UserError(
                "Nothing is annotated as background; mark a painted slice complete or paint sure background.",
                code="one-class",
            )
        return cls(tuple(torch.cat(found[label]) for label in sorted(found)))

    def draw(self, count: int, generator: Generator, foreground: float) -> Tensor:
        """(count, 4) positions: with probability `foreground` of a class drawn evenly, else background."""
        chosen = torch.rand(count, generator=generator) < foreground
        label = torch.randint(1, len(self.by_class), (count,), generator=generator)
        label = torch.where(chosen, label, 0)
        where = torch.rand(count, generator=generator)
        rows = [
            self.by_class[one][int(share * len(self.by_class[one]))]
            for one, share in zip(label.tolist(), where.tolist(), strict=True)
        ]
        return torch.stack(rows).long()


def orientations(dataset: DeviceDataset, plan: Plan) -> Iterator[tuple[DeviceDataset, AnnotatedVoxels]]:
    """The annotated scans from every side that the plan and their voxels allow, the painted side first.

    Another side whose scans show nothing but background is left out.

    Raises UserError ("one-class") where this holds for all scans.
    """
    yield dataset, AnnotatedVoxels.of(dataset)
    for order in ORDERS[1:]:
        scans = [n for n, spacing in enumerate(dataset.spacing_mm) if order in axis_orders(plan, spacing)]
        if scans:
            side = reoriented(dataset.part(scans), order)
            with suppress(UserError):
                yield side, AnnotatedVoxels.of(side)


def sample_annotated(
    dataset: DeviceDataset,
    plan: Plan,
    voxels: AnnotatedVoxels,
    generator: Generator,
    *,
    foreground: float = 0.67,
    zoom: tuple[float, float] = (0.8, 1.25),
    rotation: float = 0.35,
    reach: float = 0.8,
    overshoot: float = 0.1,
) -> CropBatch:
    """Patches that hold an annotated voxel at any place of the patch, beyond the scan's border too.

    In 3D the annotated plane thus visits every depth of the patch; a network that always saw it in the
    middle learns the position instead of the tissue. `rotation` is the largest angle in radians, `zoom` the
    range of sizes. Patches are not mirrored: a network must be able to tell left from right.
    """
    batch = plan.batch
    drawn = voxels.draw(batch, generator, foreground)
    scan = drawn[:, 0]
    scale = torch.empty(batch, 1).uniform_(*zoom, generator=generator)
    step = crop_step(dataset, plan, scan)
    step = step * (torch.cat([torch.ones(batch, 1), scale, scale], 1) if plan.dims == 2 else scale)
    size = torch.tensor(plan.patch_vox)
    away = (torch.rand(batch, 3, generator=generator) - 0.5) * reach * size * step
    centre = drawn[:, 1:].float() + away
    if plan.dims == 2:
        centre = _kept_inside(centre, scan_shapes(dataset, scan), size * step, overshoot)
        centre[:, 0] = drawn[:, 1]
    flip = torch.zeros(batch, 3, dtype=torch.bool)
    angle = torch.empty(batch).uniform_(-rotation, rotation, generator=generator)
    return CropBatch(plan.patch_vox, scan, centre, step, flip, angle)


def _kept_inside(centre: Tensor, shape: Tensor, extent: Tensor, overshoot: float) -> Tensor:
    """Centres moved so that a patch of `extent` leaves the scan by at most that share of itself.

    Where the scan is smaller than the patch, the patch stays around the scan's middle by as much.
    """
    low, high = extent / 2 - 0.5, shape - extent / 2 - 0.5
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return torch.maximum(torch.minimum(centre, high + overshoot * extent), low - overshoot * extent)
