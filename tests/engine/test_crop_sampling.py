"""Boxes lie where they were asked for, and overlap as much."""

from __future__ import annotations

import pytest
import torch
from medssl.nn.data.crop_sampling import sample_anywhere, sample_pairs
from medssl.nn.data.crops import CropBatch, cut, scan_shapes, shown
from small import dataset, noise, plan, seeded

SCAN = (20, 40, 30)


def overlap_over_union(first: CropBatch, second: CropBatch, axes: slice) -> torch.Tensor:
    (low, high), (other_low, other_high) = first.extent(), second.extent()
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low))[:, axes].clamp(min=0).prod(1)
    return shared / ((high - low)[:, axes].prod(1) + (other_high - other_low)[:, axes].prod(1) - shared)


@pytest.mark.parametrize(
    ("dims", "shape"), [(2, (9, 60, 44)), (2, (5, 512, 512)), (3, (30, 44, 60)), (3, (200, 300, 300))]
)
def test_ten_thousand_pairs_overlap_enough_and_stay_inside(dims: int, shape: tuple[int, int, int]) -> None:
    scans = dataset(noise((1, 1, 1)).expand(shape))
    size = (3, 24, 24) if dims == 2 else (8, 24, 24)
    many = plan(dims, batch=10_000)
    first, second = sample_pairs(scans, many, size, seeded(), min_cells=(0, 4, 4))
    axes = slice(3 - dims, 3)
    assert overlap_over_union(first, second, axes).min() >= 0.1 - 1e-5
    for views in (first, second):
        low, high = views.extent()
        assert (low[:, axes] >= -0.5 - 1e-3).all()
        assert (high[:, axes] <= torch.tensor(shape)[axes] - 0.5 + 1e-3).all()
    apart = ((first.centre - second.centre) / first.step).abs()[:, axes]
    # Not stuck at the same place: the mean shift is a good part of the patch, in a large scan too.
    assert (apart.mean(0) > 3 * torch.tensor(size)[axes] / 24).all()


def test_pairs_share_at_least_the_cells_that_were_asked_for() -> None:
    first, second = sample_pairs(
        dataset(noise(SCAN)), plan(3, batch=2000), (8, 16, 16), seeded(), min_cells=(5, 11, 3)
    )
    (low, high), (other_low, other_high) = first.extent(), second.extent()
    shared = torch.minimum(high, other_high) - torch.maximum(low, other_low)
    assert (shared >= torch.tensor([5, 11, 3]) - 1e-4).all()


def test_both_boxes_of_a_pair_lie_on_one_slice_in_2_5d() -> None:
    first, second = sample_pairs(dataset(noise(SCAN)), plan(2, batch=500), (3, 16, 16), seeded())
    assert torch.equal(first.centre[:, 0], second.centre[:, 0])
    assert set(first.centre[:, 0].tolist()) == set(range(SCAN[0]))


def test_boxes_are_zoomed_in_the_plane_and_not_across_slices() -> None:
    first, second = sample_pairs(
        dataset(noise(SCAN)), plan(3, batch=500), (8, 16, 16), seeded(), zoom=(1.1, 1.4)
    )
    for views in (first, second):
        assert (views.step[:, 0] == 1).all()
        assert torch.equal(views.step[:, 1], views.step[:, 2])
        assert views.step[:, 1].min() >= 1.1
        assert views.step[:, 1].max() <= 1.4
    assert not torch.equal(first.step, second.step)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_scan_smaller_than_the_patch_is_framed_around_its_middle(dims: int) -> None:
    small = noise((2, 9, 7))
    size = (3, 16, 16) if dims == 2 else (8, 16, 16)
    first, second = sample_pairs(dataset(small), plan(dims), size, seeded())
    for views in (first, second):
        low, high = views.extent()
        assert (low[:, 1:] < 0).all()
        assert (high[:, 1:] > torch.tensor([8, 6])).all()
        assert torch.isfinite(shown(cut(dataset(small), views, plan(dims)))).all()
    assert (overlap_over_union(first, second, slice(3 - dims, 3)) >= 0.1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_anywhere_stay_inside_and_reach_every_end(dims: int) -> None:
    size = (3, 16, 16) if dims == 2 else (8, 16, 16)
    views = sample_anywhere(dataset(noise(SCAN)), plan(dims, batch=5000), size, seeded())
    low, high = views.extent()
    axes = slice(3 - dims, 3)
    assert (low[:, axes] >= -0.5 - 1e-4).all()
    assert (high[:, axes] <= torch.tensor(SCAN)[axes] - 0.5 + 1e-4).all()
    assert (low[:, axes].amin(0) < 0).all()
    assert (high[:, axes].amax(0) > torch.tensor(SCAN)[axes] - 1).all()
    assert not views.flip.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_in_given_scans_of_drawn_sizes_stay_inside(dims: int) -> None:
    size = (3, 16, 16) if dims == 2 else (8, 16, 16)
    scan = torch.tensor([1, 0, 1]).repeat(500)
    scans = dataset(noise((20, 30, 30)), noise(SCAN))
    views = sample_anywhere(scans, plan(dims), size, seeded(), scan=scan, zoom=(0.8, 1.2))
    low, high = views.extent()
    axes = slice(3 - dims, 3)
    assert torch.equal(views.scan, scan)
    assert (low[:, axes] >= -0.5 - 1e-4).all()
    assert (high[:, axes] <= scan_shapes(scans, scan)[:, axes] - 0.5 + 1e-4).all()
    assert (views.step[:, 0] == 1).all()
    assert torch.equal(views.step[:, 1], views.step[:, 2])
    assert views.step[:, 1].amin() < 0.82
    assert views.step[:, 1].amax() > 1.18


def test_the_same_generator_gives_the_same_pairs() -> None:
    pairs = [sample_pairs(dataset(noise(SCAN)), plan(3), (8, 16, 16), seeded(5))[1] for _ in range(2)]
    assert torch.equal(pairs[0].centre, pairs[1].centre)
    assert torch.equal(pairs[0].flip, pairs[1].flip)


@pytest.mark.parametrize(("across_mm", "moves"), [(2.0, True), (5.0, False)])
def test_boxes_of_a_pair_are_not_moved_across_thick_slices(across_mm: float, moves: bool) -> None:
    """A box two slices of 5 mm farther shows other tissue; in the plane the pair moves all the same."""
    spacing = (across_mm, 1.0, 1.0)
    scans = dataset(noise(SCAN), spacing_mm=spacing)
    many = plan(3, batch=200, spacing_mm=spacing)
    first, second = sample_pairs(scans, many, (8, 16, 16), seeded(), zoom=(1.0, 1.0))
    apart = (first.centre - second.centre).abs().amax(0)
    assert (apart[0] > 1) == moves
    assert (apart[1:] > 1).all()
