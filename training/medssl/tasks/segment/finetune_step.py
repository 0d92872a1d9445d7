"""One step of fine-tuning: crops around annotated and pseudo-labelled voxels, and the loss on both.

Predictions use a moving average of the weights. Unannotated voxels enter through `rounds`
(pseudo_labels.py): from the first round on a step has as many pseudo-labelled crops as annotated ones, and
the chosen loss terms (semi_supervised.py) use them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from medssl.core.jobs import Plan
from medssl.nn.data.augment import STRONG, change_intensity, draw_displacement
from medssl.nn.data.crops import cut, cut_targets, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.distributed import world
from medssl.nn.methods.common import update_ema
from medssl.nn.models.unet import Network
from medssl.nn.shards import Shard, for_all, shard
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.inference.stored_location_prior import tensors_of
from medssl.tasks.plan import patch_size
from medssl.tasks.segment.annotated_crops import (
    AnnotatedVoxels,
    Settings,
    StepBatch,
    partial_loss,
    sample_annotated,
)
from medssl.tasks.segment.copy_paste import paste
from medssl.tasks.segment.first_head import fit_head
from medssl.tasks.segment.interpolated_labels import InterpolatedLabels
from medssl.tasks.segment.live_preview import LivePreview
from medssl.tasks.segment.pseudo_label_schedule import PseudoLabelSchedule
from medssl.tasks.segment.pseudo_labels import Settings as SelfTraining
from medssl.tasks.segment.smoothing_width import SmoothingWidth
from medssl.tasks.segment.validation_slice import ValidationMonitor

CROPS_PER_INTERPOLATED = 4
"""One crop around an interpolated label is added per so many crops around annotated voxels."""


class Finetuning:
    """Partial-label segmentation as a Task of the loop.

    Args:
        network: The network to train.
        plan: Its plan.
        settings: Settings of the fine-tuning.
        orientations: The annotated scans in every orientation that the plan allows, the annotated one first
            (annotated_crops.orientations).
        pretrained: Names of the parameters that start from pre-trained weights.
        rounds: Makes pseudo-labels; None for none.
        terms: Additional losses by name: modules that take (StepBatch, Generator) and have a `weight`.
        validation: Evaluates the validation slice.
        interpolated: Labels interpolated between complete slices.
        location_prior: Saved with the weights.
        smoothing_width: Chooses the width of the posterior smoothing at the end.
    """

    stages = (0.0,)

    def __init__(
        self,
        network: Network,
        plan: Plan,
        settings: Settings,
        orientations: Sequence[tuple[DeviceDataset, AnnotatedVoxels]],
        pretrained: set[str],
        rounds: PseudoLabelSchedule | None = None,
        terms: Mapping[str, nn.Module] | None = None,
        validation: ValidationMonitor | None = None,
        interpolated: InterpolatedLabels | None = None,
        location_prior: LocationPrior | None = None,
        smoothing_width: SmoothingWidth | None = None,
    ) -> None:
        self.validation, self.interpolated, self.smoothing_width = validation, interpolated, smoothing_width
        self.extra_state = tensors_of(location_prior) if location_prior else {}
        self.copy_paste_prob = settings.copy_paste_prob if isinstance(settings, SelfTraining) else 0.0
        self.network, self.plan, self.settings, self.pretrained = network, plan, settings, pretrained
        self.orientations = orientations
        self.dataset, self.voxels = orientations[0]
        self.rounds, self.terms = rounds, nn.ModuleDict(terms)
        average = copy.deepcopy(network).requires_grad_(False)
        self.modules = nn.ModuleDict({"network": network, "average": average, "terms": self.terms})
        if rounds is not None:
            self.modules["rounds"] = rounds
        self.live: LivePreview | None = None
        self.steps = 0

    def fit_head(self, generator: Generator) -> None:
        """Fit the head of the network and of the average to the annotated voxels (first_head.py)."""

        def draw(source: Generator) -> tuple[Tensor, Tensor]:
            whole = Shard.whole(self.plan.batch)  # all processes fit the same head
            return self.patches(*self._draw_orientation(source), source, own=whole)

        fit_head(self.network, self.plan, draw, generator)
        self.average.load_state_dict(self.network.state_dict())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Pre-trained parameters, with their factor of the learning rate, and all other parameters."""
        named = list(self.network.named_parameters())
        pretrained = [parameter for name, parameter in named if name in self.pretrained]
        fresh = [parameter for name, parameter in named if name not in self.pretrained]
        groups = [
            {"params": pretrained, "rate": self.settings.pretrained_rate},
            {"params": [*fresh, *self.terms.parameters()], "rate": 1.0},
        ]
        return [group for group in groups if group["params"]]

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy and Dice on annotated voxels of new crops, and the terms on pseudo-labels.

        Args:
            generator: Source of all random draws.
            fraction: Completed fraction of the training, 0 .. 1.

        Returns:
            The loss (a scalar), and scalars to log: at times the Dice of the validation slice.
        """
        if self.live is not None:
            self.live.update_when_due(self.average, self.plan)
        dice = self.validation.update_when_due(self.average, fraction) if self.validation else {}
        loss, numbers = self._loss(generator, fraction)
        if self.interpolated is not None:
            interpolated = self._interpolated_loss(self.interpolated, generator)
            numbers = {"loss": loss.detach(), "interpolated": interpolated.detach(), **numbers}
            loss = loss + self.settings.interpolated_weight * interpolated
        return loss, {**numbers, **dice}

    @property
    def average(self) -> Network:
        """The network with the moving average of the weights."""
        return cast(Network, self.modules["average"])

    def _loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = self.patches(*self._draw_orientation(generator), generator)
        pseudo_labels = None
        if self.rounds is not None:
            pseudo_labels = self.rounds.pseudo_labels_at(fraction, self.average, self.plan, generator)
        if pseudo_labels is None or not pseudo_labels.orientations:
            loss = partial_loss(self.network(image), target)
            self._remember(loss)
            return loss, {}
        pseudo_image, pseudo_target = self.patches(*pseudo_labels.draw_orientation(generator), generator)
        own = shard(self.plan.batch)
        if self.copy_paste_prob:
            pseudo_image, pseudo_target = paste(
                image, target, pseudo_image, pseudo_target, self.copy_paste_prob, generator, own
            )
        features = self.network.finest(torch.cat([image, pseudo_image]))
        loss = partial_loss(self.network.head(features[: len(image)]), target)
        self._remember(loss)
        # The logged loss stays the one on annotated voxels: with the terms added its curve would jump.
        numbers = {"loss": loss.detach()}
        targets = torch.cat([target, pseudo_target])
        batch = StepBatch(self.network, features, targets, len(image), own.pairs())
        for name, term in self.terms.items():
            value = term(batch, generator)
            numbers[name] = value.detach()
            loss = loss + term.weight * value
        return loss, numbers

    def _draw_orientation(self, generator: Generator) -> tuple[DeviceDataset, AnnotatedVoxels]:
        """The orientation of the annotated crops of this step."""
        annotated, *remaining = self.orientations
        if remaining and float(torch.rand((), generator=generator)) < self.settings.multiplanar_prob:
            return remaining[int(torch.randint(len(remaining), (), generator=generator))]
        return annotated

    def _interpolated_loss(self, interpolated: InterpolatedLabels, generator: Generator) -> Tensor:
        """Cross-entropy and Dice on crops around interpolated labels, in a smaller batch."""
        plan = replace(self.plan, batch=for_all(self.plan.batch // CROPS_PER_INTERPOLATED))
        image, target = self.patches(interpolated.dataset, interpolated.voxels, generator, plan)
        return partial_loss(self.network(image), target)

    def _remember(self, loss: Tensor) -> None:
        if self.rounds is not None:
            self.rounds.remember(loss)

    def patches(
        self,
        dataset: DeviceDataset,
        voxels: AnnotatedVoxels,
        generator: Generator,
        plan: Plan | None = None,
        own: Shard | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw a batch of augmented crops around annotated voxels, and cut a shard of it.

        Args:
            dataset: Scans with targets.
            voxels: Their annotated voxels.
            generator: Source of all random draws.
            plan: Gives the batch and patch size; None for the plan of the network.
            own: The shard; None for that of this process.

        Returns:
            Images (B, C, ...) float, and targets (B, ...) long on the same grid.
        """
        settings, plan = self.settings, plan or self.plan
        own = own or shard(plan.batch)
        crops = sample_annotated(
            dataset,
            plan,
            voxels,
            generator,
            foreground=settings.foreground,
            zoom=settings.zoom,
            rotation=settings.rotation,
            reach=settings.reach,
        )
        displacement = None
        if settings.displacement:
            size = plan.patch_vox[3 - plan.dims :]
            displacement = own.of(
                draw_displacement(
                    plan.batch, size, generator, strength_vox=settings.displacement, device=dataset.device
                )
            )
        crops = own.of(crops)
        image = shown(cut(dataset, crops, plan, displacement))
        image = change_intensity(image, STRONG, generator, plan.n_channels, own)
        return image, cut_targets(dataset, crops, plan, displacement)

    def after_step(self, fraction: float) -> None:
        """Update the moving average, with a lower decay at first, so that it forgets the random weights."""
        self.steps += 1
        decay = min(self.settings.ema_decay, (1 + self.steps) / (10 + self.steps))
        update_ema(list(self.average.parameters()), list(self.network.parameters()), decay)

    def on_end(self, plan: dict[str, Any], step: int) -> dict[str, Any]:
        """Entries of the final card.

        Args:
            plan: The plan in the card, as JSON.
            step: Number of completed steps.

        Returns:
            The plan with the smoothing width for the final weights, and the result on the validation slice.
        """
        if self.smoothing_width is not None:
            width = self.smoothing_width.width_mm(self.average, self.plan)
            self.plan, plan = (
                replace(self.plan, smoothing_sigma_mm=width),
                {**plan, "smoothing_sigma_mm": width},
            )
        report = self.validation.report(self.average, self.plan, step) if self.validation else {}
        return {"plan": plan, **report}

    def shrink(self) -> str | None:
        """Halve the batch or the patch; returns the notice, None if the patch is minimal."""
        plan = patch_size.smaller(self.plan)
        if plan is None:
            return None
        self.plan = plan
        if self.rounds is not None and world() > 1:  # one process may have finished a round, another one not
            self.rounds.current_round = None
        return patch_size.in_words(plan)
