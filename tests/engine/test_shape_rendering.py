"""The properties of views of made-up volumes and of how they are rendered as scans. One a test."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from medssl.nn.data.augment import Intensity
from medssl.nn.shapes import rendering, views
from medssl.nn.shapes.rendering import (
    CT_PROB,
    TISSUE_PROBS,
    TISSUES_HU,
    Appearance,
    draw_appearance,
    mixed,
    render,
    same_scanner,
)
from medssl.nn.shapes.views import draw_views
from medssl.nn.shapes.volumes import LABELS, OUTSIDE, draw, sample
from small import seeded
from torch import Tensor

COUNT, SIDE = 32, 48
LOWEST, HIGHEST = (math.asinh((hu - 40) / 100) for hu in (-1024, 3000))
"""Of a normalised CT (core/io/intensity.py)."""
AIR = math.asinh((-1000 - 40) / 100)


def views_of(count: int, seed: int = 0, side: int = SIDE, thickness: float = 2.0) -> Tensor:
    return draw_views(count, 3, side, torch.full((count,), thickness), torch.zeros(count), seeded(seed))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    """(COUNT, 3, SIDE, SIDE) of as many volumes."""
    return sample(draw(COUNT, SIDE, seeded()), views_of(COUNT))


@pytest.fixture(scope="module")
def appearance() -> Appearance:
    return draw_appearance(COUNT, seeded())


@pytest.fixture
def no_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images as they are before the scanner changes them."""
    never = (0.0, 1.0, 1.0)
    monkeypatch.setattr(rendering, "SCANNER", Intensity(never, never, never, never, never))


@pytest.fixture
def no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_bias", lambda count, *rest: torch.zeros(count, 1, 1, 1))


def appearance_of(grey: Tensor, texture: float = 0.0, is_ct: bool = True) -> Appearance:
    """The appearance of one volume whose first labels have these grey values, the others 0."""
    every = torch.zeros(1, LABELS)
    every[0, : len(grey)] = grey
    return Appearance(every, torch.full((1, LABELS), texture), torch.tensor([is_ct]))


def parts(appearance: Appearance) -> list[Tensor]:
    return [appearance.grey, appearance.texture, appearance.is_ct]


# Views.


def test_the_same_seed_gives_the_same_views_and_another_seed_others() -> None:
    assert torch.equal(views_of(4), views_of(4))
    assert not torch.equal(views_of(4), views_of(4, seed=1))


def test_every_view_of_a_batch_is_drawn_by_itself() -> None:
    first, *others = views_of(6)
    assert all((first - each)[..., 1:].abs().amax() > 0.5 for each in others)


def test_slices_are_flat_and_lie_their_distance_apart_around_the_middle_one() -> None:
    thickness, middle = torch.tensor([0.5, 4.0]), torch.tensor([-3.0, 7.0])
    at = draw_views(2, 5, 16, thickness, middle, seeded())
    assert at.shape == (2, 5, 16, 16, 3)
    assert (at[..., 0] == at[..., :1, :1, 0]).all()
    heights = at[:, :, 0, 0, 0]
    assert heights[:, 2].tolist() == [-3.0, 7.0]
    assert torch.allclose(heights.diff(dim=1), thickness[:, None].expand(2, 4))
    assert (at[..., 1:] == at[:, :1, ..., 1:]).all(), "all slices of a view lie above each other"


def test_views_are_zoomed_turned_and_shifted_over_the_whole_range_and_not_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "_displacement", lambda count, side, *rest: torch.zeros(count, side, side, 2))
    plane = views_of(2000, side=16)[:, 0, :, :, 1:]
    down, right = plane[:, 1, 0] - plane[:, 0, 0], plane[:, 0, 1] - plane[:, 0, 0]
    zoom, angle = down.norm(dim=1), torch.atan2(down[:, 1], down[:, 0])
    shift = plane.mean((1, 2)) / 16
    assert torch.allclose(right.norm(dim=1), zoom, atol=1e-4)
    assert (down * right).sum(1).abs().max() < 1e-4
    for values, low, high in ((zoom, 0.8, 1.25), (angle, -0.35, 0.35), (shift, -1 / 8, 1 / 8)):
        assert low - 1e-4 <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high + 1e-4


