"""Grey-value changes and bends: what each does, and that each view is changed by itself."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from medssl.nn.data.augment import PUBLISHED, STRONG, Intensity, change_intensity, draw_displacement
from small import seeded
from torch import Tensor

OFF = (0.0, 0.0, 0.0)
SHAPES = [(3, 16, 16), (1, 6, 16, 16)]
CHANGES = [each.name for each in fields(Intensity)]


def only(name: str, low: float, high: float) -> Intensity:
    return Intensity(**{**dict.fromkeys(CHANGES, OFF), name: (1.0, low, high)})


def images(count: int = 4, shape: tuple[int, ...] = (3, 16, 16)) -> Tensor:
    return torch.randn(count, *shape, generator=seeded())


@pytest.mark.parametrize("strength", [PUBLISHED, STRONG], ids=["published", "strong"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_gives_the_same_change(strength: Intensity, shape: tuple[int, ...]) -> None:
    one, two, three = (change_intensity(images(16, shape), strength, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_the_batch_that_came_in_stays_as_it_was() -> None:
    before = images(8)
    change_intensity(before, STRONG, seeded())
    assert torch.equal(before, images(8))


def test_nothing_happens_at_probability_zero() -> None:
    nothing = Intensity(**dict.fromkeys(CHANGES, (0.0, 0.5, 1.0)))
    assert torch.equal(change_intensity(images(), nothing, seeded()), images())


@pytest.mark.parametrize("name", CHANGES)
def test_probability_decides_for_each_view_by_itself(name: str) -> None:
    strength = Intensity(**{**dict.fromkeys(CHANGES, OFF), name: (0.3, 0.6, 0.7)})
    many = images(1000, (1, 4, 4))
    changed = (change_intensity(many, strength, seeded(3)) != many).flatten(1).any(1)
    assert 0.24 < changed.float().mean() < 0.36


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_is_changed_the_same_whatever_stands_beside_it(name: str, shape: tuple[int, ...]) -> None:
    """Only the range and the noise are drawn for the batch; no view's grey values reach another."""
    batch = images(4, shape)
    other = torch.cat([batch[:1], 50 * batch[1:]])
    one, two = (change_intensity(each, only(name, 0.6, 0.9), seeded()) for each in (batch, other))
    assert torch.allclose(one[0], two[0], atol=1e-6)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_a_constant_view_stays_finite(name: str, value: float) -> None:
    changed = change_intensity(torch.full((4, 1, 8, 8), value), only(name, 0.6, 1.2), seeded())
    assert changed.isfinite().all()


def test_gamma_keeps_the_range_and_the_order() -> None:
    before = images()
    after = change_intensity(before, only("gamma", 0.7, 1.5), seeded())
    assert torch.allclose(after.flatten(1).amin(1), before.flatten(1).amin(1), atol=1e-5)
    assert torch.allclose(after.flatten(1).amax(1), before.flatten(1).amax(1), atol=1e-5)
    assert torch.equal(after.flatten(1).argsort(1), before.flatten(1).argsort(1))
    assert not torch.allclose(after, before, atol=1e-3)


def test_contrast_multiplies_and_clips_to_the_range_before() -> None:
    before = images()
    after = change_intensity(before, only("contrast", 1.25, 1.25), seeded())
    low, high = before.flatten(1).amin(1), before.flatten(1).amax(1)
    for number in range(len(before)):
        assert torch.allclose(after[number], (1.25 * before[number]).clamp(low[number], high[number]))


def test_noise_has_the_variance_asked_for() -> None:
    after = change_intensity(torch.zeros(2, 1, 200, 200), only("noise", 0.09, 0.09), seeded())
    assert after.std().item() == pytest.approx(0.3, rel=0.02)
    assert not torch.equal(after[0], after[1])


def test_shift_adds_one_number_to_a_view() -> None:
    apart = change_intensity(images(), only("shift", -0.4, 0.4), seeded()) - images()
    assert torch.allclose(apart, apart[:, :1, :1, :1].expand_as(apart), atol=1e-6)
    assert apart[:, 0, 0, 0].unique().numel() == 4
    assert apart.abs().max() <= 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_is_a_gaussian_in_the_plane(shape: tuple[int, ...]) -> None:
    impulse = torch.zeros(1, *shape)
    impulse[(..., *(length // 2 for length in shape))] = 1
    after = change_intensity(impulse, only("blur", 0.8, 0.8), seeded())
    place = tuple(length // 2 for length in shape)
    assert after.sum().item() == pytest.approx(1, abs=1e-5)
    plane = after[(0, *place[:-2])]
    assert plane.sum().item() == pytest.approx(1, abs=1e-5), "blurred across slices"
    column = plane[:, place[-1]]
    middle = place[-2]
    expected = torch.exp(torch.tensor(-0.5 / 0.8**2))
    assert (column[middle + 1] / column[middle]).item() == pytest.approx(expected.item(), rel=1e-3)
    assert torch.allclose(plane, plane.T, atol=1e-6)


def test_blur_leaves_a_constant_view_alone() -> None:
    constant = torch.full((2, 3, 9, 7), 0.4)
    assert torch.allclose(change_intensity(constant, only("blur", 1, 1), seeded()), constant, atol=1e-6)


@pytest.mark.parametrize("size", [(20, 33), (4, 20, 33)])
def test_a_bend_is_smooth_and_of_the_strength_asked_for(size: tuple[int, ...]) -> None:
    displacement = draw_displacement(200, size, seeded(), probability=1, strength_vox=3)
    assert displacement.shape == (200, len(size), *size)
    assert 1.0 < displacement.flatten(1).abs().amax(1).median() < 6
    for axis in range(2, displacement.ndim):
        assert displacement.diff(dim=axis).abs().max() < 1, "folded over"


def test_a_bend_is_drawn_for_each_view_by_itself() -> None:
    bent = draw_displacement(1000, (4, 4), seeded(), probability=0.3).flatten(1).any(1)
    assert 0.24 < bent.float().mean() < 0.36
