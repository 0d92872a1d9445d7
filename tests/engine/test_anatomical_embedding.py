"""The dense embedding: what it says of a cell, where it finds it again, and how it learns to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl.nn.methods.embedding_training import contrast, draw_crops, matching_loss
from medssl.nn.models import checkpoint
from medssl.nn.models import embedding_bank as embedding_bank_module
from medssl.nn.models.anatomical_embedding import (
    COARSE,
    FINE,
    AnatomicalEmbedding,
    Embedded,
    EmbeddingSettings,
    find,
    matcher_in,
    on_grid,
    side_by_side,
)
from medssl.nn.models.embedding_bank import PASSES, EmbeddingBank
from medssl.tasks.inference.feature_grid import matched_features
from small import CPU, Shape, Spacing, block_phantom, dataset, noise, plan, scan_of, seeded
from torch import Tensor

SMALL = EmbeddingSettings(dimension=8, crop=16, anchors=32)


def matcher(dimension: int = 8, channels: int = 1) -> AnatomicalEmbedding:
    torch.manual_seed(0)
    return AnatomicalEmbedding(dimension, channels)


def embedding_bank(
    *images: Tensor, spacing_mm: Spacing = (1.0, 1.0, 1.0), settings: EmbeddingSettings = SMALL
) -> EmbeddingBank:
    return EmbeddingBank(dataset(*images, spacing_mm=spacing_mm), matcher(settings.dimension), settings)


def ramps(shape: Shape) -> list[Tensor]:
    """Volumes of their own coordinates."""
    grids = torch.meshgrid(*(torch.arange(float(length)) for length in shape), indexing="ij")
    return [grid.contiguous() for grid in grids]


@pytest.mark.parametrize("shape", [(24, 32, 32), (13, 27, 30), (1, 20, 20)])
def test_a_place_is_found_in_its_own_scan_within_a_fine_cell_with_score_one(shape: Shape) -> None:
    only = embedding_bank(noise(shape)).embedded(0)
    points = torch.rand(50, 3, generator=seeded()) * torch.tensor(shape) - 0.5
    number, score = find(only.vectors[only.number(points)], only.vectors)
    assert torch.allclose(score, torch.ones(50), atol=2e-3)
    off = (only.voxel(number, torch.zeros(50, 3)) - points).abs()
    assert (off <= FINE * torch.tensor(shape) / torch.tensor(only.volume_shape) / 2 + 1e-3).all()


def test_scores_lie_between_minus_one_and_one() -> None:
    both = embedding_bank(noise((20, 24, 24)), noise((16, 30, 24), seed=1))
    _, score = find(both.embedded(0).vectors, both.embedded(1).vectors)
    assert ((score >= -1) & (score <= 1)).all()
    vectors = both.embedded(0).vectors.float()
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-3)


def test_matching_follows_a_scan_that_is_shifted_by_coarse_cells() -> None:
    """Away from borders: what lies in empty space is found again where it was shifted to."""
    content, shift = noise((12, 12, 12)), (COARSE, 0, -COARSE)
    scans = []
    for moved in ((0, 0, 0), shift):
        scan = torch.zeros(72, 72, 72)
        low = [30 + each for each in moved]
        scan[tuple(slice(at, at + 12) for at in low)] = content
        scans.append(scan)
    both = embedding_bank(*scans, settings=replace(SMALL, cells=72))
    one, two = both.embedded(0), both.embedded(1)
    points = 30 + 12 * torch.rand(40, 3, generator=seeded()) - 0.5
    number, score = find(one.vectors[one.number(points)], two.vectors)
    assert torch.equal(number, one.number(points + torch.tensor(shift)))
    assert (score > 0.99).all(), "the border is far, yet not out of sight"


def test_a_product_of_vectors_is_the_mean_of_the_fine_and_the_coarse_cosine() -> None:
    one, two = torch.randn(2, 5, 10, generator=seeded()).unbind(0)
    product = (side_by_side(one) * side_by_side(two)).sum(1)
    cosines = [torch.cosine_similarity(a, b) for a, b in zip(one.chunk(2, 1), two.chunk(2, 1), strict=True)]
    assert torch.allclose(product, sum(cosines) / 2, atol=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.5, 2.0, 1.0)])
def test_scans_keep_their_box_on_the_common_grid(spacing: Spacing) -> None:
    """On images of a coordinate, a cell shows where its centre lies in the scan."""
    shape = (20, 24, 36)
    for axis, image in enumerate(ramps(shape)):
        volume = on_grid(image, spacing, 1.5)
        wanted = [round(length * each / 1.5) for length, each in zip(shape, spacing, strict=True)]
        assert list(volume.shape) == wanted
        centre = (torch.arange(wanted[axis]) + 0.5) * shape[axis] / wanted[axis] - 0.5
        off = (volume.movedim(axis, -1) - centre).abs()
        assert (off <= max(1.0, shape[axis] / wanted[axis]) / 2 + 1e-3).all()


def test_cells_and_voxels_agree() -> None:
    vectors = torch.zeros(5 * 6 * 7, 4)
    place = Embedded(vectors, (5, 6, 7), (10, 11, 14), (20, 22, 7), torch.arange(len(vectors)))
    voxels = place.voxel(place.body, torch.zeros(len(vectors), 3))
    assert torch.equal(place.number(voxels), place.body)
    within = torch.rand(len(vectors), 3, generator=seeded()) - 0.5
    inside = place.voxel(place.body, within)
    whole = (torch.stack(torch.unravel_index(place.body, (5, 6, 7)), 1)[:, 1] < 5).nonzero()[:, 0]
    assert torch.equal(place.number(inside)[whole], whole)
    assert voxels[0].tolist() == [1.5, 1.5, 0.0]


def test_places_are_drawn_on_the_body_only() -> None:
    image = torch.zeros(16, 32, 32)
    image[:, 8:16, 8:24] = 1 + 0.1 * noise((16, 8, 16))
    only = embedding_bank(image).embedded(0)
    cell = torch.stack(torch.unravel_index(only.body, only.cells), 1)
    assert cell.amin(0).tolist() == [0, 4, 4]
    assert cell.amax(0).tolist() == [7, 7, 11]


@pytest.mark.parametrize("image", [torch.zeros(16, 24, 24), torch.full((1, 5, 5), 3.0)])
def test_a_blank_scan_is_body_everywhere_and_its_loss_is_finite(image: Tensor) -> None:
    blank = embedding_bank(image)
    assert len(blank.embedded(0).body) == len(blank.embedded(0).vectors)
    assert blank.embedded(0).vectors.isfinite().all()
    assert matching_loss(blank, seeded()).isfinite()


def test_the_grid_follows_the_scans() -> None:
    small = embedding_bank(
        noise((36, 50, 36)), spacing_mm=(1.0, 1.0, 1.0), settings=EmbeddingSettings(dimension=8)
    )
    assert small.cell_mm == 1.0, "finer than the voxels says nothing more"
    assert small.far_cells == 10.0, "a fifth of the scan"
    assert small.side == (32, 32, 32)
    large = embedding_bank(
        noise((20, 256, 200)), spacing_mm=(5.0, 2.0, 2.0), settings=EmbeddingSettings(dimension=8)
    )
    assert large.cell_mm == 8.0
    assert large.far_cells == 2.5
    assert large.side == (16, 32, 32)


def test_crops_show_what_their_positions_say() -> None:
    shape = (24, 40, 32)
    for axis, volume in enumerate(ramps(shape)):
        for crops in draw_crops([volume[None], volume[None]], (16, 16, 16), seeded()):
            for stride in (1, FINE, COARSE):
                seen = torch.nn.functional.avg_pool3d(crops.image, stride).flatten(1)
                where = crops.positions(stride)
                inside = ((where > stride) & (where < torch.tensor(shape) - 1 - stride)).all(2)
                assert inside.any()
                assert torch.allclose(seen[inside], where[..., axis][inside], atol=0.05 * stride)


def test_crops_overlap_and_differ_in_place_turn_size_and_bend() -> None:
    volumes = [noise((40, 40, 40))[None], noise((40, 40, 40), seed=1)[None]]
    first, second = draw_crops(volumes, (16, 16, 16), seeded())
    positions = first.positions(FINE)
    assert torch.allclose(first.voxels(positions).amin(1), torch.full((2, 3), 0.5), atol=1e-3)
    assert (first.displacement == 0).all()
    assert second.displacement.std() > 0.5
    assert not torch.equal(first.linear, second.linear)
    within = first.voxels(second.positions(FINE))
    shared = ((within >= 0) & (within <= 15)).all(2).float().mean(1)
    assert (shared > 0.1).all()


def test_crops_are_turned_about_all_axes_and_not_sheared() -> None:
    """Columns of a turned and scaled frame are orthogonal; a turn about an axis tilts the two others."""
    volume = torch.zeros(1, 40, 40, 40)
    first, _ = draw_crops([volume] * 200, (4, 4, 4), seeded())
    length = first.linear.norm(dim=1)
    frame = first.linear / length[:, None]
    assert torch.allclose(frame.transpose(1, 2) @ frame, torch.eye(3).expand(200, 3, 3), atol=1e-5)
    tilted = frame.abs().amax(0)[~torch.eye(3, dtype=torch.bool)]
    assert ((tilted > 0.18) & (tilted < 0.3)).all()
    assert 1.2 < length.amax() < 1.4


def test_contrast_is_info_nce_over_the_hardest_allowed_negatives() -> None:
    anchors = torch.tensor([[[1.0], [0.0]]])
    others = torch.tensor([[[1.0, 0.6, -1.0, 0.8], [0.0, 0.8, 0.0, 0.6]]])  # cosines 1, 0.6, -1, 0.8
    allowed = torch.tensor([[[False, True, True, True]]])
    settings = EmbeddingSettings(negatives=2, matching_temperature=0.5)
    loss = contrast(anchors, torch.tensor([[[0.6], [0.8]]]), others, allowed, settings)
    same, negatives = np.exp(0.6 / 0.5), np.exp(0.6 / 0.5) + np.exp(0.8 / 0.5)
    assert loss.item() == pytest.approx(-np.log(same / (same + negatives)), rel=1e-5)


def test_nothing_is_told_apart_where_all_places_are_near() -> None:
    anchors = torch.nn.functional.normalize(torch.randn(1, 4, 3, generator=seeded()), dim=1)
    allowed = torch.zeros(1, 3, 5, dtype=torch.bool)
    others = torch.randn(1, 4, 5, generator=seeded())
    assert (contrast(anchors, -anchors, others, allowed, SMALL) == 0).all()


def test_near_places_are_no_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def remember(anchors: Tensor, positives: Tensor, others: Tensor, allowed: Tensor, *_: object) -> Tensor:
        seen.append(allowed)
        return contrast(anchors, positives, others, allowed, SMALL)

    monkeypatch.setattr("medssl.nn.methods.embedding_training.contrast", remember)
    for min_negative_distance_mm, share in ((0.0, 0.9), (1e9, None)):
        seen.clear()
        far = embedding_bank(
            noise((40, 40, 40)), settings=replace(SMALL, min_negative_distance_mm=min_negative_distance_mm)
        )
        matching_loss(far, seeded())
        fine = seen[0].float().mean()
        assert fine > share if share else 0.1 < fine < 0.9, "at most a fifth of the scan is near"


class Grey(torch.nn.Module):
    """Says of every cell how bright it is, as the angle of a vector."""

    def forward(self, images: Tensor) -> list[Tensor]:
        cells = (torch.nn.functional.avg_pool3d(images, stride) for stride in (FINE, COARSE))
        return [torch.cat([each.sin(), each.cos()], dim=1) for each in cells]


def test_an_anchor_and_its_positive_show_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a volume whose grey values rise from end to end, in crops that are turned and bent otherwise."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def remember(anchors: Tensor, positives: Tensor, *others: object) -> Tensor:
        pairs.append((anchors, positives))
        return anchors.new_zeros(anchors.shape[::2])

    monkeypatch.setattr("medssl.nn.methods.embedding_training.contrast", remember)
    monkeypatch.setattr(
        "medssl.nn.methods.embedding_training.change_intensity", lambda images, *_, channels: images
    )
    settings = replace(SMALL, crop=32, crop_pairs=8)
    rising = embedding_bank(torch.stack(ramps((60, 60, 60))).sum(0) / 60, settings=settings)
    rising.matcher = Grey()  # type: ignore[assignment]
    matching_loss(rising, seeded())
    for anchors, positives in pairs:
        apart, others = ((anchors - each).norm(dim=1).median() for each in (positives, positives.roll(1, 2)))
        assert apart < 0.2 * others


def test_the_matcher_learns_to_tell_places_apart() -> None:
    scans = embedding_bank(*(torch.from_numpy(block_phantom(seed, (16, 24, 24))[0]) for seed in range(3)))
    optimizer = torch.optim.AdamW(scans.matcher.parameters(), lr=2e-3)
    generator, losses = seeded(), []
    for _ in range(20):
        loss = matching_loss(scans, generator)
        optimizer.zero_grad()
        loss.backward()
        assert all(each.grad is not None for each in scans.matcher.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3, losses


def test_the_loss_repeats_with_the_generator() -> None:
    scans = embedding_bank(noise((24, 24, 24)), noise((24, 30, 24)))
    assert torch.equal(matching_loss(scans, seeded(3)), matching_loss(scans, seeded(3)))
    assert not torch.equal(matching_loss(scans, seeded(3)), matching_loss(scans, seeded(4)))


def test_a_checkpoint_gives_the_matcher_back_or_says_that_it_has_none(tmp_path: Path) -> None:
    kept = matcher(6, channels=2)
    kept.cell_mm.fill_(2.5)
    path = tmp_path / "with.safetensors"
    checkpoint.save(path, checkpoint.pack("modules.matcher", kept.state_dict()), {})
    loaded = matcher_in(checkpoint.load(path)[0])
    assert loaded is not None
    assert float(loaded.cell_mm) == 2.5
    assert torch.equal(loaded.embed(noise((2, 8, 9, 10))), kept.embed(noise((2, 8, 9, 10))))
    checkpoint.save(tmp_path / "without.safetensors", {"modules.network.x": torch.zeros(1)}, {})
    assert matcher_in(checkpoint.load(tmp_path / "without.safetensors")[0]) is None


class Coordinates(AnatomicalEmbedding):
    """A matcher that tells where each cell of the grid lies, as an angle in the fine and the coarse part."""

    def embed(self, volume: Tensor) -> Tensor:
        axes = [(torch.arange(-(-length // FINE)) * FINE + 1.0) / length for length in volume.shape[1:]]
        angle = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        fine = torch.stack([angle[0].sin(), angle[0].cos(), angle[1].sin(), angle[1].cos()])
        return torch.cat([fine, torch.stack([angle[2].sin(), angle[2].cos(), *angle[:2] * 0])])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.8)])
@pytest.mark.parametrize("step", [(1, 1, 1), (2, 4, 4)])
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_features_are_read_at_the_centres_of_their_cells(
    slice_axis: int, step: Shape, spacing: Spacing
) -> None:
    shape = (24, 32, 40)
    turned = plan(2, slice_axis=slice_axis)
    image = np.zeros(shape, np.float16)
    slabs = matched_features(scan_of(image, spacing), "only", Coordinates(4), turned, step, CPU)
    vectors = torch.from_numpy(np.concatenate(list(slabs))).float()
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]), atol=2e-3)
    found = [torch.atan2(vectors[..., at], vectors[..., at + 1]) for at in (0, 2, 4)]
    for axis, canonical in enumerate(turned.work_axes):
        cells = shape[canonical] // step[canonical]
        assert vectors.shape[axis] == cells
        centre = (torch.arange(cells) + 0.5) * step[canonical] / shape[canonical]
        inner = slice(2, -2)  # beyond the outermost cells nothing lies to blend with
        off = (found[axis].movedim(axis, -1) - centre)[..., inner]
        assert off.abs().max() < 0.01


# The bank of vectors.


def ask(scans: EmbeddingBank, order: Sequence[int]) -> int:
    """How many scans are embedded anew where they are asked for in this order."""
    made: list[int] = []
    scans.matcher.register_forward_hook(lambda module, given, result: made.append(1))
    for scan in order:
        scans.embedded(scan)
    return len(made)


def test_where_all_fit_every_scan_is_embedded_once_and_any_pair_is_drawn() -> None:
    scans = embedding_bank(*(noise((16, 16, 16), seed) for seed in range(4)))
    assert scans.window(0.3).tolist() == [0, 1, 2, 3]
    assert ask(scans, [0, 1, 2, 3, 0, 3, 1]) == 4


def test_memory_is_bounded_and_every_scan_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = [noise((16, 16, 16), seed) for seed in range(6)]
    one = embedding_bank(*volumes).embedded(0).vectors.nbytes
    monkeypatch.setattr(embedding_bank_module, "BANK_BYTES", 3 * one)
    scans = embedding_bank(*volumes)
    assert scans.vector_bytes == one
    windows = [scans.window(step / 480) for step in range(480)]
    assert all(len(each.unique()) == 3 for each in windows)
    assert torch.cat(windows).bincount(minlength=6).tolist() == [240] * 6
    # In all of a training each scan is embedded a few times, however often it is asked for.
    assert ask(scans, [scan for window in windows for scan in window.tolist()]) <= 6 * (PASSES + 1)
    assert len(scans._embedded) == 3
    assert scans.kept_bytes(6) < 6 * (scans.vector_bytes + scans.volume_bytes)
    assert scans.kept_bytes(1) == scans.vector_bytes + scans.volume_bytes


def test_the_published_size_stays_below_a_few_gib() -> None:
    """200 scans of abdomens: all vectors would take 26 GiB."""
    scan = torch.zeros(1).expand(160, 192, 192)
    settings = EmbeddingSettings(cells=128, dimension=128)
    scans = EmbeddingBank(dataset(*[scan] * 200, spacing_mm=(2.5, 2.0, 2.0)), matcher(4), settings)
    assert 200 * scans.vector_bytes > 20 * 2**30
    assert scans.kept_bytes(200) <= 4 * 2**30
    assert 2 < scans.capacity < 30
