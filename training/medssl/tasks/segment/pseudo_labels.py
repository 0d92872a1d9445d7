"""Pseudo-labels: the network labels unannotated voxels, and self-training learns from them.

Pseudo-labels as in Lee (ICML workshop 2013), predicted by the moving average of the weights on images without
augmentation and learned under strong augmentation of shape and intensity (Xie et al., arXiv 1911.04252),
which is what makes them useful. Annotated voxels always keep their labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.core.labels.postprocess import drop_components
from medssl.core.project.project import IGNORE
from medssl.core.settings import NotNegative, Share
from medssl.nn import distributed
from medssl.nn.data.device_dataset import DeviceDataset, in_one_storage
from medssl.nn.data.multiplanar import axis_orders
from medssl.nn.models.unet import Network
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.inference.predict import Top1Posterior, top1_posterior
from medssl.tasks.inference.threshold import LEVELS
from medssl.tasks.segment import annotated_crops
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels, StepBatch, orientations, partial_loss
from medssl.tasks.segment.smoothing_width import SmoothingWidth

VOXELS_A_ROUND = {"cpu": 1_200_000, "cuda": 200_000_000}
"""Voxels labelled per round by device type: a few seconds of work."""
SCANS_A_ROUND, SLICES_A_SCAN = 16, 16
"""Scans per round, and minimum slices per scan: of a large scan only adjacent slices are labelled."""
WHOLE_A_ROUND, LARGEST_WHOLE = 4, 1_000_000
"""With a location prior, at least so many scans of up to so many voxels are labelled as a whole: in a slab of
few slices the prior cannot be aligned."""
MAX_NAMES = 8
"""Maximum number of classes that a notice names."""


@dataclass(frozen=True)
class Settings(annotated_crops.Settings):
    """When pseudo-labels are made, which are used, and their weight in the loss."""

    rounds: tuple[float, ...] = (0.35, 0.5, 0.65, 0.8)
    """Fractions of the training at which new pseudo-labels are made; empty for none."""
    max_round_share: Share = 1 / 3
    """Largest share of a round in the work since the last one: twice as many steps as it costs. As many must
    be left. A round may cost hundreds of steps, and four would take most of a training of one minute."""
    start_below_loss: NotNegative = 0.35
    """Loss on the annotated voxels below which pseudo-labels are used."""
    confidence_threshold: Share = 0.7
    """Minimum probability of a pseudo-label; less certain voxels stay unlabelled."""
    copy_paste_prob: Share = 0.5
    """Fraction of pseudo-labelled crops into which a box of an annotated crop is pasted (copy_paste.py)."""
    clean_up: Literal["none", "largest"] = "none"
    """"largest" keeps only the largest connected component of each class in a labelled slab."""
    pseudo_label_weight: NotNegative = 1.0
    """Weight of the loss on pseudo-labels, where they are learned as labels; that on annotations has 1."""


class PseudoLabels:
    """Pseudo-labels of some of the scans, which are drawn anew in each round.

    Args:
        scans: All scans that may be labelled, with their annotations as targets.
        settings: Which pseudo-labels are used.
        classes: Names of the classes 1, 2, ...
        emit: Receives a Notice per round.
        location_prior: That of the annotated scans.
        smoothing_width: Chooses the width of the posterior smoothing in each round.
    """

    def __init__(
        self,
        scans: DeviceDataset,
        settings: Settings,
        classes: Sequence[str],
        emit: Emit,
        location_prior: LocationPrior | None = None,
        smoothing_width: SmoothingWidth | None = None,
    ) -> None:
        self.smoothing_width = smoothing_width
        self.scans, self.settings, self.classes, self.emit = scans, settings, classes, emit
        self.location_prior = location_prior.to(scans.device) if location_prior else None
        self.dataset = scans
        self.orientations: list[tuple[DeviceDataset, AnnotatedVoxels]] = []
        """Scans and voxels to draw crops from, per orientation; empty before the first round, or without any
        foreground."""

    def refresh(self, network: Network, plan: Plan, generator: Generator) -> None:
        """Label randomly drawn scans until the voxels of a round are used up.

        Args:
            network: Predicts the labels.
            plan: Its plan; scans that are labelled as a whole are predicted in all orientations of it.
            generator: Draws scans and slabs.
        """
        chosen = self._chosen(generator)
        network.eval()
        if self.smoothing_width is not None:
            plan = replace(plan, smoothing_sigma_mm=self.smoothing_width.width_mm(network, plan))
        counts = torch.zeros(256, dtype=torch.long)
        dataset = self.scans.part([index for index, _, _ in chosen])
        voxels = sum(target.numel() for target in dataset.targets)
        labels = distributed.dealt_out(
            len(chosen),
            lambda number: self._labels(network, plan, *chosen[number]),
            lambda number: torch.empty_like(self._unlabelled(*chosen[number]), dtype=torch.uint8),
        )
        targets = in_one_storage(
            (self._labelled(counts, slab, found) for slab, found in zip(chosen, labels, strict=True)),
            torch.empty(voxels, dtype=torch.uint8, device=dataset.device),
        )
        self.dataset = replace(dataset, targets=targets)
        self.orientations = []
        with suppress(UserError):
            self.orientations = list(orientations(self.dataset, plan))
        if not self.orientations:
            return  # So far it predicts only background; training continues on the annotated slices alone.
        self.emit(
            Notice(
                f"Confident pseudo-labels in {len(chosen)} of {len(self.scans)} scans: "
                f"{_counts_text(self.classes, counts.tolist()[1:])}."
            )
        )

    @cached_property
    def _typical_voxels(self) -> int:
        """Voxels of the median scan."""
        sizes = sorted(image.numel() for image in self.scans.images)
        return sizes[len(sizes) // 2]

    def voxel_budget(self) -> tuple[int, int]:
        """Voxels labelled per round in all, and per scan."""
        typical = self._typical_voxels
        whole = VOXELS_A_ROUND.get(self.scans.device.type, VOXELS_A_ROUND["cpu"])
        per_scan = whole // SCANS_A_ROUND
        if self.location_prior is None or typical > LARGEST_WHOLE:
            return whole, per_scan
        return max(whole, WHOLE_A_ROUND * typical), max(per_scan, LARGEST_WHOLE)

    def cost_in_steps(self, plan: Plan) -> float:
        """Number of training steps that compute as much as a round.

        It follows from voxels alone, so that rounds do not depend on the speed of a machine. A step computes
        its patches three times as long as a prediction, because of the gradients.

        Args:
            plan: Plan of the network.
        """
        patch = math.prod(plan.patch_vox[3 - plan.dims :])
        voxels = sum(image.numel() for image in self.scans.images)
        return self.predictions_a_round(plan, voxels) / (3 * plan.batch * patch)

    def predictions_a_round(self, plan: Plan, voxels: int) -> int:
        """Number of voxels that a round predicts, each counted once per orientation.

        Args:
            plan: Plan of the network.
            voxels: Number of voxels of all scans.
        """
        whole, per_scan = self.voxel_budget()
        in_full = per_scan >= self._typical_voxels  # a slab is predicted in one orientation
        orientations = len(axis_orders(plan, self.scans.spacing_mm[0])) if in_full else 1
        return min(voxels, whole) * orientations

    def _chosen(self, generator: Generator) -> list[tuple[int, int, int]]:
        """(scan, first slice, last slice + 1) of the slabs that a round labels."""
        remaining, per_scan = self.voxel_budget()
        chosen: list[tuple[int, int, int]] = []
        for index in torch.randperm(len(self.scans), generator=generator).tolist():
            slices, rows, columns = self.scans.images[index].shape
            count = min(slices, max(SLICES_A_SCAN, per_scan // (rows * columns)))
            if chosen and remaining < count * rows * columns:
                break
            remaining -= count * rows * columns
            first = int(torch.randint(slices - count + 1, (1,), generator=generator))
            chosen.append((index, first, first + count))
        return chosen

    def draw_orientation(self, generator: Generator) -> tuple[DeviceDataset, AnnotatedVoxels]:
        """One of `orientations`, drawn at random."""
        return self.orientations[int(torch.randint(len(self.orientations), (1,), generator=generator))]

    def _posterior(self, network: Network, plan: Plan, index: int, first: int, last: int) -> Top1Posterior:
        """Posterior of slices first..last - 1 of a scan, weighted by the location prior for whole scans."""
        scans = self.scans
        slab, spacing = scans.slices(index, first, last), scans.spacing_mm[index]
        if last - first < len(scans.images[index]):
            plan = replace(plan, multiplanar=False)  # a slab is too thin for the other orientations
        posterior = top1_posterior(network, plan, slab, spacing, scans.device)
        if self.location_prior is None or last - first < len(scans.images[index]):
            return posterior  # a slab does not show enough to align the prior
        probability = self.location_prior.apply(posterior.best, posterior.probability, spacing)
        return replace(
            posterior,
            probability=probability,
            background=posterior.background + (posterior.probability - probability),
        )

    def _labels(self, network: Network, plan: Plan, index: int, first: int, last: int) -> Tensor:
        """Confident labels of slices first..last - 1 of a scan, uint8."""
        posterior = self._posterior(network, plan, index, first, last)
        labels = confident_labels(posterior, self.settings.confidence_threshold)
        return largest_components(labels) if self.settings.clean_up == "largest" else labels

    def _unlabelled(self, index: int, first: int, last: int) -> Tensor:
        """Which voxels of slices first..last - 1 of a scan nobody has annotated, bool."""
        return self.scans.targets[index][first:last] == IGNORE

    def _labelled(self, counts: Tensor, slab: tuple[int, int, int], labels: Tensor) -> Tensor:
        """Targets of a scan with pseudo-labels in the unannotated voxels of a slab.

        The pseudo-labelled voxels of each class are added to `counts` (256,).
        """
        index, first, last = slab
        targets = self.scans.targets[index].clone()
        unlabelled = self._unlabelled(*slab)
        counts += torch.bincount(labels[unlabelled].long(), minlength=256).cpu()
        targets[first:last] = torch.where(unlabelled, labels, targets[first:last])
        return targets


def confident_labels(top1_posterior: Top1Posterior, threshold: float) -> Tensor:
    """Threshold a posterior.

    Args:
        top1_posterior: The posterior of (slices, rows, columns) voxels.
        threshold: Minimum probability, 0 .. 1.

    Returns:
        Most probable class, uint8 (slices, rows, columns), IGNORE where it is less probable than `threshold`.
    """
    label = torch.where(top1_posterior.probability >= top1_posterior.background, top1_posterior.best, 0)
    confident = torch.maximum(top1_posterior.probability, top1_posterior.background) >= round(
        threshold * (LEVELS - 1)
    )
    return torch.where(confident, label, IGNORE).to(torch.uint8)


def largest_components(labels: Tensor) -> Tensor:
    """Keep only the largest connected component of each class.

    The other components become IGNORE instead of background: one of them may be the other kidney.

    Args:
        labels: Class numbers, uint8 (Z, Y, X), 0 background.

    Returns:
        A changed copy.
    """
    array = labels.cpu().numpy().copy()
    drop_components(array, 0, largest=True, fill_value=IGNORE)
    return torch.from_numpy(array).to(labels.device)


def _counts_text(classes: Sequence[str], voxels: Sequence[int]) -> str:
    """Number of pseudo-labelled voxels of each class as a text.

    A class without pseudo-labels may still be predicted: only confident voxels are counted.
    """
    counts = list(zip(classes, voxels, strict=False))
    labelled = [f"{name} {count:,} voxels" for name, count in counts if count]
    missing = [name for name, count in counts if not count]
    texts = (_listed("", labelled), _listed("none yet of ", missing))
    return "; ".join(text for text in texts if text)


def _listed(prefix: str, names: Sequence[str]) -> str:
    """Up to MAX_NAMES names; nothing where there are none."""
    ellipsis = ", ..." if len(names) > MAX_NAMES else ""
    return f"{prefix}{', '.join(names[:MAX_NAMES])}{ellipsis}" if names else ""


class PseudoLabelLoss(nn.Module):
    """Loss of self-training: pseudo-labels are learned like annotations.

    Args:
        weight: Weight of this term in the loss.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, batch: StepBatch, generator: Generator) -> Tensor:
        """Cross-entropy and Dice loss on the pseudo-labelled crops of the batch; a scalar."""
        scores = batch.network.head(batch.features[batch.n_labelled :])
        return partial_loss(scores, batch.target[batch.n_labelled :])