def test_views_are_bent_a_little_and_never_folded() -> None:
    displacement = views._displacement(500, 32, seeded())
    assert 0.5 < displacement.abs().max() <= 1, "at most a 32nd of the side"
    plane = views_of(500, side=32)[:, 0, :, :, 1:]
    down, right = plane.diff(dim=1)[:, :, 1:], plane.diff(dim=2)[:, 1:]
    area = down[..., 0] * right[..., 1] - down[..., 1] * right[..., 0]
    assert area.min() > 0.3


# Appearances.


def test_the_same_seed_gives_the_same_appearances_and_another_seed_others(appearance: Appearance) -> None:
    again = draw_appearance(COUNT, seeded())
    assert all(torch.equal(*each) for each in zip(parts(appearance), parts(again), strict=True))
    assert not torch.equal(draw_appearance(COUNT, seeded(1)).grey, appearance.grey)


def test_some_volumes_look_like_ct() -> None:
    assert draw_appearance(2000, seeded()).is_ct.float().mean().item() == pytest.approx(CT_PROB, abs=0.04)


def test_grey_values_of_ct_are_those_of_tissues_in_their_shares() -> None:
    many = draw_appearance(500, seeded())
    grey = many.grey[many.is_ct]
    assert grey.min() >= LOWEST
    assert grey.max() <= HIGHEST
    hu = 40 + 100 * torch.sinh(grey[:, OUTSIDE + 1 :])
    soft = ((hu >= -10) & (hu <= 110)).float().mean()
    assert soft.item() == pytest.approx(TISSUE_PROBS[3], abs=0.05)
    tissue = torch.stack([(hu >= low - 1) & (hu <= high + 1) for low, high in TISSUES_HU]).any(0)
    assert tissue.all()


def test_grey_values_of_mr_fill_their_range_evenly() -> None:
    many = draw_appearance(500, seeded())
    grey = many.grey[~many.is_ct][:, OUTSIDE + 1 :]
    assert grey.min() >= -1.5
    assert grey.max() <= 1.5
    thirds = torch.histc(grey, 3, -1.5, 1.5) / grey.numel()
    assert (thirds - 1 / 3).abs().max() < 0.05


def test_several_labels_of_a_volume_share_a_grey_value_and_differ_in_texture(appearance: Appearance) -> None:
    for grey, texture in zip(appearance.grey, appearance.texture, strict=True):
        assert 2 <= grey.unique().numel() <= LABELS - 4
        assert texture.unique().numel() == LABELS
    number = [grey.unique().numel() for grey in appearance.grey]
    assert min(number) < 8, "in some volumes most labels do"
    assert max(number) > 15
    assert appearance.texture.min() >= 0
    assert appearance.texture.max() <= 0.25


def test_around_most_bodies_is_air_or_nothing_darker_than_all_else() -> None:
    many = draw_appearance(500, seeded())
    around = many.grey[:, OUTSIDE]
    air = torch.isclose(around, torch.tensor(AIR))[many.is_ct]
    assert air.float().mean().item() == pytest.approx(0.85, abs=0.06)
    nothing = (around <= many.grey[:, OUTSIDE + 1 :].amin(1) - 0.15)[~many.is_ct]
    assert nothing.float().mean().item() == pytest.approx(0.85, abs=0.06)


def test_mixed_takes_the_second_appearance_where_it_is_told_to(appearance: Appearance) -> None:
    other = draw_appearance(COUNT, seeded(1))
    take = torch.arange(COUNT) % 3 == 0
    for one, two, result in zip(
        parts(appearance), parts(other), parts(mixed(appearance, other, take)), strict=True
    ):
        assert torch.equal(result[take], two[take])
        assert torch.equal(result[~take], one[~take])


