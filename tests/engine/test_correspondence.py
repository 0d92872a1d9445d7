"""Two views' features land on the same tissue, whatever was flipped, zoomed or coarser along an axis."""

from __future__ import annotations

import pytest
import torch
from medssl.nn.data.correspondence import align, common_points, features_at, overlap
from medssl.nn.data.crop_sampling import sample_pairs
from medssl.nn.data.crops import CropBatch, cut, shown
from small import box, plan, ramps, seeded, stacked
from torch import Tensor
from torch.nn import functional as F

SCAN = (40, 60, 50)
FLIPS = [[bool(number >> axis & 1) for axis in range(3)] for number in range(8)]


def pooled_coordinates(views: CropBatch, dims: int, spacing: tuple[float, float, float]) -> Tensor:
    """(B, 3, ...): what an encoder that only averages over blocks of 4 (2 across slices) says of a view."""
    channels = []
    for ramp in ramps(SCAN, spacing):
        image = shown(cut(ramp, views, plan(dims)))
        if dims == 2:
            channels.append(F.avg_pool2d(image[:, 1:2], 4))
        else:
            channels.append(F.avg_pool3d(image, (2, 4, 4)))
    return torch.cat(channels, dim=1)


def assert_same_tissue(
    first: CropBatch, second: CropBatch, dims: int, spacing: tuple[float, float, float]
) -> None:
    """Aligned coordinates agree with each other and with the truth to within half a cell; in the inner part
    of both views, where nothing is extrapolated, exactly."""
    one, two = (pooled_coordinates(each, dims, spacing) for each in (first, second))
    cells = (1, 5, 6) if dims == 2 else (3, 5, 6)
    one_there, two_there, valid = align(one, first, two, second, cells)
    assert valid.all()
    low, high, _ = overlap(first, second)
    truth = common_points(low, high, cells).movedim(-1, 1)
    if dims == 2:
        truth = truth[:, :, 0]
    stride = torch.tensor([1.0 if dims == 2 else 2.0, 4.0, 4.0])
    spread = (...,) + (None,) * dims
    exact = torch.ones_like(truth[:, 0], dtype=torch.bool)
    for views, seen in ((first, one_there), (second, two_there)):
        half_cell = (stride * views.step / 2)[spread]
        assert ((seen - truth).abs() <= half_cell + 1e-3).all()
        lower, upper = (edge[spread] for edge in views.extent())
        inner = (truth >= lower + half_cell) & (truth <= upper - half_cell)
        exact &= inner[:, 3 - dims :].all(1)
    assert exact.any()
    apart = (one_there - two_there).abs().amax(1)
    assert (apart[exact] < 1e-3).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.5, 0.8)], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("dims", [2, 3])
def test_flip_equivariance_of_sampled_pairs(dims: int, spacing: tuple[float, float, float]) -> None:
    size = (3, 16, 16) if dims == 2 else (8, 16, 16)
    first_ramp = ramps(SCAN, spacing)[0]
    first, second = sample_pairs(
        first_ramp, plan(dims, batch=64), size, seeded(3), min_cells=(0, 6, 6) if dims == 2 else (3, 6, 6)
    )
    assert len({tuple(flip) for flip in first.flip.tolist()}) == 8
    assert_same_tissue(first, second, dims, spacing)


@pytest.mark.parametrize("dims", [2, 3])
def test_flip_equivariance_with_unequal_overlaps(dims: int) -> None:
    """Overlaps of 0.9 and 0.5 along different axes: a swapped axis order cannot pass."""
    size = (3, 16, 16) if dims == 2 else (8, 16, 16)
    shift = (0, 8, 1.6) if dims == 2 else (0.8, 8, 4)
    pairs = []
    for flip in FLIPS:
        for other in FLIPS:
            there = box((20, 30, 25), size, flip=flip)
            pairs.append((there, box([20 + shift[0], 30 + shift[1], 25 + shift[2]], size, flip=other)))
    first, second = (stacked([pair[which] for pair in pairs]) for which in (0, 1))
    assert_same_tissue(first, second, dims, (1.0, 1.0, 1.0))


def test_features_at_the_centres_of_cells_are_the_cells() -> None:
    features = torch.randn(1, 4, 2, 4, 4, generator=seeded())
    views = box((20, 30, 25), (8, 16, 16), step=(1, 1.2, 0.7))
    points = common_points(*views.extent(), (2, 4, 4))
    assert torch.allclose(features_at(features, views, points), features, atol=1e-5)
    flipped = box((20, 30, 25), (8, 16, 16), step=(1, 1.2, 0.7), flip=(True, False, True))
    assert torch.allclose(features_at(features, flipped, points), features.flip(2, 4), atol=1e-5)


def test_a_turned_view_is_read_where_it_shows_the_tissue() -> None:
    views = box((20, 30, 25), (8, 16, 16), step=(1, 1.2, 1.2), angle=0.4)
    seen = pooled_coordinates(views, 3, (1.0, 1.0, 1.0))
    points = torch.tensor([20.0, 30, 25]) + 3 * torch.randn(1, 3, 4, 5, 3, generator=seeded()).clamp(-1, 1)
    assert torch.allclose(features_at(seen, views, points), points.movedim(-1, 1), atol=1e-3)


def test_an_overlap_of_exactly_one_cell_is_that_cell() -> None:
    first, second = box((20, 30, 25), (8, 16, 16)), box((26, 42, 37), (8, 16, 16))
    low, high, valid = overlap(first, second)
    assert valid.all()
    assert (high - low).tolist() == [[2, 4, 4]]
    one = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    one_there, two_there, _ = align(one, first, one, second, (1, 1, 1))
    assert one_there.item() == pytest.approx(63)
    assert two_there.item() == pytest.approx(0)


@pytest.mark.parametrize("shift", [(8, 0, 0), (0, 16, 0), (0, 0, 40)])
def test_disjoint_boxes_have_no_overlap(shift: tuple[int, int, int]) -> None:
    first = box((20, 30, 25), (8, 16, 16))
    second = box([at + by for at, by in zip((20, 30, 25), shift, strict=True)], (8, 16, 16))
    assert not overlap(first, second)[2].any()


def test_boxes_of_different_scans_have_no_overlap() -> None:
    first = box((20, 30, 25), (8, 16, 16))
    second = CropBatch(first.size, torch.tensor([1]), first.centre, first.step, first.flip, first.angle)
    assert not overlap(first, second)[2].any()


def test_alignment_hands_gradients_to_both_maps() -> None:
    first, second = box((20, 30, 25), (8, 16, 16)), box((22, 33, 28), (8, 16, 16), flip=(True, True, False))
    maps = [torch.randn(1, 2, 4, 4, 4, generator=seeded(), requires_grad=True) for _ in range(2)]
    one, two, _ = align(maps[0], first, maps[1], second, (2, 3, 3))
    (one.square().sum() + two.square().sum()).backward()
    for each in maps:
        assert each.grad is not None
        assert each.grad.abs().sum() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_mixed_precision_around_it_changes_nothing(dims: int) -> None:
    size = (3, 16, 16) if dims == 2 else (8, 16, 16)
    first, second = box((300, 310, 325), size), box((300, 313, 328), size, (1, 1.1, 1.1))
    maps = [torch.randn(1, 2, *(4,) * dims, generator=seeded(seed)) for seed in (0, 1)]
    cells = (1, 3, 3) if dims == 2 else (3, 3, 3)
    plain = align(maps[0], first, maps[1], second, cells)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = align(maps[0], first, maps[1], second, cells)
    assert all(torch.equal(one, two) for one, two in zip(plain, mixed, strict=True))
