"""Weights of networks: loaded from checkpoints, into networks of the same or of other channels and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.cards import need
from medssl.nn.methods import method_of
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import Network


def load_matching(module: nn.Module, state: dict[str, Tensor], skip: tuple[str, ...] = ()) -> set[str]:
    """Load the tensors that a module has under the same name and with the same shape.

    Args:
        module: Module to load into.
        state: Named tensors of any shape.
        skip: Prefixes of names that are not loaded.

    Returns:
        Names of the loaded tensors.
    """
    current = module.state_dict()
    matching = {
        name: tensor
        for name, tensor in state.items()
        if name in current
        and current[name].shape == tensor.shape
        and not any(name.startswith(prefix) for prefix in skip)
    }
    module.load_state_dict(matching, strict=False)
    return set(matching)


def copied_over_channels(state: dict[str, Tensor], network: Network, channels: int) -> dict[str, Tensor]:
    """Weights of a network of one channel for one of several, which then sees the mean of its channels.

    Args:
        state: Named tensors of the network of one channel (any shape).
        network: The network of several channels.
        channels: Their number.

    Returns:
        The tensors, with the first convolutions copied for each channel and divided by their number.
    """
    current = network.state_dict()

    def copied(name: str, weight: Tensor) -> Tensor:
        if not name.startswith("encoder.0.") or name not in current or weight.shape == current[name].shape:
            return weight
        return torch.cat([weight / channels] * channels, dim=1)

    return {name: copied(name, weight) for name, weight in state.items()}


def _out_channels(state: dict[str, Tensor]) -> int:
    return len(next(tensor for key, tensor in state.items() if key.endswith("head.conv.conv.weight")))


def of_channels(network: Network, plan: Plan) -> Network:
    """A network of one channel as one that sees the mean of the channels of a plan.

    Args:
        network: The network; it is returned itself if it takes the channels of the plan.
        plan: A plan of the same architecture.
    """
    if network.in_channels == plan.in_channels:
        return network
    state = network.state_dict()
    wide = Network(plan, _out_channels(state))
    wide.load_state_dict(copied_over_channels(state, wide, plan.n_channels))
    wide.decoder_describes = network.decoder_describes
    device = next(network.parameters()).device
    return wide.to(device).train(network.training)


def load_network(path: Path) -> tuple[Network, Plan, dict[str, Any]]:
    """Load the network of a checkpoint, or its moving average if the checkpoint has one.

    Returns:
        The network in evaluation mode, its plan, and the model card.

    Raises:
        UserError: As `checkpoint.load`.

    Example:
        >>> network, plan, card = load_network(run.checkpoint)
    """
    tensors, card = checkpoint.load(path)
    need(card, "kind", "plan", where=str(path))
    plan = jobs.from_json(Plan, card["plan"], str(path))
    name = "average" if any(key.startswith("modules.average.") for key in tensors) else "network"
    state = checkpoint.unpack(f"modules.{name}", tensors)
    try:
        network = Network(plan, _out_channels(state))
        network.load_state_dict(state)
    except Exception as error:  # a plan of other tensors makes MONAI and torch raise just about anything
        raise UserError(
            f"{path} does not hold the network that its card describes; choose another run.",
            code="foreign-checkpoint",
        ) from error
    method = method_of(card)
    network.decoder_describes = method is not None and method.DECODER_DESCRIBES
    return network.eval(), plan, card
