"""Pairs of views at the same place of two scans: where they lie, how large they are, and without a match."""

from __future__ import annotations

import pytest
import torch
from medssl.nn.data.crops import CropBatch, cut, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.matched_views import around, matched_views
from medssl.nn.models.anatomical_embedding import AnatomicalEmbedding, EmbeddingSettings
from medssl.nn.models.embedding_bank import EmbeddingBank
from small import dataset, noise, plan, seeded
from torch import Tensor

SIZE = {2: (3, 16, 16), 3: (8, 16, 16)}


def embedding_bank(scans: DeviceDataset) -> EmbeddingBank:
    torch.manual_seed(0)
    return EmbeddingBank(scans, AnatomicalEmbedding(8), EmbeddingSettings(dimension=8))


def drawn(
    scans: DeviceDataset, dims: int = 2, threshold: float = -1.0, seed: int = 0
) -> tuple[CropBatch, CropBatch, Tensor]:
    return matched_views(embedding_bank(scans), plan(dims, batch=12), SIZE[dims], 16, threshold, seeded(seed))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("point", [(0, 0, 0), (11, 29, 24), (5, 0, 24), (6, 14, 12)])
def test_a_box_has_its_exact_size_and_its_point_in_the_middle_also_at_a_border(
    dims: int, point: tuple[int, int, int]
) -> None:
    image = noise((12, 30, 25))
    size = SIZE[dims]
    views = around(torch.tensor([0]), torch.tensor([point]).float(), size, torch.ones(1, 3))
    seen = shown(cut(dataset(image), views, plan(dims)))[0].reshape(size)
    middle = tuple(length // 2 for length in size)
    assert seen.shape == size
    assert seen[middle].item() == pytest.approx(image[point].item(), abs=1e-5)
    # The sheet pads with 0; views of this engine repeat the border, lest zeros tell where the box lies.
    if point == (0, 0, 0):
        assert torch.allclose(seen[: middle[0], middle[1], middle[2]], image[0, 0, 0], atol=1e-5)
        assert torch.allclose(seen[middle[0], : middle[1], middle[2]], image[0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_both_boxes_are_equally_large_in_mm(dims: int) -> None:
    scans = DeviceDataset(
        ("a", "b"), (noise((12, 30, 30)), noise((24, 40, 20), seed=1)), ((2.0, 1.0, 1.0), (1.0, 0.8, 1.5))
    )
    for views in drawn(scans, dims)[:2]:
        size_mm = views.step * torch.tensor(scans.spacing_mm)[views.scan]
        wanted = torch.tensor([[1.0, 1.0, 1.0]]) if dims == 3 else torch.tensor([[0.0, 1.0, 1.0]])
        assert torch.allclose(size_mm[:, 3 - dims :], wanted[:, 3 - dims :].expand(12, -1))


def test_the_other_scan_is_never_the_same_one() -> None:
    scans = dataset(*(noise((10, 24, 24), seed=seed) for seed in range(4)))
    others = set()
    for seed in range(5):
        first, second, accepted = drawn(scans, seed=seed)
        assert accepted.all()
        assert (first.scan != second.scan).all()
        others |= set(zip(first.scan.tolist(), second.scan.tolist(), strict=True))
    assert len(others) == 12


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_good_match_a_pair_is_two_overlapping_boxes_of_one_scan(dims: int) -> None:
    first, second, accepted = drawn(
        dataset(noise((12, 40, 40)), noise((12, 40, 36), seed=1)), dims, threshold=1.0
    )
    assert not accepted.any()
    assert torch.equal(first.scan, second.scan)
    apart = (first.centre - second.centre).abs()
    assert (apart <= torch.tensor(SIZE[dims]) / 2 * first.step + 1e-4).all()
    assert (apart[:, 1:] > 0.5).any(1).float().mean() > 0.5
    if dims == 2:
        assert (apart[:, 0] == 0).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_box_lies_inside_its_scan(dims: int) -> None:
    scans = dataset(noise((12, 40, 40)), noise((9, 20, 36), seed=1))
    first, _, _ = drawn(scans, dims)
    low, high = first.extent()
    axes = slice(3 - dims, 3)
    shapes = scan_shapes(scans, first.scan)
    assert (low >= -0.5 - 1e-4)[:, axes].all()
    assert (high <= shapes - 0.5 + 1e-4)[:, axes].all()


@pytest.mark.parametrize("dims", [2, 3])
def test_views_of_a_shifted_scan_show_the_same(dims: int) -> None:
    """The matcher follows the shift, and so do boxes, whatever was done to keep them inside."""
    content = noise((16, 16, 16))
    images = []
    for low in ((24, 24, 24), (24, 32, 16)):
        image = torch.zeros(64, 64, 64)
        image[tuple(slice(at, at + 16) for at in low)] = content.abs() + 1
        images.append(image)
    scans = dataset(*images)
    first, second, accepted = drawn(scans, dims)
    assert accepted.all()
    shift = torch.tensor([0.0, 8, -8]) * torch.where(first.scan == 0, 1, -1)[:, None]
    found = second.centre - first.centre
    assert torch.allclose(found, shift, atol=1e-3)
    small = plan(dims)
    one, two = (shown(cut(scans, views, small)) for views in (first, second))
    assert (one - two).abs().mean() < 1e-4
    assert one.std() > 0.1


def test_places_lie_on_the_body() -> None:
    images = []
    for seed in range(2):
        image = torch.zeros(16, 64, 64)
        image[:, 24:40, 20:44] = 1 + 0.1 * noise((16, 16, 24), seed=seed).abs()
        images.append(image)
    first, _, _ = drawn(dataset(*images))
    point = first.centre + 0.5  # the middle voxel of an even side
    assert ((point[:, 1] >= 23) & (point[:, 1] <= 41)).all()
    assert ((point[:, 2] >= 19) & (point[:, 2] <= 45)).all()
