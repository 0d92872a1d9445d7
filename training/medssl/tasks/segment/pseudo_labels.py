"""Guesses: the network labels what nobody painted, in rounds; and self-training, which learns from that.

Pseudo-labels as in Lee (ICML workshop 2013), made by the moving average of the weights on undisturbed
images and learned under strong changes of shape and grey values (Xie et al., arXiv 1911.04252), which is
what makes guesses worth more than they cost. True labels always win over guesses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.core.labels.postprocess import drop_components
from medssl.core.project.project import IGNORE
from medssl.nn.data.device_dataset import DeviceDataset, in_one_storage
from medssl.nn.models.unet import Network
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.inference.predict import Top1Posterior, top1_posterior
from medssl.tasks.inference.threshold import LEVELS
from medssl.tasks.segment import annotated_crops
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels, StepBatch, orientations, partial_loss
from medssl.tasks.segment.smoothing_width import SmoothingWidth

VOXELS_A_ROUND = {"cpu": 1_200_000, "cuda": 200_000_000}
"""How much is labelled in a round: a few seconds' work on the device."""
SCANS_A_ROUND, SLICES_A_SCAN = 16, 16
"""Of a scan larger than its share of a round only some neighbouring slices are labelled."""
WHOLE_A_ROUND, LARGEST_WHOLE = 4, 1_000_000
"""Where structures keep their places, at least so many scans of up to so many voxels are labelled as a whole:
in a few slices no places can be found."""
NAMED = 8
"""So many classes are counted by name in what a round says."""


@dataclass(frozen=True)
class Settings(annotated_crops.Settings):
    """When guesses are made, which are kept, and what they weigh."""

    rounds: tuple[float, ...] = (0.35, 0.5, 0.65, 0.8)
    """When (share of the training) the network labels the unpainted voxels anew; () for never."""
    min_steps_between: int = 150
    """Steps before the first round and between two: a round costs as much as dozens of steps, and in a
    training of a minute four of them would take most of it."""
    start_below_loss: float = 0.35
    """Loss on the true labels below which the guesses are learned from."""
    confidence_threshold: float = 0.7
    """Least probability of a guess; what is less sure stays unlabelled."""
    copy_paste_prob: float = 0.5
    """Share of the patches around guesses into which a box of a painted patch is pasted (copy_paste.py)."""
    clean_up: Literal["none", "largest"] = "none"
    """"largest" keeps only the largest connected part of every class in a labelled slab."""
    pseudo_label_weight: float = 1.0
    """Weight of the loss on guesses, where it is part of the choice; the loss on true labels has 1."""


