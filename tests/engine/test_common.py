"""What methods share: where pairs lie, what is refused, how whole views become vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.common import (
    check_positions,
    check_positive,
    draw_scans,
    mlp,
    pooled,
    sample_view_pairs,
    stage_fraction,
)
from medssl.nn.shards import BatchNorm
from project_parts import code_of
from small import dataset, noise, plan, seeded

ZOOM = (1.1, 1.4)


def scans(*shapes: tuple[int, int, int]) -> DeviceDataset:
    return dataset(*(torch.zeros(1, 1, 1).expand(shape) for shape in shapes))


@pytest.mark.parametrize("dims", [2, 3])
def test_pairs_share_half_a_side_along_every_axis(dims: int) -> None:
    first, second = sample_view_pairs(
        scans((40, 90, 70), (30, 60, 80)), plan(dims, batch=2000), seeded(), zoom=ZOOM, shared=0.5
    )
    (low, high), (other_low, other_high) = first.extent(), second.extent()
    axes = slice(3 - dims, 3)
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low))[:, axes]
    larger = torch.maximum(high - low, other_high - other_low)[:, axes]
    assert (shared / larger).min() >= 0.5 - 1e-4
    assert (shared / larger).min() < 0.6
    if dims == 2:
        assert torch.equal(first.centre[:, 0], second.centre[:, 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_partner_lies_in_the_same_scan_and_is_another_box(dims: int) -> None:
    first, second = sample_view_pairs(scans((40, 90, 70), (30, 60, 80)), plan(dims), seeded(), zoom=ZOOM)
    assert torch.equal(first.scan, second.scan)
    assert (first.centre != second.centre).any(1).all()


def test_apart_no_scan_gives_a_second_pair_before_all_have_given_one() -> None:
    many = scans(*((8, 40, 40),) * 9)
    for seed in range(5):
        first, _ = sample_view_pairs(many, plan(2, batch=9), seeded(seed), zoom=ZOOM, apart=True)
        assert sorted(first.scan.tolist()) == list(range(9))


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (3, 7), (5, 5), (9, 2)])
def test_scans_are_drawn_as_often_as_each_other(count: int, batch: int) -> None:
    drawn = draw_scans(count, batch, seeded())
    times = torch.bincount(drawn, minlength=count)
    assert len(drawn) == batch
    assert times.max() - times.min() <= 1


def test_different_scans_are_drawn_from_step_to_step() -> None:
    generator = seeded()
    assert len({tuple(draw_scans(9, 3, generator).tolist()) for _ in range(10)}) > 5


def test_pooling_forgets_where_and_keeps_how_much() -> None:
    features = torch.randn(2, 5, 4, 3, generator=seeded())
    order = torch.randperm(12, generator=seeded(1))
    shuffled = features.flatten(2)[..., order].reshape(2, 5, 4, 3)
    assert torch.allclose(pooled(features), pooled(shuffled))
    assert torch.allclose(pooled(3 * features), 3 * pooled(features))
    assert pooled(features[..., None]).shape == (2, 5)


def test_pooling_is_exact_in_mixed_precision() -> None:
    assert pooled(torch.ones(1, 2, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_only_the_head_that_asks_for_it_mixes_the_views_of_a_batch() -> None:
    vectors = noise((1, 6, 4))[0]
    for norm in (False, True):
        torch.manual_seed(0)
        head = mlp(4, 8, 3, norm=norm)
        alone = head(vectors[:3])
        assert torch.allclose(alone, head(vectors)[:3], atol=1e-6) != norm
        assert any(isinstance(layer, BatchNorm) for layer in head) == norm


def test_one_slice_is_one_place_and_two_are_two() -> None:
    with pytest.raises(UserError) as error:
        check_positions(scans((1, 40, 40)), plan(2), 1.4, "SimCLR")
    assert code_of(error) == "one-place"
    check_positions(scans((2, 40, 40)), plan(2), 1.4, "SimCLR")
    check_positions(scans((1, 40, 40), (1, 40, 40)), plan(2), 1.4, "SimCLR")


def test_one_box_is_one_place_in_3d() -> None:
    with pytest.raises(UserError) as error:
        check_positions(scans((15, 30, 30)), plan(3), 1.4, "MoCo")
    assert code_of(error) == "one-place"
    check_positions(scans((16, 30, 30)), plan(3), 1.4, "MoCo")
    check_positions(scans((15, 30, 30), (15, 30, 30)), plan(3), 1.4, "MoCo")


def test_places_are_counted_in_the_plans_voxels() -> None:
    """Thirty slices half a millimetre apart are less deep than 8 working voxels of 2 mm."""
    fine = dataset(torch.zeros(1, 1, 1).expand(30, 30, 30), spacing_mm=(0.5, 1.0, 1.0))
    with pytest.raises(UserError):
        check_positions(fine, replace(plan(3), spacing_mm=(2.0, 1.0, 1.0)), 1.4, "MoCo")
    check_positions(fine, plan(3, patch_vox=(4, 16, 16)), 1.4, "MoCo")


def test_settings_that_leave_nothing_are_refused_by_name() -> None:
    @dataclass
    class Settings:
        queue: int = 3
        temperature: float = 0.0

    check_positive(Settings(), "queue")
    with pytest.raises(UserError) as error:
        check_positive(Settings(), "queue", "temperature")
    assert code_of(error) == "bad-job"
    assert str(error.value).startswith("temperature is 0.0")


@pytest.mark.parametrize(
    ("stages", "fraction", "expected"),
    [
        ((0.0,), 0.3, 0.3),
        ((0.0, 0.2), 0.1, 0.5),
        ((0.0, 0.2), 0.2, 0.0),
        ((0.0, 0.2), 0.6, 0.5),
        ((0.0, 0.2), 1.0, 1.0),
        ((0.0, 0.0), 0.0, 0.0),
        ((0.0, 1.0), 0.5, 0.5),
    ],
)
def test_a_stage_has_a_fraction_of_its_own(
    stages: tuple[float, ...], fraction: float, expected: float
) -> None:
    assert stage_fraction(stages, fraction) == pytest.approx(expected)
