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
from medssl.nn.data.augment import STRONG, change_intensity, draw_bend
from medssl.nn.data.crops import cut, cut_targets, shown
from medssl.nn.data.device_dataset import Pool
from medssl.nn.methods.common import follow
from medssl.nn.models.unet import Network
from medssl.tasks import planner
from medssl.tasks.inference.location_prior import Layout
from medssl.tasks.segment.annotated_crops import (
    AnnotatedVoxels,
    Seen,
    Settings,
    partial_loss,
    sample_annotated,
)
from medssl.tasks.segment.copy_paste import paste
from medssl.tasks.segment.first_head import fit_head
from medssl.tasks.segment.interpolated_labels import FilledIn
from medssl.tasks.segment.live_preview import LivePreview
from medssl.tasks.segment.pseudo_labels import Rounds
from medssl.tasks.segment.pseudo_labels import Settings as SelfTraining
from medssl.tasks.segment.smoothing_width import Neighbours
from medssl.tasks.segment.validation_slice import Watch

FILLED_SHARE = 4
"""For so many patches around painted voxels one is drawn around a filled-in one, on top of these."""


class Finetuning:
    """Partial-label segmentation as a Task of the loop.

    `painted` are the annotated scans from every side, the painted one first (partial.seen_from); `terms` are
    losses by name, modules that take (Seen, Generator) and have a `weight`.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        settings: Settings,
        painted: Sequence[tuple[Pool, AnnotatedVoxels]],
        filled: set[str],
        rounds: Rounds | None = None,
        terms: Mapping[str, nn.Module] | None = None,
        watch: Watch | None = None,
        fill: FilledIn | None = None,
        layout: Layout | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.watch, self.fill, self.neighbours = watch, fill, neighbours
        self.kept = layout.tensors() if layout else {}
        self.pasted = settings.pasted if isinstance(settings, SelfTraining) else 0.0
        self.network, self.plan, self.settings, self.filled = network, plan, settings, filled
        self.painted = painted
        self.pool, self.voxels = painted[0]
        self.rounds, self.terms = rounds, nn.ModuleDict(terms)
        average = copy.deepcopy(network).requires_grad_(False)
        self.modules = nn.ModuleDict({"network": network, "average": average, "terms": self.terms})
        if rounds is not None:
            self.modules["rounds"] = rounds
        self.live: LivePreview | None = None
        self.steps = 0

    def fit_head(self, generator: Generator) -> None:
        """Give network and average a head that fits the painted voxels (first_head.py)."""
        fit_head(self.network, self.plan, lambda own: self.patches(*self._side(own), own), generator)
        self.average.load_state_dict(self.network.state_dict())

    def parameter_groups(self) -> list[dict[str, Any]]:
        named = list(self.network.named_parameters())
        fresh = [each for name, each in named if name not in self.filled]
        groups = [
            {
                "params": [each for name, each in named if name in self.filled],
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
            self.live.look_when_due(self.average, self.plan)
        seen = self.watch.look_when_due(self.average, fraction) if self.watch else {}
        loss, numbers = self._loss(generator, fraction)
        if self.fill is not None:
            guessed = self._fill_loss(self.fill, generator)
            numbers = {"loss": loss.detach(), "fill": guessed.detach(), **numbers}
            loss = loss + self.settings.fill_weight * guessed
        return loss, {**numbers, **seen}

    @property
    def average(self) -> Network:
        """The moving average of the weights."""
        return cast(Network, self.modules["average"])

    def _loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = self.patches(*self._side(generator), generator)
        guesses = None
        if self.rounds is not None:
            guesses = self.rounds.guesses_at(fraction, self.average, self.plan, generator)
        if guesses is None or not guesses.seen:
            loss = partial_loss(self.network(image), target)
            self._remember(loss)
            return loss, {}
        more, guessed = self.patches(*guesses.side(generator), generator)
        if self.pasted:
            more, guessed = paste(image, target, more, guessed, self.pasted, generator)
        features = self.network.finest(torch.cat([image, more]))
        loss = partial_loss(self.network.head(features[: len(image)]), target)
        self._remember(loss)
        # The curve goes on with the loss on true labels: with the terms added it would seem to jump.
        numbers = {"loss": loss.detach()}
        seen = Seen(self.network, features, torch.cat([target, guessed]), len(image))
        for name, term in self.terms.items():
            value = term(seen, generator)
            numbers[name] = value.detach()
            loss = loss + term.weight * value
        return loss, numbers

    def _side(self, generator: Generator) -> tuple[Pool, AnnotatedVoxels]:
        """From where this step sees what is painted."""
        own, *others = self.painted
        if others and float(torch.rand((), generator=generator)) < self.settings.other_sides:
            return others[int(torch.randint(len(others), (), generator=generator))]
        return own

    def _fill_loss(self, fill: FilledIn, generator: Generator) -> Tensor:
        """Cross-entropy and Dice on patches around filled-in voxels, fewer than those around painted ones."""
        plan = replace(self.plan, batch=max(1, self.plan.batch // FILLED_SHARE))
        image, target = self.patches(fill.pool, fill.voxels, generator, plan)
        return partial_loss(self.network(image), target)

    def _remember(self, loss: Tensor) -> None:
        if self.rounds is not None:
            self.rounds.remember(loss)

    def patches(
        self, pool: Pool, voxels: AnnotatedVoxels, generator: Generator, plan: Plan | None = None
    ) -> tuple[Tensor, Tensor]:
        """A batch of changed patches (B, ...) and their targets: the targets lie as the patches do."""
        settings, plan = self.settings, plan or self.plan
        views = sample_annotated(
            pool,
            plan,
            voxels,
            generator,
            foreground=settings.foreground,
            zoom=settings.zoom,
            turn=settings.turn,
            reach=settings.reach,
        )
        bend = None
        if settings.bend:
            size = plan.patch_vox[3 - plan.dims :]
            bend = draw_bend(plan.batch, size, generator, strength_vox=settings.bend).to(pool.device)
        image = change_intensity(shown(cut(pool, views, plan, bend)), STRONG, generator)
        return image, cut_targets(pool, views, plan, bend)

    def after_step(self, fraction: float) -> None:
        """Move the average; at the start it follows closely, or it would remember the random weights."""
        self.steps += 1
        keep = min(self.settings.average, (1 + self.steps) / (10 + self.steps))
        follow(list(self.average.parameters()), list(self.network.parameters()), keep)

    def close(self, plan: dict[str, Any], step: int) -> dict[str, Any]:
        """What the last card says: the card's `plan` for these very weights, and the held slice's verdict."""
        if self.neighbours is not None:
            width = self.neighbours.width_mm(self.average, self.plan)
            self.plan, plan = replace(self.plan, between_mm=width), {**plan, "between_mm": width}
        verdict = self.watch.verdict(self.average, self.plan, step) if self.watch else {}
        return {"plan": plan, **verdict}

    def shrink(self) -> str | None:
        plan = planner.smaller(self.plan)
        if plan is None:
            return None
        self.plan = plan
        return planner.in_words(plan)