class PseudoLabels:
    """Pseudo-labels of a part of the scans, drawn anew in each round."""

    def __init__(
        self,
        scans: DeviceDataset,
        settings: Settings,
        classes: Sequence[str],
        emit: Emit,
        location_prior: LocationPrior | None = None,
        smoothing_width: SmoothingWidth | None = None,
    ) -> None:
        """layout: of the scans on which anything is annotated."""
        self.smoothing_width = smoothing_width
        self.scans, self.settings, self.classes, self.emit = scans, settings, classes, emit
        self.location_prior = location_prior.to(scans.device) if location_prior else None
        self.dataset = scans
        self.orientations: list[tuple[DeviceDataset, AnnotatedVoxels]] = []
        """What to cut patches from, for every side; empty before the first round, or if nothing was found."""

    def refresh(self, network: Network, plan: Plan, generator: Generator) -> None:
        """Let `network` label scans, drawn by the generator, until the round is full.

        It looks from the sides that `plan` says at scans that are labelled as a whole.
        """
        chosen = self._chosen(generator)
        network.eval()
        if self.smoothing_width is not None:
            plan = replace(plan, smoothing_sigma_mm=self.smoothing_width.width_mm(network, plan))
        counts = torch.zeros(256, dtype=torch.long)
        dataset = self.scans.part([index for index, _, _ in chosen])
        room = sum(target.numel() for target in dataset.targets)
        targets = in_one_storage(
            (self._labelled(counts, network, plan, *part) for part in chosen),
            torch.empty(room, dtype=torch.uint8, device=dataset.device),
        )
        self.dataset = replace(dataset, targets=targets)
        self.orientations = []
        with suppress(UserError):
            self.orientations = list(orientations(self.dataset, plan))
        if not self.orientations:
            return  # So far it sees background only; the painted slices alone go on teaching it.
        self.emit(
            Notice(
                f"Confident pseudo-labels in {len(chosen)} of {len(self.scans)} scans: "
                f"{_counted(self.classes, counts.tolist()[1:])}."
            )
        )

    def room(self) -> tuple[int, int]:
        """How many voxels a round labels in all, and of one scan."""
        sizes = sorted(image.numel() for image in self.scans.images)
        typical = sizes[len(sizes) // 2]
        whole = VOXELS_A_ROUND.get(self.scans.device.type, VOXELS_A_ROUND["cpu"])
        share = whole // SCANS_A_ROUND
        if self.location_prior is None or typical > LARGEST_WHOLE:
            return whole, share
        return max(whole, WHOLE_A_ROUND * typical), max(share, LARGEST_WHOLE)

    def _chosen(self, generator: Generator) -> list[tuple[int, int, int]]:
        """(scan, first slice, last slice + 1) of what a round labels."""
        left, share = self.room()
        chosen: list[tuple[int, int, int]] = []
        for index in torch.randperm(len(self.scans), generator=generator).tolist():
            slices, rows, columns = self.scans.images[index].shape
            count = min(slices, max(SLICES_A_SCAN, share // (rows * columns)))
            if chosen and left < count * rows * columns:
                break
            left -= count * rows * columns
            first = int(torch.randint(slices - count + 1, (1,), generator=generator))
            chosen.append((index, first, first + count))
        return chosen

    def draw_orientation(self, generator: Generator) -> tuple[DeviceDataset, AnnotatedVoxels]:
        """One of `orientations`, drawn."""
        return self.orientations[int(torch.randint(len(self.orientations), (1,), generator=generator))]

    def _look(self, network: Network, plan: Plan, index: int, first: int, last: int) -> Top1Posterior:
        """What the network makes of slices first..last - 1 of a scan."""
        scans = self.scans
        part, spacing = scans.images[index][first:last], scans.spacing_mm[index]
        if last - first < len(scans.images[index]):
            plan = replace(plan, multiplanar=False)  # a slab is too thin to be looked at from its edges
        posterior = top1_posterior(network, plan, part, spacing, scans.device)
        if self.location_prior is None or last - first < len(scans.images[index]):
            return posterior  # nor does it show how structures lie
        probability = self.location_prior.apply(posterior.best, posterior.probability, spacing)
        return replace(
            posterior,
            probability=probability,
            background=posterior.background + (posterior.probability - probability),
        )

    def _labelled(
        self, counts: Tensor, network: Network, plan: Plan, index: int, first: int, last: int
    ) -> Tensor:
        """The scan's targets with pseudo-labels on slices first..last - 1 where nothing is annotated.

        The guessed voxels of every class are added to `counts` (256,).
        """
        targets = self.scans.targets[index].clone()
        labels = confident_labels(
            self._look(network, plan, index, first, last), self.settings.confidence_threshold
        )
        if self.settings.clean_up == "largest":
            labels = largest_components(labels)
        open_ = targets[first:last] == IGNORE
        counts += torch.bincount(labels[open_].long(), minlength=256).cpu()
        targets[first:last] = torch.where(open_, labels, targets[first:last])
        return targets


def confident_labels(top1_posterior: Top1Posterior, threshold: float) -> Tensor:
    """The most probable class, uint8, and IGNORE where its probability is below `threshold` (0..1)."""
    label = torch.where(top1_posterior.probability >= top1_posterior.background, top1_posterior.best, 0)
    confident = torch.maximum(top1_posterior.probability, top1_posterior.background) >= round(
        threshold * (LEVELS - 1)
    )
    return torch.where(confident, label, IGNORE).to(torch.uint8)


def largest_components(labels: Tensor) -> Tensor:
    """Labels (Z, Y, X) uint8 with the largest connected part of every class; smaller ones become IGNORE.

    Background stays. An island is called unknown instead of background: it may be the other kidney.
    """
    array = labels.cpu().numpy().copy()
    drop_components(array, 0, largest=True, fill_value=IGNORE)
    return torch.from_numpy(array).to(labels.device)


def _counted(classes: Sequence[str], voxels: Sequence[int]) -> str:
    """Number of pseudo-labelled voxels of each class, in words.

    A class without any may well be in the prediction: only confident voxels are learned from.
    """
    counts = list(zip(classes, voxels, strict=False))
    said = [f"{name} {count:,} voxels" for name, count in counts if count]
    missing = [name for name, count in counts if not count]
    listed = ", ".join(said[:NAMED]) + (", ..." if len(said) > NAMED else "")
    none = (
        f"none yet of {', '.join(missing[:NAMED])}{', ...' if len(missing) > NAMED else ''}"
        if missing
        else ""
    )
    return "; ".join(part for part in (listed, none) if part)


class PseudoLabelSchedule(nn.Module):
    """When guesses are made anew, and by which weights; saved, so that a resumed training makes the same."""

    def __init__(self, network: Network, pseudo_labels: PseudoLabels, settings: Settings) -> None:
        super().__init__()
        self.pseudo_labels, self.settings = pseudo_labels, settings
        self.pseudo_labeller = copy.deepcopy(network).requires_grad_(False)
        self.recent_loss: Tensor
        self.round: Tensor
        self.steps: Tensor
        self.register_buffer("recent_loss", torch.tensor(torch.inf))
        self.register_buffer("round", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))
        self.register_load_state_dict_pre_hook(_count_steps_anew)
        self.made: int | None = None
        """The round whose guesses are there; None as long as this may be a resumed training."""

    def remember(self, loss: Tensor) -> None:
        """A moving average over some twenty steps of the loss on true labels, left on the device."""
        self.steps += 1
        recent, new = self.recent_loss, loss.detach().float()
        recent.copy_(torch.where(recent.isinf(), new, recent.lerp(new, 0.05)))

    def pseudo_labels_at(
        self, fraction: float, average: nn.Module, plan: Plan, generator: Generator
    ) -> PseudoLabels | None:
        """The current guesses, made anew by `average` where a round is due; None before the first.

        A round waits until the network fits the true labels: before, it would teach itself its mistakes. And
        for `min_steps_between`, not for seconds: the same job with a budget in steps gives the same rounds.
        """
        if self.made is None:
            self.made = int(self.round)
            if self.made:
                self._label_scans(plan, generator)
        due = sum(fraction >= start for start in self.settings.rounds)
        rested = int(self.steps) >= self.settings.min_steps_between
        if due > self.made and rested and float(self.recent_loss) < self.settings.start_below_loss:
            self.made = due
            self.steps.fill_(0)
            self.round.fill_(due)
            self.pseudo_labeller.load_state_dict(average.state_dict())
            self._label_scans(plan, generator)
        return self.pseudo_labels if self.made else None

    def _label_scans(self, plan: Plan, generator: Generator) -> None:
        """Make the guesses of this round, drawn by the training's seed and the round alone."""
        own = Generator().manual_seed(generator.initial_seed() + (self.made or 0))
        self.pseudo_labels.refresh(self.pseudo_labeller, plan, own)


def _count_steps_anew(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Version 0.1 did not count the steps since the last round."""
    state.setdefault(f"{prefix}steps", torch.tensor(0))


class PseudoLabelLoss(nn.Module):
    """Self-training: guesses are learned like true labels."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, batch: StepBatch, generator: Generator) -> Tensor:
        """Cross-entropy and Dice on the patches around guesses."""
        scores = batch.network.head(batch.features[batch.n_labelled :])
        return partial_loss(scores, batch.target[batch.n_labelled :])
