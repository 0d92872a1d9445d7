"""The properties of SAL's pairs of slices and of its steps. Each test is named after the property."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.jobs import Plan
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import sal
from medssl.nn.methods.sal import (
    SAL,
    SALSettings,
    background_level,
    draw_slices,
    fraction_above,
    positions,
    sample_slice_pairs,
)
from medssl.nn.methods.sal_losses import local_alignment, within_slice_std
from medssl.nn.models.unet import build
from small import Events, dataset, noise, plan, seeded
from torch import Tensor
from torch.nn import functional as F

SCAN = (12, 40, 36)
SMALL = SALSettings(dimension=8, positional_dimension=8)


def method(settings: SALSettings = SMALL, small: Plan | None = None) -> SAL:
    torch.manual_seed(0)
    small = small or plan(2)
    return SAL(build(small, small.patch_vox[0] if small.dims == 2 else 1, 0), small, settings)


def maps(height: int = 6, width: int = 7, seed: int = 0, channels: int = 8, count: int = 2) -> Tensor:
    return torch.randn(count, channels, height, width, generator=seeded(seed))


# Alignment (its own properties: test_sal_losses.py)


@pytest.mark.parametrize("window", [0, 4])
def test_the_same_slice_gives_0_for_any_weights(window: int) -> None:
    features = maps()
    assert local_alignment(features, features, window).item() == pytest.approx(0, abs=1e-6)
    aligned, image = method(), noise((4, 16, 16))[None, :3]
    for seed in range(3):
        torch.manual_seed(seed)
        aligned.modules["local"].reset_parameters()
        cells = aligned.modules["local"](aligned.modules["network"].encode(image)[-1])
        assert local_alignment(cells, cells, window).item() == pytest.approx(0, abs=1e-6)


def test_evenness_keeps_cells_apart_that_alignment_alone_makes_equal() -> None:
    def after(uniformity_weight: float) -> float:
        aligned = method(replace(SMALL, uniformity_weight=uniformity_weight, global_weight=0.0))
        cells = (0.3 * maps(count=8) + 1).requires_grad_()
        slices, position = torch.ones(8, 8), torch.linspace(0, 1, 8)
        optimizer = torch.optim.Adam([cells], 0.03)
        for _ in range(30):
            optimizer.zero_grad()
            loss, numbers = aligned.combine(cells, slices, position)
            loss.backward()
            optimizer.step()
        return float(numbers["within_slice_std"])

    before = float(within_slice_std(0.3 * maps(count=8) + 1).mean())
    assert after(0.0) < 0.95 * before
    assert after(1.0) > 1.5 * before


# The pairs


def test_cells_of_one_value_cost_the_weight_of_evenness_and_uneven_ones_nothing() -> None:
    slices, position = maps(1, 1, count=8).flatten(1), torch.linspace(0, 1, 8)
    for cells, cost in ((torch.ones(8, 8, 6, 7), 3.0), (maps(count=8, channels=64), 0.0)):
        plain, even = (
            method(replace(SMALL, uniformity_weight=uniformity_weight)).combine(cells, slices, position)[0]
            for uniformity_weight in (0.0, 3.0)
        )
        assert (even - plain).item() == pytest.approx(cost, abs=0.01)


def test_positions_are_shares_of_the_extent_in_mm_and_seen_alike_from_both_ends() -> None:
    thick = DeviceDataset(("a", "b"), (noise((5, 20, 20)), noise((50, 20, 20))), ((10.0, 1, 1), (1.0, 1, 1)))
    first, _ = sample_slice_pairs(thick, plan(2, batch=400), SMALL, seeded())
    where = positions(thick, first)
    extent_mm = 50.0
    spacing = torch.where(first.scan == 0, 10.0, 1.0)
    assert torch.allclose(where * extent_mm, (first.centre[:, 0] + 0.5) * spacing)
    mirrored = replace(first, centre=torch.where(first.scan == 0, 4.0, 49.0)[:, None] - first.centre)
    assert torch.allclose(positions(thick, mirrored), 1 - where)


def drawn(
    count: int, apart_mm: float, d_max_mm: float = 5.0, context: int = 1, same: bool = False
) -> tuple[Tensor, set[int]]:
    """Many pairs of one scan: the slices (2, n), and which distances there are."""
    counts, apart = torch.full((4000,), count), torch.full((4000,), apart_mm)
    pair = torch.stack(draw_slices(counts, apart, d_max_mm, context, same, seeded()))
    assert (pair == pair.round()).all()
    assert (pair >= 0).all()
    assert (pair < count).all()
    return pair, set((pair[0] - pair[1]).tolist())


@pytest.mark.parametrize(
    ("apart_mm", "largest"),
    [(1.0, 5), (0.7, 7), (2.5, 2), (5.0 / 3, 3), (1.2, 4), (5.0, 1), (8.0, 1), (30.0, 1)],
)
def test_pairs_keep_to_d_max_in_mm_and_to_the_next_slice_of_thick_ones(apart_mm: float, largest: int) -> None:
    _, distances = drawn(40, apart_mm)
    assert distances == {sign * gap for gap in range(1, largest + 1) for sign in (1, -1)}


@pytest.mark.parametrize("spacing", [(3.0, 0.5, 0.7), (0.5, 3.0, 3.0)])
def test_anisotropic_scans_count_the_distance_across_slices(spacing: tuple[float, float, float]) -> None:
    scans = dataset(noise((30, 40, 36)), spacing_mm=spacing)
    first, second = sample_slice_pairs(scans, plan(2, batch=500, patch_vox=(1, 16, 16)), SMALL, seeded())
    gaps_mm = (first.centre[:, 0] - second.centre[:, 0]).abs() * spacing[0]
    assert gaps_mm.amax() == {3.0: 3.0, 0.5: 5.0}[spacing[0]]
    assert gaps_mm.amin() == spacing[0]


def test_slices_share_no_neighbour_where_there_is_room_for_it() -> None:
    assert drawn(40, 1.0, context=3)[1] == {-5, -4, -3, 3, 4, 5}
    assert drawn(40, 1.0, context=5)[1] == {-5, 5}
    assert drawn(40, 2.0, context=3)[1] == {-2, -1, 1, 2}, "no room: all that d_max allows"
    assert drawn(5, 1.0, context=3)[1] == {-4, -3, 3, 4}
    assert drawn(3, 1.0, context=3)[1] == {-2, -1, 1, 2}


def test_a_slice_is_paired_with_itself_only_if_asked() -> None:
    for count in (2, 3, 40):
        assert 0 not in drawn(count, 1.0)[1]
        assert 0 in drawn(count, 1.0, same=True)[1]
    assert drawn(40, 1.0, context=3, same=True)[1] == {-5, -4, -3, 0, 3, 4, 5}
    assert drawn(1, 1.0, same=True)[1] == {0}


def test_every_slice_takes_part_on_both_sides() -> None:
    pair, _ = drawn(9, 1.0, context=3)
    assert pair[0].unique().tolist() == pair[1].unique().tolist() == list(range(9))


def test_pairs_never_cross_scans_and_leave_out_those_of_one_slice() -> None:
    scans = dataset(noise((9, 30, 30)), noise((1, 30, 30)), noise((2, 30, 30)))
    first, second = sample_slice_pairs(scans, plan(2, batch=300), SMALL, seeded())
    assert torch.equal(first.scan, second.scan)
    assert first.scan.unique().tolist() == [0, 2]
    count = torch.tensor([9.0, 1, 2])[first.scan]
    assert (torch.stack([first.centre[:, 0], second.centre[:, 0]]) < count).all()
    with_single, _ = sample_slice_pairs(scans, plan(2, batch=300), replace(SMALL, same_slice=True), seeded())
    assert with_single.scan.unique().tolist() == [0, 1, 2]


def test_both_slices_show_the_same_box_mirrored_turned_and_sized_alike() -> None:
    first, second = sample_slice_pairs(dataset(noise(SCAN)), plan(2, batch=200), SMALL, seeded())
    assert torch.equal(first.centre[:, 1:], second.centre[:, 1:])
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("step", "flip", "angle"))
    assert first.flip.float().mean(0).sub(0.5).abs().amax() < 0.15
    degrees = first.angle.rad2deg().abs()
    assert 12 < degrees.amax() <= 15
    assert 0.8 - 1e-6 <= first.step[:, 1].amin() < 0.82
    assert 1.18 < first.step[:, 1].amax() <= 1.2 + 1e-6
    assert (first.step[:, 0] == 1).all()


def test_grey_values_change_independently_in_both_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a scan whose slices are all alike, the network gets two different images."""
    monkeypatch.setattr(sal, "GREY_VALUES", replace(sal.GREY_VALUES, shift=(1.0, -0.2, 0.2)))
    aligned, seen = method(), []
    aligned.modules["network"].encoder[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    aligned.loss(dataset(noise((1, 40, 36)).repeat(9, 1, 1)), seeded(), 0.0)
    one, two = seen[0].chunk(2)
    assert not any(torch.allclose(first, second, atol=1e-3) for first, second in zip(one, two, strict=True))
    assert [
        torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.6
        for a, b in zip(one, two, strict=True)
    ].count(True) >= 3


# The method


VARIANTS: list[dict[str, Any]] = [
    {},
    {"window": 2, "level": -2, "mutual": True},
    {"positional": "regression", "detach": True},
    {"foreground": True, "least_match": 0.1, "uniformity_weight": 1.0, "same_slice": True},
]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_trains_the_encoder_and_both_embeddings(
    changes: dict[str, Any], precision: torch.dtype
) -> None:
    aligned, scans = method(replace(SMALL, **changes)), dataset(noise(SCAN), noise((5, 30, 14), 1))
    aligned.prepare(scans, Events())
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss, numbers = aligned.loss(scans, seeded(), 0.0)
    loss.backward()
    assert loss.isfinite()
    assert set(numbers) == {"local", "global", "feature_std", "within_slice_std"}
    assert all(value.isfinite() for value in numbers.values())
    trained = [aligned.modules["network"].encoder, aligned.modules["local"], aligned.modules["global"]]
    gradients = [each.grad for part in trained for each in part.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert aligned.modules["network"].encoder[0].conv1.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("weighed", ["local_weight", "global_weight"])
def test_the_two_losses_are_added_with_their_weights(weighed: str) -> None:
    scans = dataset(noise(SCAN))
    loss, numbers = method().loss(scans, seeded(), 0.0)
    doubled, _ = method(replace(SMALL, **{weighed: 2.0})).loss(scans, seeded(), 0.0)
    assert torch.allclose(loss, numbers["local"] + numbers["global"])
    assert torch.allclose(doubled - loss, numbers[weighed.removesuffix("_weight")], atol=1e-5)


def test_steps_on_one_batch_lower_both_losses() -> None:
    aligned, scans = method(), dataset(noise(SCAN), noise(SCAN, 1))
    optimizer = torch.optim.AdamW(aligned.modules.parameters(), 3e-3)
    heard = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, numbers = aligned.loss(scans, seeded(), 0.0)
        loss.backward()
        optimizer.step()
        heard.append({name: float(value) for name, value in numbers.items()})
    assert heard[-1]["local"] < 0.5 * heard[0]["local"]
    assert heard[-1]["global"] < heard[0]["global"] - 0.1


def test_a_scans_background_is_told_from_tissue() -> None:
    scan = torch.full((6, 20, 20), -3.0)
    scan[:, 4:16, 4:16] = noise((6, 12, 12)).mul(0.1) + 1
    level = background_level(scan)
    assert -3 < level < 0
    share = fraction_above(scan[None, :3], level[None], torch.Size((5, 5)))
    assert torch.equal(share[0], F.pad(torch.ones(3, 3), (1, 1, 1, 1)))


def refused(aligned: SAL, scans: DeviceDataset, code: str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        aligned.prepare(scans, Events())
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_3d_plan_is_refused_with_what_to_set_instead() -> None:
    refused(method(small=plan(3)), dataset(noise(SCAN)), "not-2d", "dims=2")


def test_scans_of_one_slice_are_refused_unless_slices_may_be_paired_with_themselves() -> None:
    scans = dataset(noise((1, 30, 30)), noise((1, 20, 30), 1))
    refused(method(), scans, "one-slice", "same_slice=true")
    asked = method(replace(SMALL, same_slice=True, positive_threshold=0.0))
    asked.prepare(scans, Events())
    assert asked.loss(scans, seeded(), 0.0)[0].isfinite()


def test_some_scans_of_one_slice_are_left_out_and_counted() -> None:
    events = Events()
    method().prepare(dataset(noise(SCAN), noise((1, 30, 30)), noise((1, 30, 30))), events)
    (notice,) = events.of(Notice)
    assert "2 of 3" in notice.text


@pytest.mark.parametrize("positional", ["contrast", "regression"])
def test_one_pair_alone_has_nothing_to_contrast_with(positional: Any) -> None:
    single = method(replace(SMALL, positional=positional), plan(2, batch=1))
    if positional == "contrast":
        refused(single, dataset(noise(SCAN)), "small-batch", "SAL")
    else:
        single.prepare(dataset(noise(SCAN)), Events())
        assert single.loss(dataset(noise(SCAN)), seeded(), 0.0)[0].isfinite()


def test_the_same_generator_gives_the_same_loss() -> None:
    scans: Sequence[Tensor] = [noise(SCAN), noise(SCAN, 1)]
    one, two = (method().loss(dataset(*scans), seeded(5), 0.0)[0] for _ in range(2))
    assert torch.equal(one, two)
