"""Shapes, sizes that strides do not divide, weights by seed, weights that fit, and MONAI's network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from medssl.core import jobs
from medssl.core.shipped import weights_file
from medssl.nn.models import checkpoint
from medssl.nn.models.dynunet import DynUNet, dynunet_arguments, dynunet_state, to_dynunet
from medssl.nn.models.network_weights import load_matching, load_network
from medssl.nn.models.unet import build
from small import noise, plan, seeded


def image(dims: int, *size: int) -> torch.Tensor:
    return torch.randn(2, 3 if dims == 2 else 1, *size, generator=seeded())


@pytest.mark.parametrize(
    ("dims", "size"),
    [
        (2, (16, 16)),
        (2, (17, 30)),
        (2, (1, 1)),
        (2, (3, 50)),
        (3, (8, 16, 16)),
        (3, (5, 9, 30)),
        (3, (1, 1, 1)),
    ],
)
def test_scores_come_at_the_size_of_the_image(dims: int, size: tuple[int, ...]) -> None:
    scores = build(plan(dims), 5, 0)(image(dims, *size))
    assert scores.shape == (2, 5, *size)
    assert scores.isfinite().all()


@pytest.mark.parametrize("dims", [2, 3])
def test_encoder_levels_are_finest_first_with_the_plans_channels_and_strides(dims: int) -> None:
    small = plan(dims)
    levels = build(small, 2, 0).encode(image(dims, *((16, 16) if dims == 2 else (8, 16, 16))))
    assert [level.shape[1] for level in levels] == list(small.channels)
    assert [level.shape[-1] for level in levels] == [16, 8, 4]
    if dims == 3:
        assert [level.shape[2] for level in levels] == [8, 8, 4]


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_the_dynunet_of_monai_under_the_same_names(dims: int) -> None:
    small = plan(dims)
    network = build(small, 3, 0).eval()
    with torch.no_grad():
        for each in network.parameters():
            each += 0.1 * torch.randn(each.shape, generator=seeded(each.numel()))
    reference = to_dynunet(network, small)
    names = [name for name in reference.state_dict() if not name.startswith("skip_layers.")]
    assert list(dynunet_state(network)) == names, "also in this order, which is that of an optimizer's state"
    seen = image(dims, *((16, 24) if dims == 2 else (8, 16, 24)))
    assert torch.allclose(network(seen), reference(seen), atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_random_weights_are_spread_as_those_of_monai(dims: int) -> None:
    small = plan(dims)
    ours, theirs = dynunet_state(build(small, 3, 0)), DynUNet(**dynunet_arguments(small, 3)).state_dict()
    for name, weight in ours.items():
        if weight.numel() > 500:
            assert float(weight.std()) == pytest.approx(float(theirs[name].std()), rel=0.15), name
            assert weight.mean().abs() < 0.15 * weight.std(), name
        elif weight.ndim == 1:
            assert torch.equal(weight, theirs[name]), name


def test_who_computes_does_not_wait_for_the_import_of_monai() -> None:
    """It takes four seconds, more than torch."""
    modules = "inference.features, inference.predict, plan.planner, pretrain.pretrain, segment.finetune"
    imports = ", ".join(f"medssl.tasks.{name}" for name in modules.split(", "))
    program = f"import sys, medssl.engine, {imports}; print('monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_padding_repeats_the_border_and_is_cut_off_again() -> None:
    padded, size = build(plan(2), 2, 0).pad(torch.arange(30.0).reshape(1, 1, 5, 6))
    assert size == (5, 6)
    assert padded.shape[2:] == (8, 8)
    assert torch.equal(padded[..., :5, :6].flatten(), torch.arange(30.0))
    assert (padded[..., 4:, 5] == 29).all()


def test_padding_leaves_two_cells_at_the_bottom() -> None:
    """Normalising over a single cell would leave nothing of it."""
    padded, _ = build(plan(2), 2, 0).pad(torch.zeros(1, 3, 3, 4))
    assert padded.shape[2:] == (8, 8)


def test_what_divides_is_left_as_it_is() -> None:
    whole = torch.zeros(1, 3, 16, 20)
    assert build(plan(2), 2, 0).pad(whole)[0] is whole


def test_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = build(plan(2), 2, 7).state_dict()
    torch.rand(100)
    second, third = build(plan(2), 2, 7).state_dict(), build(plan(2), 2, 8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_building_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build(plan(2), 2, 7)
    assert torch.equal(torch.rand(3), expected)


def test_every_parameter_of_the_network_takes_part() -> None:
    for dims in (2, 3):
        network = build(plan(dims), 2, 0)
        network(image(dims, *((16, 16) if dims == 2 else (8, 16, 16)))).square().mean().backward()
        assert all(each.grad is not None for each in network.parameters())


def test_images_are_channels_last_only_where_torch_survives_it() -> None:
    """With four channels, as in `plan`, the test above ended with an abort on CPUs without AVX-512."""
    assert not build(plan(2), 2, 0).channels_last
    assert load_network(weights_file())[0].channels_last


def test_only_what_fits_is_loaded_and_said() -> None:
    source, target = build(plan(2), 5, 0), build(plan(2), 2, 1)
    before = target.head.conv.conv.weight.clone()
    filled = load_matching(target, {**source.state_dict(), "foreign": torch.zeros(1)})
    assert filled == {name for name in target.state_dict() if not name.startswith("head.")}
    assert torch.equal(target.encoder[0].conv1.conv.weight, source.encoder[0].conv1.conv.weight)
    assert torch.equal(target.head.conv.conv.weight, before)


def test_prefixes_can_be_left_out() -> None:
    filled = load_matching(
        build(plan(2), 2, 0), build(plan(2), 2, 1).state_dict(), skip=("head.", "decoder.")
    )
    assert filled
    assert all(name.startswith("encoder.") for name in filled)


@pytest.mark.parametrize("kept", ["network", "average"])
def test_a_network_comes_back_from_its_checkpoint_as_its_average_where_there_is_one(
    tmp_path: Path, kept: str
) -> None:
    small, network = plan(2), build(plan(2), 4, 0)
    tensors = checkpoint.pack("modules.network", build(small, 4, 1).state_dict())
    tensors |= checkpoint.pack(f"modules.{kept}", network.state_dict())
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, tensors, {"kind": "finetune", "plan": jobs.to_json(small)})
    again, again_plan, card = load_network(path)
    assert again_plan == small
    assert card["kind"] == "finetune"
    assert not again.training
    seen = noise((3, 16, 16))[None]
    assert torch.equal(again(seen), network.eval()(seen))
