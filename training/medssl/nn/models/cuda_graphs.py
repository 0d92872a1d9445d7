"""CUDA graphs of a network's forward and backward passes.

A training step of these networks waits for the CPU, which launches a thousand small kernels one by one. A
graph launches those of a pass at once. It has fixed shapes and fixed memory: `Graphs` records one for each
shape of input, and what does not fit one runs as usual.

Not measured yet: `python benchmarks/gpu.py` compares results and times on a machine that has a GPU. Until
then trainings use graphs only where the setting `cuda_graphs` asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import cast

import torch
from torch import Tensor, nn

LARGEST_NUMBER = 12
"""Shapes for which passes are recorded: a graph keeps the memory of its activations."""

Pass = Callable[..., tuple[Tensor, ...]]


class Graphs:
    """Recorded passes of one network that trains on CUDA.

    The outputs of a recorded pass lie in its fixed memory: they are valid until it is used again. So within a
    step each is used once; a second pass of the same shape runs as usual. Parameters that a loss does not
    reach get gradients of 0 from a recorded pass, where they otherwise get none.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, Pass] = {}
        self._used: set[Hashable] = set()

    def new_step(self, *given: object) -> None:
        """The outputs of all passes may be overwritten; arguments are those of an optimizer's hook."""
        self._used.clear()

    def forget(self) -> None:
        """Free all recorded passes."""
        self._recorded.clear()
        self._used.clear()

    def run(self, module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run a module, as a graph where that is possible.

        Args:
            module: Takes tensors, and returns a tuple of tensors. Whatever it does is launched again with
                other values in the same memory, so it must not wait for the device or draw random numbers.
            inputs: Its inputs (any shapes).

        Returns:
            Its outputs (any shapes).
        """
        key = self._key(module, inputs)
        full = key not in self._recorded and len(self._recorded) >= LARGEST_NUMBER
        if key in self._used or full or not _trains_on_cuda(module, inputs):
            outputs: tuple[Tensor, ...] = module(*inputs)
            return outputs
        if key not in self._recorded:
            self._recorded[key] = _record(module, inputs)
        self._used.add(key)
        return self._recorded[key](*inputs)

    @staticmethod
    def _key(module: nn.Module, inputs: tuple[Tensor, ...]) -> Hashable:
        shapes = tuple((tuple(each.shape), each.stride(), each.dtype, each.requires_grad) for each in inputs)
        return id(module), shapes, _autocast_dtype()


def _trains_on_cuda(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and module.training and all(each.is_cuda for each in inputs)


def _autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


def _record(module: nn.Module, inputs: tuple[Tensor, ...]) -> Pass:
    """A function that replays forward and backward pass of a module; it takes inputs of these shapes."""
    dtype = _autocast_dtype()
    samples = tuple(each.detach().clone().requires_grad_(each.requires_grad) for each in inputs)
    # A cache of weights in bf16 would be filled while the graph is recorded, and never again.
    with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
        return cast(Pass, torch.cuda.make_graphed_callables(_Alone(module), samples))


class Recordable(nn.Module):
    """A network whose passes may be recorded."""

    graphs: Graphs | None = None

    def run(self, part: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run a part of this network, recorded or not.

        Args:
            part: Takes tensors, and returns a tuple of tensors.
            inputs: Its inputs (any shapes).

        Returns:
            Its outputs (any shapes).
        """
        if self.graphs is not None:
            return self.graphs.run(part, *inputs)
        outputs: tuple[Tensor, ...] = part(*inputs)
        return outputs


def record_passes(modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the networks that an optimizer trains record their passes.

    Args:
        modules: Modules of a training, on their device.
        optimizer: After each of its steps the memory of the passes may be used again.
    """
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for network in modules.modules():
        if isinstance(network, Recordable) and not trained.isdisjoint(network.parameters()):
            network.graphs = Graphs()
            optimizer.register_step_post_hook(network.graphs.new_step)


def forget_passes(modules: nn.Module) -> None:
    """Free the memory of recorded passes, as for a training whose batches have become smaller."""
    for network in modules.modules():
        if isinstance(network, Recordable) and network.graphs is not None:
            network.graphs.forget()


class _Alone(nn.Module):
    """A module whose `forward` torch may replace by the recorded one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.module(*inputs)
        return outputs
