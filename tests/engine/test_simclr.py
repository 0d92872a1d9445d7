"""The properties of SimCLR: NT-Xent, and what leaves it nothing to contrast. Each test is named after one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.data.crops import cut
from medssl.nn.methods.simclr import SimCLR, SimCLRSettings, nt_xent
from medssl.nn.models.unet import build
from project_parts import code_of
from small import Events, box, dataset, noise, plan, seeded, stacked
from torch import Tensor
from torch.nn import functional as F

SCAN = (16, 48, 40)
SMALL = SimCLRSettings(hidden=16, dimension=8)


def method(dims: int = 2, settings: SimCLRSettings = SMALL) -> SimCLR:
    torch.manual_seed(0)
    small = plan(dims)
    return SimCLR(build(small, small.patch_vox[0] if dims == 2 else 1, 0), small, settings)


def vectors(pairs: int = 5, channels: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(2 * pairs, channels, generator=seeded(seed))


def by_hand(projected: Tensor, temperature: float) -> float:
    """The equation, one view after the other."""
    count, total = len(projected), 0.0
    for i in range(count):
        score = [float(F.cosine_similarity(projected[i], each, dim=0)) / temperature for each in projected]
        others = sum(math.exp(score[j]) for j in range(count) if j != i)
        total -= math.log(math.exp(score[(i + count // 2) % count]) / others)
    return total / count


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("pairs", [2, 5])
def test_the_loss_is_that_of_the_equation(pairs: int, temperature: float) -> None:
    projected = vectors(pairs)
    assert nt_xent(projected, temperature)[0].item() == pytest.approx(
        by_hand(projected, temperature), rel=1e-5
    )


@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_all_equal_features_give_the_logarithm_of_the_others(pairs: int) -> None:
    same = torch.ones(2 * pairs, 8)
    assert nt_xent(same, 0.5)[0].item() == pytest.approx(math.log(2 * pairs - 1), abs=1e-6)


def test_equal_partners_orthogonal_to_all_others_give_nothing_to_learn_as_temperature_falls() -> None:
    perfect = torch.eye(8).repeat(2, 1)
    losses = [nt_xent(perfect, temperature)[0].item() for temperature in (1.0, 0.3, 0.1, 0.03)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(0, abs=1e-6)
    assert losses[0] == pytest.approx(math.log(1 + 14 * math.exp(-1)), rel=1e-5)
    assert nt_xent(perfect, 0.5)[1] == 1


def test_the_order_of_the_pairs_does_not_matter() -> None:
    first, second = vectors().chunk(2)
    order = torch.tensor([3, 0, 4, 1, 2])
    plain, shuffled = torch.cat([first, second]), torch.cat([first[order], second[order]])
    assert torch.allclose(nt_xent(plain, 0.5)[0], nt_xent(shuffled, 0.5)[0])


def test_which_view_of_a_pair_comes_first_does_not_matter() -> None:
    first, second = vectors().chunk(2)
    plain, swapped = torch.cat([first, second]), torch.cat([second, first])
    assert torch.allclose(nt_xent(plain, 0.5)[0], nt_xent(swapped, 0.5)[0])


def test_wrong_partners_cost_more() -> None:
    first, _ = vectors().chunk(2)
    right, wrong = torch.cat([first, first]), torch.cat([first, first.roll(1, 0)])
    assert nt_xent(right, 0.5)[0] < nt_xent(wrong, 0.5)[0]
    assert (nt_xent(right, 0.5)[1], nt_xent(wrong, 0.5)[1]) == (1, 0)


def test_scale_invariance_of_every_single_view() -> None:
    factors = torch.logspace(-3, 3, 10)[:, None]
    assert torch.allclose(nt_xent(factors * vectors(), 0.5)[0], nt_xent(vectors(), 0.5)[0])


def test_the_gradient_is_orthogonal_to_the_unnormalised_vectors() -> None:
    projected = vectors().requires_grad_()
    nt_xent(projected, 0.5)[0].backward()
    assert projected.grad is not None
    assert projected.grad.abs().max() > 1e-3
    assert (projected.grad * projected).sum(1).abs().max() < 1e-6


def test_descent_brings_partners_together_and_the_others_apart() -> None:
    projected = F.normalize(vectors()).requires_grad_()
    nt_xent(projected, 0.5)[0].backward()
    assert projected.grad is not None
    moved = F.normalize(projected.detach() - 0.5 * projected.grad)
    before, after = (each @ each.T for each in (projected.detach(), moved))
    partner = torch.eye(10, dtype=torch.bool).roll(5, 0)
    other = ~partner & ~torch.eye(10, dtype=torch.bool)
    assert (after[partner] > before[partner]).all()
    assert after[other].mean() < before[other].mean()


def test_similarities_are_fp32_in_mixed_precision() -> None:
    """In bf16 all of these cosines would be 1."""
    near = torch.ones(6, 8) + 1e-3 * vectors(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(near, 1e-5)[0]
        whole, _ = method().loss(dataset(noise(SCAN)), seeded(), 0.0)
    assert loss.dtype == whole.dtype == torch.float32
    assert torch.equal(loss, nt_xent(near, 1e-5)[0])
    assert loss.item() != pytest.approx(math.log(5), abs=1e-3)
    assert whole.isfinite()


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_encoder_and_projector_and_not_the_decoder(dims: int) -> None:
    simclr = method(dims)
    simclr.loss(dataset(noise(SCAN), noise(SCAN, 1)), seeded(), 0.0)[0].backward()
    network = simclr.modules["network"]
    for untouched in (network.decoder, network.head):
        assert all(each.grad is None for each in untouched.parameters())
    grads = [
        each.grad for part in (network.encoder, simclr.modules["projector"]) for each in part.parameters()
    ]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert network.encoder[0].conv1.conv.weight.grad.abs().sum() > 0


def test_equal_views_find_each_other() -> None:
    simclr, scans = method(), dataset(noise(SCAN))
    places = stacked([box((z, 20, 20), (3, 16, 16)) for z in (2, 6, 10, 14)])
    views = cut(scans, places, simclr.plan)
    _, numbers = simclr.compare(views, views)
    assert numbers["top1_accuracy"] == 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("image", [torch.full(SCAN, 0.7), noise((3, 9, 7))], ids=["constant", "tiny"])
def test_constant_and_tiny_scans_give_a_finite_loss_and_finite_gradients(dims: int, image: Tensor) -> None:
    simclr = method(dims)
    loss, numbers = simclr.loss(dataset(image), seeded(), 0.0)
    loss.backward()
    assert loss.isfinite()
    assert all(value.isfinite() for value in numbers.values())
    assert all(each.grad.isfinite().all() for each in simclr.modules.parameters() if each.grad is not None)


def test_a_batch_of_one_pair_is_refused_before_the_start_and_when_memory_gets_short() -> None:
    simclr, scans = method(), dataset(noise(SCAN), noise(SCAN, 1))
    simclr.prepare(scans, Events())
    simclr.plan = replace(simclr.plan, batch=1)
    with pytest.raises(UserError) as error:
        simclr.loss(scans, seeded(), 0.0)
    assert code_of(error) == "small-batch"
    with pytest.raises(UserError) as error:
        simclr.prepare(scans, Events())
    assert code_of(error) == "small-batch"
    assert "moco" in str(error.value)


def test_a_single_slice_is_refused_before_the_start() -> None:
    with pytest.raises(UserError) as error:
        method().prepare(dataset(noise((1, 48, 40))), Events())
    assert code_of(error) == "one-place"


def test_a_single_small_scan_is_refused_in_3d() -> None:
    with pytest.raises(UserError) as error:
        method(3).prepare(dataset(noise((10, 20, 20))), Events())
    assert code_of(error) == "one-place"


def test_a_temperature_of_nothing_is_refused() -> None:
    with pytest.raises(UserError) as error:
        method(settings=replace(SMALL, temperature=0.0))
    assert code_of(error) == "bad-job"


def test_the_pairs_of_a_batch_come_from_different_scans_while_there_are_some() -> None:
    first, second = method().views(dataset(*(noise((6, 40, 40), seed) for seed in range(4))), seeded())
    assert sorted(first.scan.tolist()) == sorted(second.scan.tolist()) == [0, 1, 2, 3]


def test_a_smaller_batch_reaches_the_views() -> None:
    simclr = method()
    simclr.plan = replace(simclr.plan, batch=3)
    assert [len(views) for views in simclr.views(dataset(noise(SCAN)), seeded())] == [3, 3]


def test_a_step_is_repeatable_and_differs_between_seeds() -> None:
    losses = [method().loss(dataset(noise(SCAN)), seeded(seed), 0.0)[0].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("dims", [2, 3])
def test_training_tells_the_pairs_of_a_batch_apart(dims: int) -> None:
    simclr = method(dims)
    pair = simclr.views(dataset(noise(SCAN), noise(SCAN, 1)), seeded())
    optimizer = torch.optim.AdamW(simclr.modules.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss, numbers = simclr.compare(*pair)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert losses[0] < 1.1 * math.log(7)
    assert numbers["top1_accuracy"] == 1
    assert numbers["feature_std"] > 0.5