def test_the_same_scanner_gives_another_person_about_the_same_grey_values(appearance: Appearance) -> None:
    other = same_scanner(appearance, seeded(1), 0.1)
    assert (other.grey - appearance.grey).std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(other.texture, appearance.texture)
    assert torch.equal(same_scanner(appearance, seeded(1), 0.0).grey, appearance.grey)


# Images.


def test_the_same_seed_gives_the_same_images_and_another_seed_others(
    labels: Tensor, appearance: Appearance
) -> None:
    one, two, three = (render(labels, appearance, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert (one != three).flatten(1).any(1).all()


def test_the_global_generator_is_neither_read_nor_moved(labels: Tensor) -> None:
    images = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        at = views_of(2)
        appearance = same_scanner(draw_appearance(COUNT, seeded()), seeded())
        images.append((at, render(labels, appearance, seeded())))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(*each) for each in zip(*images, strict=True))


def test_images_are_finite_floats_in_the_shape_of_the_labels(labels: Tensor, appearance: Appearance) -> None:
    image = render(labels, appearance, seeded())
    assert image.shape == labels.shape
    assert image.dtype == torch.float32
    assert image.isfinite().all()


def test_ct_lies_in_the_range_of_normalised_ct_but_for_what_the_scanner_adds(
    labels: Tensor, appearance: Appearance
) -> None:
    low, high = (
        render(labels, appearance, seeded())[appearance.is_ct]
        .flatten()
        .quantile(torch.tensor([0.001, 0.999]))
    )
    assert LOWEST - 0.9 < low < -2
    assert 1.5 < high < HIGHEST + 0.5


@pytest.mark.usefixtures("no_scanner", "no_bias")
def test_hounsfield_units_mean_the_same_in_every_ct() -> None:
    """Standardised, air would not lie at the same value in all of them."""
    many = draw_appearance(COUNT, seeded())
    half = torch.full((COUNT, 3, 16, 16), OUTSIDE, dtype=torch.uint8)
    half[..., 8:] = OUTSIDE + 1
    air = many.is_ct & torch.isclose(many.grey[:, OUTSIDE], torch.tensor(AIR))
    image = render(half, many, seeded())[air]
    assert air.sum() >= 5
    assert (image[..., :8].mean((1, 2, 3)) - AIR).abs().max() < 0.02


@pytest.mark.usefixtures("no_scanner")
def test_mr_is_standardised(labels: Tensor, appearance: Appearance) -> None:
    image = render(labels, appearance, seeded())[~appearance.is_ct]
    assert image.mean((1, 2, 3)).abs().max() < 1e-4
    assert (image.std((1, 2, 3)) - 1).abs().max() < 1e-3


def test_mr_has_about_mean_0_and_deviation_1_after_the_scanner(
    labels: Tensor, appearance: Appearance
) -> None:
    image = render(labels, appearance, seeded())[~appearance.is_ct]
    assert image.mean().abs() < 0.15
    assert image.mean((1, 2, 3)).abs().max() < 1
    deviation = image.std((1, 2, 3))
    assert deviation.mean().item() == pytest.approx(1, abs=0.15)
    assert deviation.min() > 0.5
    assert deviation.max() < 1.6


def test_a_scanner_differs_from_image_to_image(labels: Tensor) -> None:
    """The same slice in the same appearance, sixteen times."""
    appearance = appearance_of(torch.linspace(-1, 1, LABELS), is_ct=False)
    many = Appearance(*(each.expand(16, *each.shape[1:]) for each in parts(appearance)))
    image = render(labels[:1].expand(16, -1, -1, -1), many, seeded())
    assert image.mean((1, 2, 3)).std() > 0.05
    assert image.diff(dim=-1).std((1, 2, 3)).std() > 0.05, "sharp and blurred, clean and noisy"


@pytest.mark.usefixtures("no_scanner")
def test_a_view_of_one_label_alone_stays_finite_and_is_not_blown_up() -> None:
    for is_ct in (False, True):
        image = render(
            torch.zeros(1, 3, 16, 16, dtype=torch.uint8), appearance_of(torch.zeros(1), 0.0, is_ct), seeded()
        )
        assert image.isfinite().all()
        assert image.abs().max() < 3


@pytest.mark.usefixtures("no_scanner")
@pytest.mark.parametrize("is_ct", [True, False])
def test_an_image_shows_the_grey_value_of_each_label(labels: Tensor, is_ct: bool) -> None:
    grey = torch.linspace(-1.5, 1.5, LABELS)
    for number in range(4):
        image = render(labels[number : number + 1, :1], appearance_of(grey, 0.02, is_ct), seeded(number))
        shown = torch.stack([image.flatten(), grey[labels[number, 0].long()].flatten()])
        assert shown.corrcoef()[0, 1] > 0.9


@pytest.mark.usefixtures("no_scanner", "no_bias")
def test_without_texture_and_bias_a_label_has_exactly_its_grey_value(labels: Tensor) -> None:
    grey = torch.linspace(-1.5, 1.5, LABELS)
    assert torch.equal(render(labels[:1, :1], appearance_of(grey), seeded()), grey[labels[:1, :1].long()])


@pytest.mark.usefixtures("no_scanner", "no_bias")
def test_texture_has_the_strength_of_its_label() -> None:
    strips = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    strips[..., 32:] = 1
    appearance = appearance_of(torch.tensor([0.0, 1.0]))
    appearance.texture[0, :2] = torch.tensor([0.2, 0.05])
    image = render(strips, appearance, seeded())
    assert image[..., :32].std().item() == pytest.approx(0.2, rel=0.2)
    assert image[..., 32:].std().item() == pytest.approx(0.05, rel=0.2)


@pytest.mark.usefixtures("no_scanner")
def test_the_bias_is_smooth_and_small_and_the_same_in_all_slices() -> None:
    flat = torch.zeros(200, 2, 32, 32, dtype=torch.uint8)
    appearance = appearance_of(torch.zeros(1))
    image = render(
        flat, Appearance(*(each.expand(200, *each.shape[1:]) for each in parts(appearance))), seeded()
    )
    assert torch.allclose(image[:, 0], image[:, 1], atol=1e-6)
    assert 0.1 < image.std() < 0.3
    assert image.diff(dim=-1).abs().max() < 0.15


@pytest.mark.usefixtures("no_scanner", "no_bias")
def test_neighbouring_slices_shine_through() -> None:
    """A label of one slice: that slice keeps at least half of it, its neighbours get the rest."""
    one = torch.zeros(200, 5, 4, 4, dtype=torch.uint8)
    one[:, 2] = 1
    appearance = appearance_of(torch.tensor([0.0, 1.0]))
    image = render(
        one, Appearance(*(each.expand(200, *each.shape[1:]) for each in parts(appearance))), seeded()
    )
    shown = image[:, :, 0, 0]
    assert (shown[:, 2] >= 0.5).all()
    assert shown[:, 2].min() < 0.55
    assert shown[:, 2].max() > 0.95
    assert torch.allclose(shown[:, 1], (1 - shown[:, 2]) / 2)
    assert torch.allclose(shown[:, 1], shown[:, 3])
    assert (shown[:, [0, 4]] == 0).all()


def test_an_image_does_not_change_the_appearance(labels: Tensor, appearance: Appearance) -> None:
    copy = replace(appearance, grey=appearance.grey.clone(), texture=appearance.texture.clone())
    render(labels, appearance, seeded())
    assert all(torch.equal(*each) for each in zip(parts(copy), parts(appearance), strict=True))
