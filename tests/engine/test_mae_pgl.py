"""MAE + PGL: what is hidden from whom, and that either term alone is the method it comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from medssl.nn.data.crops import shown
from medssl.nn.methods.mae_pgl import MAEPGL, MAEPGLSettings, masked_huber
from medssl.nn.models.unet import build
from small import dataset, noise, plan, seeded
from torch import Tensor

SMALL = MAEPGLSettings(hidden=16, dimension=8, block=4)


def method(dims: int = 2, settings: MAEPGLSettings = SMALL) -> MAEPGL:
    torch.manual_seed(0)
    small = plan(dims)
    return MAEPGL(build(small, small.patch_vox[0] if dims == 2 else 1, 0), small, settings)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_step_trains_everything_but_the_teacher(dims: int) -> None:
    both = method(dims)
    loss, numbers = both.loss(dataset(noise((12, 40, 40)), noise((16, 32, 48))), seeded(), 0.0)
    loss.backward()
    assert loss.isfinite()
    assert all(value.isfinite() for value in numbers.values())
    for name, parameter in both.modules.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None
        elif name.startswith(("network.decoder", "network.encoder", "predictor")):
            assert parameter.grad is not None, name


def test_the_student_sees_masked_views_and_the_teacher_whole_ones() -> None:
    both = method()
    seen: dict[str, Tensor] = {}
    network, teacher = both.modules["network"], both.modules["teacher"]
    network.encoder[0].register_forward_pre_hook(lambda module, given: seen.update(student=given[0]))
    teacher["encoder"][0].register_forward_pre_hook(lambda module, given: seen.update(teacher=given[0]))
    both.loss(dataset(noise((12, 40, 40))), seeded(), 0.0)
    hidden = seen["student"] != seen["teacher"]
    assert 0.6 < hidden.float().mean() < 0.85
    for student, masked in zip(seen["student"], hidden, strict=True):
        assert torch.allclose(student[masked], student[~masked].mean(), atol=1e-5)


def test_the_loss_is_the_weighted_sum_of_both_terms() -> None:
    scans = dataset(noise((12, 40, 40)))
    loss, numbers = method().loss(scans, seeded(), 0.0)
    assert loss.item() == pytest.approx(
        5 * numbers["reconstruction"].item() + numbers["consistency"].item(), rel=1e-5
    )


def test_without_masks_its_agreement_is_pgls_loss() -> None:
    both = method(settings=replace(SMALL, reconstruction=0.0, ratio=0.0))
    scans = dataset(noise((12, 40, 40)))
    loss, _ = both.loss(scans, seeded(), 0.0)
    alone, _ = both.pgl.loss(scans, seeded(), 0.0)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)


def test_without_agreement_no_gradient_reaches_the_heads() -> None:
    both = method(settings=replace(SMALL, consistency=0.0))
    loss, _ = both.loss(dataset(noise((12, 40, 40))), seeded(), 0.0)
    loss.backward()
    for parameter in both.modules["predictor"].parameters():
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()


def test_only_masked_voxels_count_and_far_ones_linearly() -> None:
    visible = torch.tensor([[[[1.0, 0, 0]]]])
    predicted = torch.tensor([[[[9.0, 0.5, 3.0]]]], requires_grad=True)
    loss = masked_huber(predicted, torch.zeros(1, 1, 1, 3), visible)
    assert loss.item() == pytest.approx((0.5 * 0.25 + 2.5) / 2)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad[0, 0, 0, 0] == 0


def test_nothing_masked_is_zero_and_finite() -> None:
    image = torch.ones(1, 1, 4, 4)
    assert masked_huber(image + 1, image, torch.ones(1, 1, 4, 4)) == 0


def test_a_smaller_batch_reaches_the_views() -> None:
    both = method()
    both.plan = replace(both.plan, batch=2)
    first, second = both.pgl.views(dataset(noise((12, 40, 40))), seeded())
    assert len(shown(first)) == len(shown(second)) == 2
