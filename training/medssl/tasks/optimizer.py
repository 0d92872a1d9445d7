"""The optimizer of all trainings and its schedule: AdamW, whose decay spares norms, biases and prototypes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medssl.nn.methods.common import Prototypes


def make_optimizer(
    modules: nn.Module, groups: list[dict[str, Any]], rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW on the parameters of `groups`, which belong to `modules`; "rate" of a group scales its rate.

    Weight decay acts on the weights of convolutions and linear layers. Norms' scales and shifts, biases, and
    other vectors have none: it would pull features towards 0 and make nothing simpler. Nor have prototypes,
    of which only the direction counts.
    """
    spared = _without_decay(modules)
    split = []
    for group in groups:
        for decays in (True, False):
            chosen = [each for each in group["params"] if (each not in spared) == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                split.append({**group, "params": chosen, "weight_decay": decay})
    return torch.optim.AdamW(split, lr=rate)


def _without_decay(modules: nn.Module) -> set[Tensor]:
    prototypes = (each.weight for each in modules.modules() if isinstance(each, Prototypes))
    return {*prototypes, *(each for each in modules.parameters() if each.ndim <= 1)}


def schedule(fraction: float, warmup: float) -> float:
    """Factor of the learning rate: linear rise, then half a cosine down to 0."""
    if fraction < warmup:
        return max(0.02, fraction / warmup)
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / max(1e-9, 1 - warmup)))


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: "<number in `parameters`>.<name>".

    Numbers follow the task, not the optimizer's groups: how these are split may differ between versions.
    """
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], tensors: dict[str, Tensor]
) -> None:
    """Put `optimizer_tensors` back; learning rates are the schedule's business and stay."""
    order = [each for group in optimizer.param_groups for each in group["params"]]
    place = {id(parameter): number for number, parameter in enumerate(order)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(place[id(parameters[int(number)])], {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
