"""Optimizer and schedule of all trainings: AdamW without decay of norms, biases and prototypes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medssl.nn import distributed
from medssl.nn.methods.common import Prototypes
from medssl.nn.models.cuda_graphs import record_passes
from medssl.tasks.training.loop_settings import LoopSettings
from medssl.tasks.training.task import Task


def make_optimizer(
    modules: nn.Module, groups: list[dict[str, Any]], rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose weight decay acts on the weights of convolutions and linear layers.

    Scales and shifts of norms, biases and other vectors have none: decay would shrink features and simplify
    nothing. Nor have prototypes, of which only the direction counts.

    Args:
        modules: Modules that own the parameters.
        groups: Parameter groups; "rate" of a group scales its learning rate.
        rate: Highest learning rate.
        weight_decay: Weight decay.
    """
    without_decay = _without_decay(modules)
    split = []
    for group in groups:
        for decays in (True, False):
            params = [tensor for tensor in group["params"] if (tensor not in without_decay) == decays]
            if params:
                split.append({**group, "params": params, "weight_decay": weight_decay if decays else 0.0})
    devices = {tensor.device.type for group in split for tensor in group["params"]}
    fused = devices <= {"cpu", "cuda"}  # one pass over each tensor instead of ten
    return torch.optim.AdamW(split, lr=rate, fused=fused)


def optimizer_for(task: Task, settings: LoopSettings) -> torch.optim.AdamW:
    """The optimizer of a training, which also ends the steps of recorded passes (cuda_graphs.py).

    Args:
        task: What is trained, on its device.
        settings: Settings of the loop.
    """
    groups = task.parameter_groups()
    optimizer = make_optimizer(task.modules, groups, settings.learning_rate, settings.weight_decay)
    if settings.cuda_graphs and distributed.world() == 1:
        record_passes(task.modules, optimizer)
    return optimizer


def _without_decay(modules: nn.Module) -> set[Tensor]:
    prototypes = (module.weight for module in modules.modules() if isinstance(module, Prototypes))
    return {*prototypes, *(tensor for tensor in modules.parameters() if tensor.ndim <= 1)}


def schedule(fraction: float, warmup: float) -> float:
    """Factor of the learning rate: linear rise, then half a cosine down to 0."""
    if fraction < warmup:
        return max(0.02, fraction / warmup)
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / max(1e-9, 1 - warmup)))


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: "<index of the parameter>.<name>".

    Indices follow the task, not the optimizer's groups, whose split may differ between versions.

    Args:
        optimizer: From `make_optimizer`.
        parameters: Parameters in the task's order (any shape).
    """
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], tensors: dict[str, Tensor]
) -> None:
    """Load the tensors of `optimizer_tensors`; learning rates stay, as the schedule sets them.

    Args:
        optimizer: From `make_optimizer`.
        parameters: Parameters in the task's order (any shape).
        tensors: Named tensors (any shape).
    """
    order = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    index = {id(parameter): number for number, parameter in enumerate(order)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(index[id(parameters[int(number)])], {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
