"""What a step of fine-tuning does: patches around painted voxels, around guesses, and the loss on both.

A moving average of the weights is what predicts. What nobody painted comes in through `rounds`
(pseudo_labels.py): from its first round on a step sees as many patches again whose labels are guesses, and
the terms that were chosen (semi_supervised.py) make something of these.
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
from medssl.nn.methods.common import update_ema
from medssl.nn.models.unet import Network
from medssl.tasks import planner
from medssl.tasks.inference.location_prior import LocationPrior
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
from medssl.tasks.segment.pseudo_labels import PseudoLabelSchedule
from medssl.tasks.segment.pseudo_labels import Settings as SelfTraining
from medssl.tasks.segment.smoothing_width import SmoothingWidth
from medssl.tasks.segment.validation_slice import ValidationMonitor

INTERPOLATED_SHARE = 4
"""For so many patches around painted voxels one is drawn around a filled-in one, on top of these."""


class Finetuning:
    """Partial-label segmentation as a Task of the loop.

    `orientations` are the annotated scans in every orientation that the plan allows, the painted one first
    (annotated_crops.orientations). `terms` are losses by name: modules that take (StepBatch, Generator) and
    have a `weight`.
    """

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
        load_weights: InterpolatedLabels | None = None,
        location_prior: LocationPrior | None = None,
        smoothing_width: SmoothingWidth | None = None,
    ) -> None:
        self.validation, self.load_weights, self.smoothing_width = validation, load_weights, smoothing_width
        self.extra_state = location_prior.tensors() if location_prior else {}
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
        """Give network and average a head that fits the painted voxels (first_head.py)."""
        fit_head(
            self.network, self.plan, lambda own: self.patches(*self._draw_orientation(own), own), generator
        )
        self.average.load_state_dict(self.network.state_dict())

    def parameter_groups(self) -> list[dict[str, Any]]:
        named = list(self.network.named_parameters())
        fresh = [each for name, each in named if name not in self.pretrained]
        groups = [
            {
                "params": [each for name, each in named if name in self.pretrained],
                "rate": self.settings.pretrained_rate,
            },
            {"params": [*fresh, *self.terms.parameters()], "rate": 1.0},
        ]
        return [group for group in groups if group["params"]]

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy and Dice on annotated voxels of new patches; with guesses, the terms too.

        Among the numbers is the Dice of the slice that is held back, now and then.
        """
        if self.live is not None:
            self.live.update_when_due(self.average, self.plan)
        dice = self.validation.update_when_due(self.average, fraction) if self.validation else {}
        loss, numbers = self._loss(generator, fraction)
        if self.load_weights is not None:
            pseudo_labelled = self._interpolated_loss(self.load_weights, generator)
            numbers = {"loss": loss.detach(), "interpolated": pseudo_labelled.detach(), **numbers}
            loss = loss + self.settings.interpolated_weight * pseudo_labelled
        return loss, {**numbers, **dice}

    @property
    def average(self) -> Network:
        """The moving average of the weights."""
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
        more, pseudo_labelled = self.patches(*pseudo_labels.draw_orientation(generator), generator)
        if self.copy_paste_prob:
            more, pseudo_labelled = paste(
                image, target, more, pseudo_labelled, self.copy_paste_prob, generator
            )
        features = self.network.finest(torch.cat([image, more]))
        loss = partial_loss(self.network.head(features[: len(image)]), target)
        self._remember(loss)
        # The curve goes on with the loss on true labels: with the terms added it would seem to jump.
        numbers = {"loss": loss.detach()}
        batch = StepBatch(self.network, features, torch.cat([target, pseudo_labelled]), len(image))
        for name, term in self.terms.items():
            value = term(batch, generator)
            numbers[name] = value.detach()
            loss = loss + term.weight * value
        return loss, numbers

    def _draw_orientation(self, generator: Generator) -> tuple[DeviceDataset, AnnotatedVoxels]:
        """From where this step sees what is painted."""
        own, *others = self.orientations
        if others and float(torch.rand((), generator=generator)) < self.settings.multiplanar_prob:
            return others[int(torch.randint(len(others), (), generator=generator))]
        return own

    def _interpolated_loss(self, load_weights: InterpolatedLabels, generator: Generator) -> Tensor:
        """Cross-entropy and Dice on patches around filled-in voxels, fewer than those around painted ones."""
        plan = replace(self.plan, batch=max(1, self.plan.batch // INTERPOLATED_SHARE))
        image, target = self.patches(load_weights.dataset, load_weights.voxels, generator, plan)
        return partial_loss(self.network(image), target)

    def _remember(self, loss: Tensor) -> None:
        if self.rounds is not None:
            self.rounds.remember(loss)

    def patches(
        self, dataset: DeviceDataset, voxels: AnnotatedVoxels, generator: Generator, plan: Plan | None = None
    ) -> tuple[Tensor, Tensor]:
        """A batch of changed patches (B, ...) and their targets: the targets lie as the patches do."""
        settings, plan = self.settings, plan or self.plan
        views = sample_annotated(
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
            displacement = draw_displacement(
                plan.batch, size, generator, strength_vox=settings.displacement
            ).to(dataset.device)
        image = change_intensity(shown(cut(dataset, views, plan, displacement)), STRONG, generator)
        return image, cut_targets(dataset, views, plan, displacement)

    def after_step(self, fraction: float) -> None:
        """Move the average; at the start it follows closely, or it would remember the random weights."""
        self.steps += 1
        keep = min(self.settings.ema_decay, (1 + self.steps) / (10 + self.steps))
        update_ema(list(self.average.parameters()), list(self.network.parameters()), keep)

    def on_end(self, plan: dict[str, Any], step: int) -> dict[str, Any]:
        """What the last card says: the card's `plan` for these very weights, and the held slice's verdict."""
        if self.smoothing_width is not None:
            width = self.smoothing_width.width_mm(self.average, self.plan)
            self.plan, plan = replace(self.plan, smoothing_sigma_mm=width), {**plan, "between_mm": width}
        report = self.validation.report(self.average, self.plan, step) if self.validation else {}
        return {"plan": plan, **report}

    def shrink(self) -> str | None:
        plan = planner.smaller(self.plan)
        if plan is None:
            return None
        self.plan = plan
        return planner.in_words(plan)
