"""Superpixels: what Felzenszwalb's method is wrapped in. Each test is named after the property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from medssl.nn.data.superpixels import (
    IGNORE,
    SuperpixelParams,
    body,
    cut_slice,
    cut_slices,
    evenly_spaced,
    intensity_range,
    regions_of,
    rescale,
    segment_dataset,
)
from scipy.ndimage import gaussian_filter
from small import dataset, noise

SMALL = SuperpixelParams(side=64)
SQUARE = (1.0, 1.0)


def texture(shape: tuple[int, int] = (64, 64), seed: int = 0) -> np.ndarray:
    """Smooth blobs between 0.3 and 0.9 in steps of 1/256, so that adding a constant is exact."""
    random = np.random.default_rng(seed)
    blobs = gaussian_filter(random.normal(size=shape), 3)
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    return np.round((0.3 + 0.6 * blobs) * 256) / 256


def person(noisy: float = 0.0) -> np.ndarray:
    """Air of 0, a body of 0.5 with a lung of 0 in it, and a bed of 0.5 apart from it."""
    image = np.zeros((64, 64))
    rows, columns = np.ogrid[:64, :64]
    image[(rows - 30) ** 2 + (columns - 32) ** 2 < 22**2] = 0.5
    image[(rows - 26) ** 2 + (columns - 32) ** 2 < 6**2] = 0
    image[58:60, 4:60] = 0.5
    return np.clip(image + np.random.default_rng(0).normal(0, noisy, image.shape), 0, 1)


def count(labels: np.ndarray) -> int:
    return len(np.unique(labels[labels != IGNORE]))


def test_it_is_deterministic() -> None:
    one, two = (cut_slice(texture(), SQUARE, SMALL) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]


def test_labels_are_int16_and_numbered_without_gaps_on_the_grid() -> None:
    labels, _ = cut_slice(texture(), SQUARE, SMALL)
    assert labels.dtype == np.int16
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_every_region_has_the_least_size() -> None:
    everywhere = np.ones((64, 64), bool)
    labels = regions_of(texture(), everywhere, SMALL, 5.0)
    assert labels.min() == 0
    assert count(labels) > 10
    assert np.bincount(labels.ravel()).min() >= SMALL.min_pixels


def test_what_the_edge_of_the_body_leaves_of_a_region_is_large_enough_or_nothing() -> None:
    inside = np.zeros((64, 64), bool)
    inside[10:41, 7:50] = True
    labels = regions_of(texture(seed=1), inside, SuperpixelParams(side=256), 5.0)
    assert (labels[~inside] == IGNORE).all()
    assert (labels[inside] == IGNORE).any()
    assert np.bincount(labels[labels >= 0]).min() >= SuperpixelParams(side=256).min_pixels


@pytest.mark.parametrize("constant", [1.0, -0.5, 4.0])
def test_adding_a_constant_changes_nothing(constant: float) -> None:
    everywhere = np.ones((64, 64), bool)
    plain = regions_of(texture(), everywhere, SMALL, 20.0)
    assert count(plain) > 5
    assert np.array_equal(regions_of(texture() + constant, everywhere, SMALL, 20.0), plain)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_constant_slice_is_one_region(value: float) -> None:
    labels, _ = cut_slice(np.full((40, 30), value), SQUARE, SMALL)
    assert labels.dtype == np.int16
    assert (labels == 0).all()


def test_a_large_scale_gives_far_fewer_regions_than_a_small_one() -> None:
    """Not more: in between, the number is not monotone."""
    image, everywhere = texture(), np.ones((64, 64), bool)
    few, many = (count(regions_of(image, everywhere, SMALL, scale)) for scale in (1000.0, 1.0))
    assert few < many / 4


@pytest.mark.parametrize("shape", [(8, 64, 64), (64, 64, 3), (64,)])
def test_a_volume_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one slice"):
        cut_slice(np.zeros(shape), SQUARE, SMALL)


def test_slices_are_cut_one_by_one() -> None:
    images = np.stack([texture(seed=seed) for seed in range(3)])
    maps = cut_slices(images, SQUARE, SMALL)
    assert maps.shape == images.shape
    assert np.array_equal(maps[0], cut_slice(images[0], SQUARE, SMALL)[0])


def test_the_scale_goes_on_from_the_slice_before() -> None:
    coarse = SuperpixelParams(side=64, scale=2000.0)
    first, scale = cut_slice(texture(), SQUARE, coarse)
    assert scale < 2000
    again, same = cut_slice(texture(), SQUARE, coarse, scale)
    assert same == scale
    assert np.array_equal(cut_slices(np.stack([texture()] * 2), SQUARE, coarse), np.stack([first, again]))


@pytest.mark.parametrize(("scale", "finer"), [(400.0, True), (2.0, False)])
def test_the_scale_is_halved_or_doubled_until_30_to_150_regions_are_there(scale: float, finer: bool) -> None:
    params = SuperpixelParams(side=128, scale=scale)
    image = texture((128, 128))
    before = count(regions_of(image, np.ones(image.shape, bool), params, scale))
    labels, found = cut_slice(image, SQUARE, params)
    assert (before < 30) if finer else (before > 150)
    assert (found < scale) if finer else (found > scale)
    assert np.log2(scale / found) % 1 == 0
    assert 30 <= count(labels) <= 150


def test_the_search_for_a_scale_ends_where_no_scale_is_right() -> None:
    params = SuperpixelParams(side=64, n_regions=(2000, 3000))
    labels, scale = cut_slice(texture(), SQUARE, params)
    assert params.scale / 32 <= scale <= params.scale
    assert count(labels) > 1


def test_the_best_of_the_scales_tried_is_taken() -> None:
    params = SuperpixelParams(side=64, n_regions=(2000, 3000))
    everywhere = np.ones((64, 64), bool)
    counts = [count(regions_of(texture(), everywhere, params, params.scale / 2**step)) for step in range(6)]
    assert count(cut_slice(texture(), SQUARE, params)[0]) == max(counts)


def test_regions_follow_edges() -> None:
    """Two halves of different grey: no region lies in both."""
    image = np.full((64, 64), 0.4)
    image[:, 32:] = 0.8
    labels, _ = cut_slice(image, SQUARE, SMALL)
    assert not set(labels[:, :31].ravel()) & set(labels[:, 33:].ravel())


@pytest.mark.parametrize("noisy", [0.0, 0.02])
def test_air_and_bed_are_outside_the_body_and_lungs_inside(noisy: float) -> None:
    inside = body(person(noisy))
    assert inside[30, 12]
    assert inside[26, 32], "the lung is a hole of the body"
    assert not inside[2, 2]
    assert not inside[58:60].any(), "the bed"


def test_outside_the_body_there_is_no_region() -> None:
    image = person(0.02)
    labels, _ = cut_slice(image, SQUARE, SMALL)
    assert (labels[~body(image)] == IGNORE).all()
    assert count(labels) > 0


def test_a_slice_of_nothing_but_noisy_air_has_no_region() -> None:
    labels, _ = cut_slice(np.abs(noise((1, 40, 40))[0].numpy()) * 0.01, SQUARE, SMALL)
    assert (labels == IGNORE).all()


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((35, 51), (1.0, 1.0)), ((200, 160), (0.5, 0.5)), ((20, 90), (4.0, 1.0)), ((1, 9), SQUARE)],
)
def test_labels_come_back_on_the_slices_own_grid(
    shape: tuple[int, int], spacing_mm: tuple[float, float]
) -> None:
    labels, _ = cut_slice(texture(shape), spacing_mm, SMALL)
    assert labels.shape == shape


def test_coarse_pixels_are_not_mistaken_for_a_narrow_slice() -> None:
    """Rows of 4 mm and columns of 1 mm show the same regions as rows of 1 mm do."""
    image = texture((96, 96))
    fine, _ = cut_slice(image, (1.0, 1.0), SuperpixelParams(side=96))
    coarse, _ = cut_slice(image.reshape(24, 4, 96).mean(1), (4.0, 1.0), SuperpixelParams(side=96))
    assert count(coarse) == pytest.approx(count(fine), rel=0.5)


def test_grey_values_are_those_of_the_whole_scan_and_stray_voxels_do_not_decide() -> None:
    scan = torch.linspace(-3, 2, 64 * 64).reshape(1, 64, 64).repeat(8, 1, 1)
    scan[0, 0, 0] = 1000
    low, high = intensity_range(scan)
    assert low == pytest.approx(-3, abs=0.1)
    assert high == pytest.approx(2, abs=0.1)
    unit = rescale(scan.numpy(), low, high)
    assert (unit.min(), unit.max()) == (0, 1)
    assert (rescale(np.full((2, 2), 7.0), 7.0, 7.0) == 0).all()


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_units_of_grey_do_not_matter(factor: float) -> None:
    image = torch.from_numpy(texture().astype(np.float32))[None]
    one, two = (segment_dataset(dataset(each), SMALL, 1) for each in (image, factor * image))
    assert one is not None
    assert two is not None
    assert torch.equal(one.dataset.targets[0], two.dataset.targets[0])


def test_slices_are_spread_evenly_over_scans_and_along_them() -> None:
    scans = [torch.from_numpy(np.stack([texture(seed=seed)] * 10)) for seed in range(3)]
    found = segment_dataset(dataset(*scans), SMALL, 7)
    assert found is not None
    assert [each.tolist() for each in found.slices] == [[2, 7]] * 3
    assert [tuple(each.shape) for each in found.dataset.targets] == [(2, 64, 64)] * 3
    assert all(each.dtype == torch.int16 for each in found.dataset.targets)
    assert found.regions == 1 + max(int(each.max()) for each in found.dataset.targets)
    assert 2 <= found.median_regions <= found.regions


@pytest.mark.parametrize(
    ("count_", "wanted", "drawn"),
    [(10, 3, [1, 5, 8]), (4, 4, [0, 1, 2, 3]), (3, 9, [0, 1, 2]), (5, 0, [2]), (1, 1, [0])],
)
def test_numbers_are_drawn_at_even_distances(count_: int, wanted: int, drawn: list[int]) -> None:
    assert evenly_spaced(count_, wanted) == drawn


def test_where_there_are_more_scans_than_slices_wanted_scans_are_left_out() -> None:
    scans = [torch.from_numpy(texture(seed=seed))[None] for seed in range(6)]
    found = segment_dataset(dataset(*scans), SMALL, 3)
    assert found is not None
    assert found.dataset.ids == ("scan-1", "scan-3", "scan-5")
    assert torch.equal(found.dataset.images[0], scans[1])


def test_slices_of_one_region_are_left_out_and_so_are_scans_of_nothing_else() -> None:
    some = torch.from_numpy(np.stack([texture(), np.full((64, 64), 0.5), texture(seed=1)]))
    found = segment_dataset(dataset(torch.full((3, 64, 64), 0.3), some), SMALL, 6)
    assert found is not None
    assert found.dataset.ids == ("scan-1",)
    assert found.slices[0].tolist() == [0, 2]
    assert len(found.dataset.targets[0]) == 2


def test_constant_scans_leave_nothing() -> None:
    assert segment_dataset(dataset(torch.zeros(3, 20, 20), torch.ones(3, 20, 20)), SMALL, 6) is None


def test_progress_goes_from_scan_to_scan_up_to_one() -> None:
    said: list[float] = []
    segment_dataset(dataset(*[noise((2, 16, 16), seed) for seed in range(4)]), SMALL, 4, said.append)
    assert said == [0.25, 0.5, 0.75, 1.0]
