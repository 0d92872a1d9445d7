"""The properties of made-up label volumes: what occurs in them, and how it hangs together. One a test."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from medssl.nn.shapes.volumes import (
    CELLS,
    FIRST_CELL,
    FIRST_ORGAN,
    FIRST_TUBE,
    FIRST_WALL,
    LABELS,
    ORGANS,
    OUTSIDE,
    RIM,
    TUBES,
    Volumes,
    draw,
    other_person,
    sample,
)
from small import seeded
from torch import Tensor

SIDE, COUNT = 48, 16
HEIGHTS = torch.arange(-16.0, 17)


def slices(heights: Tensor, count: int = 1, side: int = SIDE) -> Tensor:
    """Coordinates (count, slices, side, side, 3) of plain slices at these heights, a pixel apart."""
    across = torch.arange(side) - (side - 1) / 2
    grid = torch.stack(torch.meshgrid(heights, across, across, indexing="ij"), -1)
    return grid.expand(count, *grid.shape)


@pytest.fixture(scope="module")
def volumes() -> Volumes:
    return draw(COUNT, SIDE, seeded())


@pytest.fixture(scope="module")
def labels(volumes: Volumes) -> Tensor:
    """Labels of all volumes in slices one pixel apart."""
    return sample(volumes, slices(HEIGHTS, COUNT))


@pytest.fixture(scope="module")
def shares(labels: Tensor) -> Tensor:
    """(COUNT, LABELS) share of the voxels that each label fills."""
    return torch.stack([(labels == label).float().mean((1, 2, 3)) for label in range(LABELS)], 1)


def same(one: Tensor, two: Tensor) -> Tensor:
    """Share of the voxels of each volume with equal labels."""
    return (one == two).float().flatten(1).mean(1)


def tensors(volumes: Volumes) -> list[Tensor]:
    return [volumes.fields, volumes.wall, volumes.tube, volumes.organ, volumes.body]


def plain() -> Volumes:
    """One volume without outside, walls, tubes and organs: cell 0 where x > 0, cell 1 where x < 0.

    The two fields are x and -x, in pixels.
    """
    volumes = draw(1, SIDE, seeded())
    fields = torch.zeros_like(volumes.fields)
    fields[:, 2:CELLS] = -1e4
    fields[:, 0], fields[:, 1] = ramp(), -ramp()
    organ = volumes.organ.clone()
    organ[..., 3:6] = 1e-3
    body = torch.tensor([[0, 0, torch.inf, torch.inf, 0]])
    nothing = torch.zeros_like
    return replace(
        volumes,
        fields=fields,
        wall=nothing(volumes.wall),
        tube=nothing(volumes.tube),
        organ=organ,
        body=body,
    )


def ramp() -> Tensor:
    """x on knots, in pixels."""
    return torch.linspace(-SIDE / 2, SIDE / 2, draw(1, SIDE, seeded()).fields.shape[-1])


# The generator.


def test_the_same_seed_gives_the_same_volumes_and_labels_bit_by_bit(volumes: Volumes, labels: Tensor) -> None:
    again = draw(COUNT, SIDE, seeded())
    assert all(torch.equal(*each) for each in zip(tensors(volumes), tensors(again), strict=True))
    assert torch.equal(sample(again, slices(HEIGHTS, COUNT)), labels)


def test_the_same_seed_gives_the_same_other_person(volumes: Volumes) -> None:
    one, two, three = (tensors(other_person(volumes, seeded(seed))) for seed in (1, 1, 2))
    assert all(torch.equal(*each) for each in zip(one, two, strict=True))
    assert not torch.equal(one[0], three[0])


def test_another_seed_gives_other_labels(labels: Tensor) -> None:
    others = sample(draw(COUNT, SIDE, seeded(1)), slices(HEIGHTS, COUNT))
    assert same(labels, others).mean() < 0.3


def test_the_global_generator_is_neither_read_nor_moved(volumes: Volumes, labels: Tensor) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    drawn = draw(COUNT, SIDE, seeded())
    other_person(drawn, seeded())
    assert torch.equal(sample(drawn, slices(HEIGHTS, COUNT)), labels)
    assert torch.equal(torch.random.get_rng_state(), before)


# How labels hang together.


def test_neighbouring_slices_agree_in_most_pixels_and_slices_of_different_volumes_do_not(
    labels: Tensor,
) -> None:
    near = same(labels[:, 1:], labels[:, :-1])
    assert near.min() > 0.8
    assert near.mean() > 0.9
    assert same(labels, labels.roll(1, 0)).mean() < 0.3


def test_the_farther_slices_are_apart_the_less_they_agree(labels: Tensor) -> None:
    agree = [same(labels[:, apart:], labels[:, :-apart]).mean() for apart in (1, 2, 4, 8, 16)]
    assert all(later < earlier - 0.03 for earlier, later in pairwise(agree))


def test_a_slice_half_a_pixel_away_is_closer_than_its_neighbour(volumes: Volumes, labels: Tensor) -> None:
    half = sample(volumes, slices(HEIGHTS + 0.5, COUNT))
    assert same(half, labels).mean() > same(labels[:, 1:], labels[:, :-1]).mean() + 0.01


def test_labels_do_not_depend_on_the_other_volumes_and_slices_asked_for(
    volumes: Volumes, labels: Tensor
) -> None:
    one = replace(volumes, **{name: getattr(volumes, name)[3:4] for name in PARTS})
    assert torch.equal(sample(one, slices(HEIGHTS[5:6])), labels[3:4, 5:6])


PARTS = ("fields", "wall", "tube", "organ", "body")


def test_fields_have_unit_variance_whatever_their_scales() -> None:
    fields = draw(64, SIDE, seeded()).fields[:, CELLS:]
    assert fields.square().mean().item() == pytest.approx(1, abs=0.1)
    assert fields.mean().item() == pytest.approx(0, abs=0.1)


# What occurs.


@pytest.mark.parametrize("side", [32, 50])
def test_every_label_is_one_of_the_known_ones_also_far_from_the_middle(side: int) -> None:
    drawn = draw(4, side, seeded())
    labels = sample(drawn, 3 * slices(torch.tensor([-8.0, 0, 8]), 4, side))
    assert labels.dtype == torch.uint8
    assert labels.shape == (4, 3, side, side)
    assert labels.max() < LABELS


def test_no_label_fills_nearly_everything_in_most_volumes(shares: Tensor) -> None:
    largest = shares.amax(1)
    assert (largest < 0.7).float().mean() > 0.8
    assert largest.max() < 0.95


def test_several_labels_occur_in_each_volume_and_not_all_of_them(shares: Tensor) -> None:
    number = (shares > 0.001).sum(1)
    assert number.min() >= 4
    assert number.max() < LABELS


def test_most_of_a_volume_is_cells_and_outside(shares: Tensor) -> None:
    large = shares[:, FIRST_CELL:FIRST_WALL].sum(1) + shares[:, OUTSIDE]
    assert large.mean() > 0.6
    assert ((shares[:, FIRST_CELL:FIRST_WALL] > 0.01).sum(1) >= 2).float().mean() > 0.8


@pytest.mark.parametrize("kind", ["wall", "tube", "organ"])
def test_walls_tubes_and_organs_occur_in_some_volumes_and_are_small(shares: Tensor, kind: str) -> None:
    first, number = {
        "wall": (FIRST_WALL, CELLS),
        "tube": (FIRST_TUBE, TUBES),
        "organ": (FIRST_ORGAN, ORGANS),
    }[kind]
    each = shares[:, first : first + number]
    assert (each > 0).any(1).sum() >= COUNT // 4
    assert not (each > 0).all()
    assert each[each > 0].median() < 0.08
    assert each.sum(1).mean() < 0.2


def test_cells_that_a_volume_lacks_never_occur(volumes: Volumes, shares: Tensor) -> None:
    lacks = volumes.fields[:, :CELLS].flatten(2).amax(2) < -1e3
    assert lacks.any()
    assert (~lacks).sum(1).min() >= 3
    assert (shares[:, FIRST_CELL:FIRST_WALL][lacks] == 0).all()
    assert (shares[:, FIRST_WALL:FIRST_TUBE][lacks | (volumes.wall == 0)] == 0).all()


def test_paired_organs_lie_on_both_sides_in_the_same_size_some_under_one_label() -> None:
    organ = draw(64, SIDE, seeded()).organ
    left, right = organ[:, 0], organ[:, 1]
    paired = (left[:, 2] == -right[:, 2]) & (left[:, 3] > 1)
    positive_mask = left[:, 6] == right[:, 6]
    assert 10 < paired.sum() < 40
    assert torch.equal(left[paired, :2], right[paired, :2])
    assert torch.equal(left[paired, 3:6], right[paired, 3:6])
    assert 0 < positive_mask.sum() < paired.sum()
    assert not (positive_mask & ~paired).any()


def test_only_a_volume_with_a_surface_has_an_outside_and_all_far_from_its_body_is_outside(
    volumes: Volumes, labels: Tensor
) -> None:
    bounded = volumes.body[:, 2].isfinite()
    assert 0 < bounded.sum() < COUNT
    assert (labels[~bounded] > RIM).all()
    cy, cx, ry, rx = volumes.body[:, :4, None, None, None].unbind(1)
    _, y, x = slices(HEIGHTS, COUNT).unbind(-1)
    distance = ((y - cy) / ry).square() + ((x - cx) / rx).square()
    assert (distance > 1.9).any()
    assert (labels[distance > 1.9] == OUTSIDE).all()
    assert (labels[distance < 0.3] != OUTSIDE).all()


# Each rule by itself, in a volume made by hand.


def test_a_voxel_belongs_to_the_cell_whose_field_is_largest() -> None:
    at = slices(HEIGHTS)
    expected = torch.where(at[..., 2] > 0, FIRST_CELL, FIRST_CELL + 1)
    assert torch.equal(sample(plain(), at).long(), expected)


def test_a_wall_lies_on_its_own_cell_s_side_of_the_border() -> None:
    volumes = plain()
    volumes.wall[0, 0] = 8.0  # the fields, x and -x, differ by less than that up to x = 4
    at = slices(HEIGHTS)
    x = at[..., 2]
    expected = torch.where(x > 0, FIRST_CELL, FIRST_CELL + 1)
    expected[(x > 0) & (x < 4)] = FIRST_WALL
    assert torch.equal(sample(volumes, at).long(), expected)


def test_a_tube_runs_where_both_its_fields_are_near_0() -> None:
    volumes = plain()
    volumes.fields[0, CELLS + 2] = ramp()[:, None]
    volumes.fields[0, CELLS + 3] = ramp()
    volumes.tube[0, 1] = 5.2
    at = slices(HEIGHTS)
    tube = at[..., 1].square() + at[..., 2].square() < 5.2**2
    assert torch.equal(sample(volumes, at) == FIRST_TUBE + 1, tube)
    assert not (sample(volumes, at) == FIRST_TUBE).any()


def test_an_organ_is_an_ellipsoid_with_its_label() -> None:
    volumes = plain()
    volumes.organ[0, 4] = torch.tensor([3.0, -5, 6, 9.1, 4.2, 7.3, FIRST_ORGAN + 2])
    at = slices(HEIGHTS)
    inside = ((at - torch.tensor([3.0, -5, 6])) / torch.tensor([9.1, 4.2, 7.3])).square().sum(-1) < 1
    assert torch.equal(sample(volumes, at) == FIRST_ORGAN + 2, inside)
    assert inside.any()


def test_an_uneven_surface_makes_organs_differ_from_an_ellipsoid_a_little() -> None:
    volumes = plain()
    volumes.organ[0, 0] = torch.tensor([0.0, 0, 0, 10, 10, 10, FIRST_ORGAN])
    sizes = []
    for uneven in (-1.0, 0.0, 1.0):
        volumes.fields[:, -1] = uneven
        sizes.append(int((sample(volumes, slices(HEIGHTS)) == FIRST_ORGAN).sum()))
    assert sizes[0] < 0.8 * sizes[1] < 0.8 * 0.8 * sizes[2]
    assert sizes[0] > 0.4 * sizes[1]


def test_around_the_body_is_the_outside_and_under_its_surface_the_rim() -> None:
    volumes = plain()
    volumes.organ[0, 0] = torch.tensor(
        [0.0, 0, 0, 99, 99, 99, FIRST_ORGAN]
    )  # it does not grow out of the body
    volumes.body[0] = torch.tensor([2.0, -1, 15.3, 18.4, 0.25])
    at = slices(HEIGHTS)
    depth = 1 - ((at[..., 1] - 2) / 15.3).square() - ((at[..., 2] + 1) / 18.4).square()
    expected = torch.where(depth < 0, OUTSIDE, torch.where(depth < 0.25, RIM, FIRST_ORGAN))
    assert torch.equal(sample(volumes, at).long(), expected)


# Another person.


def test_at_strength_0_the_other_person_is_the_same(volumes: Volumes, labels: Tensor) -> None:
    other = other_person(volumes, seeded(1), 0.0)
    assert all(torch.equal(*each) for each in zip(tensors(volumes), tensors(other), strict=True))
    assert torch.equal(sample(other, slices(HEIGHTS, COUNT)), labels)


def test_another_person_keeps_labels_mostly_but_not_wholly(volumes: Volumes, labels: Tensor) -> None:
    kept = same(sample(other_person(volumes, seeded(1)), slices(HEIGHTS, COUNT)), labels)
    assert kept.min() > 0.4
    assert 0.6 < kept.mean() < 0.95
    assert kept.max() - kept.min() > 0.1, "each volume draws how much of it"


def test_the_stronger_the_less_another_person_keeps(volumes: Volumes, labels: Tensor) -> None:
    kept = [
        same(sample(other_person(volumes, seeded(1), strength), slices(HEIGHTS, COUNT)), labels).mean()
        for strength in (0.1, 0.3, 1.0)
    ]
    assert kept[0] > kept[1] + 0.03
    assert kept[1] > kept[2] + 0.03


def test_another_person_has_the_same_organs_cells_and_surface(volumes: Volumes) -> None:
    before = [each.clone() for each in tensors(volumes)]
    other = other_person(volumes, seeded(1), 1.0)
    assert all(torch.equal(*each) for each in zip(before, tensors(volumes), strict=True)), "changed in place"
    assert torch.equal(other.organ[..., 6], volumes.organ[..., 6])
    lacks = [each.fields[:, :CELLS].flatten(2).amax(2) < -1e3 for each in (volumes, other)]
    assert torch.equal(*lacks)
    assert torch.equal(other.body[:, 2].isfinite(), volumes.body[:, 2].isfinite())
    assert (other.organ[..., :6] != volumes.organ[..., :6]).all()
