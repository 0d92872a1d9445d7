"""The properties of BYOL: its loss, its teacher, what it refuses. Each test is named after the property."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.data.crops import CropBatch, cut, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.byol import BYOL, BYOLSettings, disagreement
from medssl.nn.methods.common import momentum
from medssl.nn.methods.pgl import PGL
from medssl.nn.models.unet import build
from project_parts import code_of
from small import Events, box, dataset, noise, plan, seeded, stacked
from torch import Tensor, nn

SCAN = (16, 48, 40)
SMALL = BYOLSettings(hidden=16, dimension=8)


def method(dims: int = 2, settings: BYOLSettings = SMALL) -> BYOL:
    torch.manual_seed(0)
    small = plan(dims)
    return BYOL(build(small, small.patch_vox[0] if dims == 2 else 1, 0), small, settings)


def size(dims: int) -> tuple[int, int, int]:
    return (3, 16, 16) if dims == 2 else (8, 16, 16)


def unchanged(byol: BYOL, scans: DeviceDataset, *pair: CropBatch) -> tuple[CropBatch, CropBatch]:
    """The pair as it lies in the scans, without changes of grey values."""
    first, second = (cut(scans, views, byol.plan) for views in pair)
    return first, second


def vectors(channels: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(5, channels, generator=seeded(seed))


@pytest.mark.parametrize("dims", [2, 3])
def test_identity(dims: int) -> None:
    """The same view twice, teacher equal to student and no predictor: nothing to learn."""
    byol, scans = method(dims), dataset(noise(SCAN))
    byol.modules["predictor"] = nn.Identity()
    views = stacked([box((8, 20, 20), size(dims)), box((5, 30, 15), size(dims))])
    loss, _ = byol.compare(*unchanged(byol, scans, views, views))
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_swap_symmetry() -> None:
    byol, scans = method(), dataset(noise(SCAN))
    first = stacked([box((8, 20, 20), size(2)), box((5, 30, 15), size(2))])
    second = stacked([box((8, 24, 18), size(2)), box((5, 27, 20), size(2), flip=(False, True, False))])
    pair = unchanged(byol, scans, first, second)
    one, two = byol.compare(*pair)[0], byol.compare(*pair[::-1])[0]
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    assert one.item() > 0.01


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scale_invariance(factor: float) -> None:
    plain = disagreement(vectors(), vectors(seed=1))
    assert torch.allclose(disagreement(factor * vectors(), vectors(seed=1)), plain)
    assert torch.allclose(disagreement(vectors(), factor * vectors(seed=1)), plain)


def test_turning_the_sign_gives_four_minus_the_loss() -> None:
    plain = disagreement(vectors(), vectors(seed=1))
    assert torch.allclose(disagreement(-vectors(), vectors(seed=1)), 4 - plain)


@pytest.mark.parametrize("seed", range(5))
def test_bounds(seed: int) -> None:
    assert 0 <= disagreement(vectors(seed=seed), vectors(seed=seed + 50)) <= 4
    assert disagreement(vectors(seed=seed), vectors(seed=seed)).item() == pytest.approx(0, abs=1e-6)
    assert disagreement(vectors(seed=seed), -vectors(seed=seed)).item() == pytest.approx(4)


def test_random_vectors_of_many_dimensions_give_about_two() -> None:
    assert disagreement(vectors(4096), vectors(4096, 1)).item() == pytest.approx(2, abs=0.1)


def test_the_gradient_is_orthogonal_to_the_unnormalised_vectors() -> None:
    predicted = vectors().requires_grad_()
    disagreement(predicted, vectors(seed=1)).backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().max() > 1e-3
    assert (predicted.grad * predicted).sum(1).abs().max() < 1e-6


def test_a_vector_of_zeros_gives_no_nan() -> None:
    predicted = torch.zeros(2, 8, requires_grad=True)
    loss = disagreement(predicted, vectors()[:2])
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("dims", [2, 3])
def test_no_gradient_reaches_the_teacher_or_the_decoder(dims: int) -> None:
    byol = method(dims)
    byol.loss(dataset(noise(SCAN), noise(SCAN, 1)), seeded(), 0.0)[0].backward()
    network = byol.modules["network"]
    for untouched in (byol.modules["teacher"], network.decoder, network.head):
        assert all(each.grad is None for each in untouched.parameters())
    trained = [network.encoder, byol.modules["projector"], byol.modules["predictor"]]
    grads = [each.grad for part in trained for each in part.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert network.encoder[0].conv1.conv.weight.grad.abs().sum() > 0


def test_the_teacher_starts_as_an_exact_copy_and_not_as_the_same_tensors() -> None:
    byol = method()
    teacher, network = byol.modules["teacher"], byol.modules["network"]
    for part, student in (("encoder", network.encoder), ("projector", byol.modules["projector"])):
        own, other = teacher[part].state_dict(), student.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
        assert all(own[name].data_ptr() != other[name].data_ptr() for name in own)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_the_teacher_follows_by_its_momentum_exactly(fraction: float) -> None:
    byol = method()
    pairs = [
        (byol.modules["teacher"]["encoder"], byol.modules["network"].encoder),
        (byol.modules["teacher"]["projector"], byol.modules["projector"]),
    ]
    before = [[each.clone() for each in teacher.parameters()] for teacher, _ in pairs]
    for parameter in byol.modules.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1)
    byol.after_step(fraction)
    keep = momentum(0.99, fraction)
    for (teacher, student), old in zip(pairs, before, strict=True):
        for moved, was, aim in zip(teacher.parameters(), old, student.parameters(), strict=True):
            assert torch.allclose(moved, keep * was + (1 - keep) * aim, rtol=0, atol=1e-6)


def test_the_loss_is_fp32_in_mixed_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = disagreement(vectors(), vectors(seed=1))
        whole, _ = method().loss(dataset(noise(SCAN)), seeded(), 0.0)
    assert loss.dtype == whole.dtype == torch.float32
    assert torch.equal(loss, disagreement(vectors(), vectors(seed=1)))
    assert whole.isfinite()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("image", [torch.full(SCAN, 0.7), noise((3, 9, 7))], ids=["constant", "tiny"])
def test_constant_and_tiny_scans_give_a_finite_loss_and_finite_gradients(dims: int, image: Tensor) -> None:
    byol = method(dims)
    loss, numbers = byol.loss(dataset(image), seeded(), 0.0)
    loss.backward()
    assert loss.isfinite()
    assert numbers["feature_std"].isfinite()
    assert all(each.grad.isfinite().all() for each in byol.modules.parameters() if each.grad is not None)


def test_a_batch_of_one_pair_is_refused_before_the_start_and_when_memory_gets_short() -> None:
    byol, scans = method(), dataset(noise(SCAN))
    byol.prepare(scans, Events())
    byol.plan = replace(byol.plan, batch=1)
    with pytest.raises(UserError) as error:
        byol.loss(scans, seeded(), 0.0)
    assert code_of(error) == "small-batch"
    with pytest.raises(UserError) as error:
        byol.prepare(scans, Events())
    assert code_of(error) == "small-batch"


def test_a_smaller_batch_reaches_the_views() -> None:
    byol = method()
    byol.plan = replace(byol.plan, batch=3)
    assert [len(views) for views in byol.views(dataset(noise(SCAN)), seeded())] == [3, 3]


def test_views_are_as_large_and_overlap_as_much_as_the_settings_say() -> None:
    byol = method(settings=replace(SMALL, zoom=(1.5, 1.5), min_overlap=0.6))
    for seed in range(5):
        first, second = byol.views(dataset(noise((8, 90, 90))), seeded(seed))
        assert (first.step[:, 1:] == 1.5).all()
        shared = (1.5 * 16 - (first.centre - second.centre).abs())[:, 1:].prod(1)
        assert (shared / (2 * (1.5 * 16) ** 2 - shared) >= 0.6 - 1e-5).all()


def test_it_sees_the_pairs_of_pgl() -> None:
    byol, scans = method(), dataset(noise(SCAN), noise(SCAN, 1))
    other = PGL(build(byol.plan, 3, 0), byol.plan, PGL.Settings(hidden=16, dimension=8))
    pairs = [each.views(scans, seeded(3)) for each in (byol, other)]
    for one, two in zip(*pairs, strict=True):
        assert torch.equal(shown(one), shown(two))


def test_a_step_is_repeatable_and_differs_between_seeds() -> None:
    losses = [method().loss(dataset(noise(SCAN)), seeded(seed), 0.0)[0].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_training_brings_the_loss_down_and_keeps_the_spread() -> None:
    byol, scans, generator = method(), dataset(noise(SCAN), noise(SCAN, 1)), seeded()
    optimizer = torch.optim.AdamW([each for each in byol.modules.parameters() if each.requires_grad], lr=3e-3)
    losses, spreads = [], []
    for _ in range(25):
        loss, numbers = byol.loss(scans, generator, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        byol.after_step(0.0)
        losses.append(loss.item())
        spreads.append(numbers["feature_std"].item())
    assert math.fsum(losses[-5:]) < 0.8 * math.fsum(losses[:5])
    assert spreads[-1] > 0.3
