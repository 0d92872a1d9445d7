"""Recorded passes: which are recorded and when, as far as that can be tested without a GPU.

tests/engine/test_accelerator.py compares their results with those of the usual passes, where there is one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from medssl.nn.models import checkpoint, cuda_graphs
from medssl.nn.models.cuda_graphs import Graphs, forget_passes, record_passes
from medssl.nn.models.unet import build
from small import SHAPE, job_of, make_project, plan, run
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode


class Doubled(nn.Module):
    """Counts how often it runs."""

    times = 0

    def forward(self, image: Tensor) -> tuple[Tensor]:
        self.times += 1
        return (2 * image,)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes for which passes were recorded, as if the CPU could."""
    shapes: list[tuple[int, ...]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> cuda_graphs.Pass:
        shapes.append(tuple(inputs[0].shape))
        return lambda image: (3 * image,)

    monkeypatch.setattr(cuda_graphs, "_record", record)
    monkeypatch.setattr(cuda_graphs, "_trains_on_cuda", lambda module, inputs: torch.is_grad_enabled())
    return shapes


def test_a_shape_is_recorded_once_and_used_once_in_a_step(recorded: list[tuple[int, ...]]) -> None:
    graphs, module, image = Graphs(), Doubled(), torch.ones(2, 3)
    for _ in range(3):
        assert graphs.run(module, image)[0].unique() == 3
        assert graphs.run(module, image)[0].unique() == 2, "its outputs would be overwritten"
        assert graphs.run(module, image[:1])[0].unique() == 3, "another shape has memory of its own"
        graphs.new_step()
    assert recorded == [(2, 3), (1, 3)]
    assert module.times == 3


def test_modules_inputs_with_gradients_and_precisions_are_told_apart(
    recorded: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, image = Graphs(), torch.ones(2, 3)
    modules = Doubled(), Doubled()
    for module in modules:
        graphs.run(module, image)
    graphs.run(modules[0], image.clone().requires_grad_())
    monkeypatch.setattr(cuda_graphs, "_autocast_dtype", lambda: torch.bfloat16)
    graphs.run(modules[0], image)
    assert len(recorded) == 4


def test_what_needs_no_gradients_is_not_recorded(recorded: list[tuple[int, ...]]) -> None:
    with torch.no_grad():
        assert Graphs().run(Doubled(), torch.ones(2, 3))[0].unique() == 2
    assert not recorded


def test_their_number_is_limited_and_they_can_be_forgotten(recorded: list[tuple[int, ...]]) -> None:
    network, module = build(plan(), 2, seed=0), Doubled()
    network.graphs = Graphs()
    for length in range(1, cuda_graphs.LARGEST_NUMBER + 3):
        network.graphs.run(module, torch.ones(length, 3))
    assert len(recorded) == cuda_graphs.LARGEST_NUMBER
    forget_passes(nn.ModuleDict({"network": network}))
    network.graphs.run(module, torch.ones(1, 3))
    assert len(recorded) == cuda_graphs.LARGEST_NUMBER + 1


def test_only_networks_that_are_trained_record_and_a_step_of_the_optimizer_ends_their_use(
    recorded: list[tuple[int, ...]],
) -> None:
    network, average = build(plan(), 2, seed=0), build(plan(), 2, seed=0).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters())
    record_passes(nn.ModuleDict({"network": network, "average": average}), optimizer)
    assert average.graphs is None
    assert network.graphs is not None
    module = Doubled()
    for _ in range(2):
        assert network.run(module, torch.ones(1))[0] == 3
        optimizer.step()
    assert module.times == 0


def test_the_network_has_no_data_dependent_operations() -> None:
    """A pass that does would wait for the device, and cannot be recorded: without values it raises."""
    network, mode = build(plan(), 2, seed=0), FakeTensorMode()
    state = {name: mode.from_tensor(tensor.detach()) for name, tensor in network.state_dict().items()}
    with mode:
        weights = {name: tensor.requires_grad_() for name, tensor in state.items()}
        image = torch.empty(2, 3, 16, 16)
        scores = torch.func.functional_call(network, weights, (image,))
        scores.sum().backward()
        assert all(weight.grad is not None for weight in weights.values())
        with pytest.raises(DataDependentOutputException):
            scores.sum().item()


def test_the_setting_changes_nothing_without_a_gpu(tmp_path: Path) -> None:
    project = make_project(tmp_path, (0, 1), shape=SHAPE)
    weights = []
    for graphs in (False, True):
        job = job_of("finetune", project)
        made = run(replace(job, settings={**job.settings, "cuda_graphs": graphs}))["run"]
        weights.append(checkpoint.load(project.run(made).checkpoint)[0])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
