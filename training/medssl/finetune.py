"""Fine-tuning: segmentation from annotated voxels, starting from pre-trained or random weights.

After a third of the training the network labels what nobody painted, in this and in all other scans, and
learns from its own guesses too, in rounds (self_training.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from medssl import checkpoint, config, devices, planner
from medssl.augment import STRONG, change_intensity, draw_bend
from medssl.config import FinetuneJob, Plan
from medssl.errors import UserError
from medssl.events import Emit, Notice, Started
from medssl.loop import Budget, settings_for, train
from medssl.methods import find
from medssl.methods.parts import follow
from medssl.networks import Network, build, load_matching
from medssl.partial import AnnotatedVoxels, partial_loss, sample_annotated
from medssl.pool import Pool, join, load_pool
from medssl.project import Project, Run
from medssl.self_training import Guesses
from medssl.views import cut, cut_targets, shown


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
    pretrained_rate: float = 1.0
    """Factor of the learning rate for layers that start from pre-trained weights."""
    rounds: tuple[float, ...] = (0.35, 0.5, 0.65, 0.8)
    """When (share of the training) the network labels the unpainted voxels anew; () for never."""
    trusted_loss: float = 0.35
    """Loss on the true labels below which the guesses are learned from."""
    guess_weight: float = 1.0
    """Weight of the loss on those guesses; the loss on true labels has 1."""


class Finetuning:
    """Partial-label segmentation as a Task of the loop."""

    def __init__(
        self,
        network: Network,
        plan: Plan,
        settings: Settings,
        pool: Pool,
        filled: set[str],
        guesses: Guesses | None = None,
    ) -> None:
        self.plan, self.settings, self.pool, self.guesses = plan, settings, pool, guesses
        self.voxels = AnnotatedVoxels.of(pool)
        self.filled = filled
        average = copy.deepcopy(network).requires_grad_(False)
        self.modules = nn.ModuleDict({"network": network, "average": average})
        # What made the current guesses, and in which round: a resumed training makes the same ones again.
        self.modules["guesser"] = copy.deepcopy(average)
        self.modules.register_buffer("round", torch.tensor(0))
        self.round: int | None = None
        self.modules.register_buffer("recent_loss", torch.tensor(torch.inf))
        self.steps = 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        named = list(self.modules["network"].named_parameters())
        groups = [
            {
                "params": [each for name, each in named if name in self.filled],
                "rate": self.settings.pretrained_rate,
            },
            {"params": [each for name, each in named if name not in self.filled], "rate": 1.0},
        ]
        return [group for group in groups if group["params"]]

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy and Dice on the annotated voxels of a new batch of changed patches."""
        image, target = self._patches(self.pool, self.voxels, generator)
        guesses = self._guesses(generator, fraction)
        if guesses is None or guesses.voxels is None:
            loss = partial_loss(self.modules["network"](image), target)
            self._remember(loss)
            return loss, {}
        more, guessed = self._patches(guesses.pool, guesses.voxels, generator)
        true_scores, guess_scores = self.modules["network"](torch.cat([image, more])).chunk(2)
        loss = partial_loss(true_scores, target)
        self._remember(loss)
        guess_loss = partial_loss(guess_scores, guessed)
        # The curve goes on with the loss on true labels: with the guesses' added it would seem to jump.
        said = {"loss": loss.detach(), "guesses": guess_loss.detach()}
        return loss + self.settings.guess_weight * guess_loss, said

    def _remember(self, loss: Tensor) -> None:
        """A moving average over some twenty steps of the loss on true labels, left on the device."""
        recent, new = self.modules.recent_loss, loss.detach().float()
        recent.copy_(torch.where(recent.isinf(), new, recent.lerp(new, 0.05)))

    def _guesses(self, generator: Generator, fraction: float) -> Guesses | None:
        """The current pseudo-labels, made anew where a round is due; None before the first.

        A round waits until the network fits the true labels: before, it would teach itself its mistakes.
        """
        if self.guesses is None:
            return None
        if self.round is None:
            self.round = int(self.modules.round)
            if self.round:
                self._guess(self.guesses, generator)
        due = sum(fraction >= start for start in self.settings.rounds)
        if due > self.round and float(self.modules.recent_loss) < self.settings.trusted_loss:
            self.round = due
            self.modules.round.fill_(due)
            self.modules["guesser"].load_state_dict(self.modules["average"].state_dict())
            self._guess(self.guesses, generator)
        return self.guesses if self.round else None

    def _guess(self, guesses: Guesses, generator: Generator) -> None:
        """Make the guesses of this round, drawn by the training's seed and the round alone."""
        own = Generator().manual_seed(generator.initial_seed() + (self.round or 0))
        guesses.refresh(self.modules["guesser"], self.plan, own)

    def _patches(self, pool: Pool, voxels: AnnotatedVoxels, generator: Generator) -> tuple[Tensor, Tensor]:
        """A batch of changed patches (B, ...) and their targets."""
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
        follow(list(self.modules["average"].parameters()), list(self.modules["network"].parameters()), keep)

    def shrink(self) -> str | None:
        if self.plan.batch < 2:
            return None
        self.plan = replace(self.plan, batch=self.plan.batch // 2)
        return f"Memory was short: the batch is now {self.plan.batch}, and the training goes on."


def finetune(
    project: Project,
    run: Run,
    job: FinetuneJob,
    emit: Emit,
    should_stop: Callable[[], bool],
    resume: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train on the project's annotations; the checkpoint in the run's folder is the result.

    Raises UserError ("no-annotation", "no-classes", "one-class", ...) before the first step.
    """
    scans = check_annotations(project)
    classes = [label.id for label in project.classes]
    device = devices.choose(job.device)
    start = checkpoint.load(project.run(job.weights).checkpoint) if job.weights else None
    plan, reasons = _plan(project, run, scans, device, job, start, resume)
    torch.set_num_threads(plan.threads)
    emit(Started(run.id, config.to_json(plan), reasons))
    loop_settings, settings = settings_for(f"finetune-{job.recipe}", job.settings, Settings, plan)
    pool = load_pool(project, scans, plan, device, class_ids=classes)
    guesses = None
    if settings.rounds:
        # Annotated scans too: most of their voxels are unpainted, and what is painted stays as it is.
        others = [scan.id for scan in project.scans.values() if not scan.held_out and scan.id not in scans]
        guesses = Guesses(join(pool, load_pool(project, others, plan, device)) if others else pool, emit)
    network = build(plan, len(classes) + 1, job.seed)
    filled = _fill(network, start, classes, emit) if start else set()
    task = Finetuning(network, plan, settings, pool, filled, guesses)
    task.modules.to(device)
    card = {
        "kind": "finetune",
        "plan": config.to_json(plan),
        "job": config.to_json(job),
        "classes": [{"id": each.id, "name": each.name} for each in project.classes],
        "scans": scans,
        "weights": job.weights,
    }
    tensors = None
    if resume:
        _check_classes(run, resume[1], classes)
        tensors, card = resume[0], {**resume[1], **card}
        task.steps = card["step"]
    position, stopped = train(
        task,
        loop_settings,
        Budget(job.steps, job.minutes),
        Generator().manual_seed(job.seed),
        run.checkpoint,
        card,
        emit,
        should_stop,
        "fine-tuning",
        tensors,
    )
    return {"run": run.id, "step": position.step, "seconds": position.elapsed_s, "stopped": stopped}


def check_annotations(project: Project) -> list[str]:
    """The annotated scans.

    Raises UserError ("no-classes", "no-annotation") where there is nothing to learn.
    """
    if not project.classes:
        raise UserError(f"{project.root} has no class; add the structure to segment.", code="no-classes")
    scans = list(project.annotated())
    if not scans:
        raise UserError(
            f"{project.root} has no annotation; paint some slices of a scan and mark them complete.",
            code="no-annotation",
        )
    return scans


def _check_classes(run: Run, card: dict[str, Any], classes: list[int]) -> None:
    if [each["id"] for each in card["classes"]] != classes:
        raise UserError(
            f"The classes have changed since {run.id}, which cannot go on with others; start a new "
            "fine-tuning from its weights.",
            code="wrong-run",
        )


def _plan(
    project: Project,
    run: Run,
    scans: list[str],
    device: torch.device,
    job: FinetuneJob,
    start: tuple[dict[str, Tensor], dict[str, Any]] | None,
    resume: tuple[dict[str, Tensor], dict[str, Any]] | None,
) -> tuple[Plan, list[str]]:
    """Weights bring their plan along: a network only fits the shape of problem it was trained for."""
    before = resume or start
    if before is None:
        return planner.choose(project, scans, device, job.settings)
    plan = config.from_json(Plan, before[1]["plan"], str(run.checkpoint))
    if resume:
        return planner.adapt(plan, device, job.settings), ["as the run before"]
    # Precision and threads are no part of what the weights learned, but of this machine at this moment.
    reasons = ["slices and patches as the weights it starts from were trained"]
    plan = planner.adapt(replace(plan, threads=devices.THREADS), device, job.settings)
    return planner.measured(plan, device, job.settings, reasons), reasons


def _fill(
    network: Network, start: tuple[dict[str, Tensor], dict[str, Any]], classes: list[int], emit: Emit
) -> set[str]:
    """Copy weights; a head is kept only if it was trained for the same classes. Returns filled names."""
    tensors, card = start
    same = [each["id"] for each in card.get("classes", [])] == classes
    name = "average" if card["kind"] == "finetune" else "network"
    state = checkpoint.unpack(f"modules.{name}", tensors)
    if card["kind"] == "pretrain":
        state = {key: each for key, each in state.items() if key.startswith(find(card["method"]).TRANSFERS)}
    filled = load_matching(network, state, skip=() if same else ("head.",))
    own = len(network.state_dict())
    emit(
        Notice(
            f"Starting from {len(filled)} of {own} tensors of {card['job'].get('method', 'the run before')}."
        )
    )
    return filled
