"""When pseudo-labels are made: in rounds, by a copy of the moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn

from medssl.core.jobs import Plan
from medssl.nn import distributed
from medssl.nn.models.unet import Network
from medssl.nn.shards import total
from medssl.tasks.segment.pseudo_labels import PseudoLabels, Settings


class PseudoLabelSchedule(nn.Module):
    """Decides when new pseudo-labels are made, and keeps the weights that make them.

    Its state is part of the checkpoint, so that a resumed training makes the same pseudo-labels.
    """

    def __init__(self, network: Network, pseudo_labels: PseudoLabels, settings: Settings) -> None:
        super().__init__()
        self.pseudo_labels, self.settings = pseudo_labels, settings
        self.pseudo_labeller = copy.deepcopy(network).requires_grad_(False)
        self.recent_loss: Tensor
        self.round: Tensor
        self.steps: Tensor
        self.since: Tensor
        self.register_buffer("recent_loss", torch.tensor(torch.inf))
        self.register_buffer("round", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("since", torch.tensor(0.0))
        self.register_load_state_dict_pre_hook(_default_counters)
        self.current_round: int | None = None
        """Round of the current pseudo-labels; None until the first call, for a training may be resumed."""

    def remember(self, loss: Tensor) -> None:
        """Update the moving average (about twenty steps) of the loss on annotated voxels, on its device.

        Args:
            loss: The loss of a step (scalar).
        """
        self.steps += 1
        recent, new = self.recent_loss, loss.detach().float()
        recent.copy_(torch.where(recent.isinf(), new, recent.lerp(new, 0.05)))

    def pseudo_labels_at(
        self, fraction: float, average: nn.Module, plan: Plan, generator: Generator
    ) -> PseudoLabels | None:
        """The current pseudo-labels, made anew where a round is due.

        A round waits until the network fits the annotated voxels, because it would otherwise learn its own
        errors. It also waits for as many steps as `max_round_share` asks for, instead of seconds, so that the
        same job with a budget in steps has the same rounds, and is left out where too few would follow.

        Args:
            fraction: Completed fraction of the training, 0 .. 1.
            average: The moving average of the weights, which makes them.
            plan: Plan of the network.
            generator: The training's generator; only its seed is used.

        Returns:
            The pseudo-labels; None before the first round.
        """
        if self.current_round is None:
            self.current_round = int(self.round)
            if self.current_round:
                self._label_scans(plan, generator)
        due_round = sum(fraction >= start for start in self.settings.rounds)
        if due_round > self.current_round and self._pays(fraction, plan) and self._fits():
            self.current_round = due_round
            self.steps.fill_(0)
            self.since.fill_(fraction)
            self.round.fill_(due_round)
            self.pseudo_labeller.load_state_dict(average.state_dict())
            self._label_scans(plan, generator)
        return self.pseudo_labels if self.current_round else None

    def _pays(self, fraction: float, plan: Plan) -> bool:
        """Whether enough steps lie before a round, and would fit into the rest, which includes the round."""
        share, passed = self.settings.max_round_share, fraction - float(self.since)
        work, least = share * int(self.steps), (1 - share) * self.pseudo_labels.cost_in_steps(plan)
        return work >= least and work * (1 - fraction) >= passed * least

    def _fits(self) -> bool:
        """Whether the network fits the annotated voxels, in the eyes of all processes."""
        low = (self.recent_loss < self.settings.start_below_loss).float()
        return float(total(low)) == distributed.world()

    def _label_scans(self, plan: Plan, generator: Generator) -> None:
        """Make the pseudo-labels of the current round; draws depend only on seed and round."""
        round_generator = Generator().manual_seed(generator.initial_seed() + (self.current_round or 0))
        self.pseudo_labels.refresh(self.pseudo_labeller, plan, round_generator)


def _default_counters(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Former checkpoints lack the number of steps since the last round, or when that was."""
    state.setdefault(f"{prefix}steps", torch.tensor(0))
    state.setdefault(f"{prefix}since", torch.tensor(0.0))
