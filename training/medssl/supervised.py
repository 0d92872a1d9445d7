"""Learning from painted voxels: patches around them, the loss on them, a moving average that predicts.

What nobody painted comes in through `rounds` (self_training.py): from its first round on a step sees as many
patches again whose labels are guesses, and the terms that were chosen make something of these.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from medssl.augment import STRONG, change_intensity, draw_bend
from medssl.config import Plan
from medssl.methods.parts import follow
from medssl.networks import Network
from medssl.partial import AnnotatedVoxels, partial_loss, sample_annotated
from medssl.pool import Pool
from medssl.views import cut, cut_targets, shown

if TYPE_CHECKING:
    from medssl.self_training import Rounds


@dataclass(frozen=True)
class Settings:
    """How patches are drawn and changed, and how weights move."""

    foreground: float = 0.67
    """Share of patches around a voxel of a painted class (classes drawn evenly)."""
    zoom: tuple[float, float] = (0.8, 1.25)
    turn: float = 0.35
    """Largest angle of the patch, radians."""
    bend: float = 3.0
    """Typical largest displacement of the elastic deformation, working voxels."""
    reach: float = 0.8
    """How far from the patch's middle the annotated voxel may lie, as a share of the patch."""
    average: float = 0.99
    """Momentum of the moving average of the weights; the average is what predicts."""
    background_weight: float = 0.75
    """Factor on the background's probability where a voxel is given its class, in guesses and predictions.

    Below 1 makes structures larger. Unsure voxels lie mostly around them, and the best decision for Dice lies
    below a probability of a half (Lipton et al., ECML 2014).
    """
    pretrained_rate: float = 1.0
    """Factor of the learning rate for layers that start from pre-trained weights."""


@dataclass(frozen=True)
class Seen:
    """A step's patches as the network sees them: those around painted voxels, then those around guesses."""

    network: Network
    features: Tensor
    """(N, C, ...) finest decoder map; the network's head makes scores of it."""
    target: Tensor
    """(N, ...) long: 0 background, 1..K, 255 unknown."""
    painted: int
    """So many of them are the first."""


class Finetuning:
    """Partial-label segmentation as a Task of the loop.

    `terms` are losses by name, modules that take (Seen, Generator) and have a `weight`.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        settings: Settings,
        pool: Pool,
        voxels: AnnotatedVoxels,
        filled: set[str],
        rounds: Rounds | None = None,
        terms: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.network, self.plan, self.settings, self.filled = network, plan, settings, filled
        self.pool, self.voxels = pool, voxels
        self.rounds, self.terms = rounds, nn.ModuleDict(terms)
        average = copy.deepcopy(network).requires_grad_(False)
        self.modules = nn.ModuleDict({"network": network, "average": average, "terms": self.terms})
        if rounds is not None:
            self.modules["rounds"] = rounds
        self.steps = 0

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
        """Cross-entropy and Dice on annotated voxels of new patches; with guesses, the terms too."""
        image, target = self.patches(self.pool, self.voxels, generator)
        guesses = None
        if self.rounds is not None:
            guesses = self.rounds.guesses_at(fraction, self.modules["average"], self.plan, generator)
        if guesses is None or not guesses.seen:
            loss = partial_loss(self.network(image), target)
            self._remember(loss)
            return loss, {}
        more, guessed = self.patches(*guesses.side(generator), generator)
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

    def _remember(self, loss: Tensor) -> None:
        if self.rounds is not None:
            self.rounds.remember(loss)

    def patches(self, pool: Pool, voxels: AnnotatedVoxels, generator: Generator) -> tuple[Tensor, Tensor]:
        """A batch of changed patches (B, ...) and their targets: the targets lie as the patches do."""
        settings, plan = self.settings, self.plan
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
        follow(list(self.modules["average"].parameters()), list(self.network.parameters()), keep)

    def shrink(self) -> str | None:
        if self.plan.batch < 2:
            return None
        self.plan = replace(self.plan, batch=self.plan.batch // 2)
        return f"Memory was short: the batch is now {self.plan.batch}, and the training goes on."
