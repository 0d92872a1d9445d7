"""Which weights decay, and that an optimizer comes back from a checkpoint, one of an older version too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from medssl.core.methods import ALL
from medssl.core.recipes import read
from medssl.nn.methods import find
from medssl.nn.methods.common import Prototypes
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from medssl.tasks.pretrain.pretrain import Pretraining
from medssl.tasks.training.loop_settings import settings_for
from medssl.tasks.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from small import dataset, plan, seeded
from torch import nn


def optimizer_of(network: nn.Module) -> torch.optim.AdamW:
    return make_optimizer(network, [{"params": [*network.parameters()]}], 0.1, 0.5)


def without_gradient(network: nn.Module) -> dict[str, torch.Tensor]:
    """What a step makes of the parameters where nothing but weight decay moves them: by which factor."""
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    for each in network.parameters():
        each.grad = torch.zeros_like(each)
    optimizer_of(network).step()
    return {name: each.detach() / before[name] for name, each in network.named_parameters()}


def test_only_the_weights_of_layers_decay() -> None:
    layers = nn.ModuleDict(
        {
            "convolution": nn.Conv2d(2, 3, 3),
            "linear": nn.Linear(3, 4),
            "instance": nn.InstanceNorm2d(3, affine=True),
            "batch": nn.BatchNorm1d(3),
            "layer": nn.LayerNorm(3),
            "prototypes": Prototypes(4, 5),
        }
    )
    with torch.no_grad():
        for each in layers.parameters():
            each.add_(2.0)  # no bias is 0: a factor of it would not show
    factors = without_gradient(layers)
    for name, factor in factors.items():
        decays = name in ("convolution.weight", "linear.weight")
        assert torch.allclose(factor, torch.tensor(0.95 if decays else 1.0)), name


@pytest.mark.parametrize("name", ALL)
def test_no_norm_bias_or_prototype_of_a_method_decays_and_none_of_its_weights_is_forgotten(name: str) -> None:
    kind = find(name)
    loop, settings = settings_for(f"{name}-quick", {}, kind.Settings, plan())
    assert loop.weight_decay == read(f"{name}-quick").loop["weight_decay"] > 0
    small = plan(channels=(16, 16, 16, 16), strides=((1, 1), (2, 2), (2, 2), (2, 2)))
    task = Pretraining(kind(build(small, 3, 0), small, settings), dataset())
    groups = make_optimizer(task.modules, task.parameter_groups(), 1.0, loop.weight_decay).param_groups
    decay = {id(each): group["weight_decay"] for group in groups for each in group["params"]}
    trained = [(path, each) for path, each in task.modules.named_parameters() if each.requires_grad]
    assert len(decay) == len(trained)
    for path, each in trained:
        spared = each.ndim == 1 or path in ("head.whole.weight", "head.cell.weight")
        assert decay[id(each)] == (0.0 if spared else loop.weight_decay), path


def test_a_checkpoint_of_a_version_with_one_group_gives_each_parameter_its_state() -> None:
    """That version numbered an optimizer's parameters as the task lists them."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, affine=True), nn.Conv2d(2, 1, 3))
    before = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.randn(2, 1, 8, 8, generator=seeded())).square().sum().backward()
    before.step()
    numbered = {
        f"{number}.{name}": value
        for number, entry in before.state_dict()["state"].items()
        for name, value in entry.items()
    }
    parameters = [*network.parameters()]
    now = optimizer_of(network)
    restore_optimizer(now, parameters, numbered)
    for each in parameters:
        assert torch.equal(now.state[each]["exp_avg"], before.state[each]["exp_avg"])
        assert now.state[each]["step"] == 1
    again = optimizer_tensors(now, parameters)
    assert again.keys() == numbered.keys()
    assert all(torch.equal(again[name], value) for name, value in numbered.items())


def step(network: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    loss = network(torch.randn(8, 4, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_optimizer_and_generator_come_back_exactly(tmp_path: Path) -> None:
    """One of the layers never gets a gradient, so the optimizer holds nothing for it."""
    networks, optimizers, generators = [], [], []
    for _ in range(2):
        network = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(4, 2)})
        networks.append(network)
        optimizers.append(optimizer_of(network))
        generators.append(torch.Generator().manual_seed(len(networks)))
    for _ in range(3):
        step(networks[0]["used"], optimizers[0], generators[0])
    kept = {
        **checkpoint.pack("modules", networks[0].state_dict()),
        **checkpoint.pack("optimizer", optimizer_tensors(optimizers[0], [*networks[0].parameters()])),
        "generator": generators[0].get_state(),
    }
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, kept, {})
    stored, _ = checkpoint.load(path)
    networks[1].load_state_dict(checkpoint.unpack("modules", stored))
    restore_optimizer(optimizers[1], [*networks[1].parameters()], checkpoint.unpack("optimizer", stored))
    generators[1].set_state(stored["generator"])
    for _ in range(3):
        for network, optimizer, generator in zip(networks, optimizers, generators, strict=True):
            step(network["used"], optimizer, generator)
    for one, two in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, two)
