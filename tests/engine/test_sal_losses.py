"""SAL's two losses: alignment, and the order of slices. Each test is named after the property."""

from __future__ import annotations

import math

import pytest
import torch
from medssl.nn.methods.common import feature_std
from medssl.nn.methods.sal_losses import (
    best_match,
    contrast,
    local_alignment,
    positional_regression,
    positive_mask,
    within_slice_std,
)
from small import seeded
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile


def maps(height: int = 6, width: int = 7, seed: int = 0, channels: int = 8, count: int = 2) -> Tensor:
    return torch.randn(count, channels, height, width, generator=seeded(seed))


def by_hand(one: Tensor, two: Tensor, side: int) -> float:
    """One direction of WLA, cell after cell."""
    one, two = F.normalize(one, dim=1), F.normalize(two, dim=1)
    height, width = one.shape[2:]
    missed = []
    for view in range(len(one)):
        for row in range(height):
            for column in range(width):
                top, left = row // side * side, column // side * side
                seen = two[view, :, top : top + side, left : left + side].flatten(1)
                missed.append(abs(1 - float((one[view, :, row, column] @ seen).max())))
    return sum(missed) / len(missed)


def test_permuting_the_cells_of_the_other_slice_changes_only_the_windowed_loss() -> None:
    one, two = maps(8, 8, 1), maps(8, 8, 2)
    permuted = two.flatten(2)[..., torch.randperm(64, generator=seeded())].view_as(two)
    assert torch.allclose(local_alignment(one, permuted), local_alignment(one, two))
    assert not torch.allclose(local_alignment(one, permuted, 4), local_alignment(one, two, 4), atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_lies_between_0_and_2_and_opposite_maps_give_2(seed: int) -> None:
    one, two = maps(seed=seed, channels=2), maps(seed=seed + 50, channels=2)
    for window in (0, 2, 4):
        assert 0 <= local_alignment(one, two, window) <= 2
        constant = torch.ones(2, 8, 5, 5)
        assert local_alignment(constant, -constant, window).item() == pytest.approx(2)


@pytest.mark.parametrize("seed", range(5))
def test_the_windowed_loss_is_never_below_the_whole_maps(seed: int) -> None:
    one, two = maps(seed=seed), maps(seed=seed + 50)
    whole = local_alignment(one, two)
    assert all(local_alignment(one, two, window) > whole for window in (1, 2, 4))


@pytest.mark.parametrize("window", [7, 8, 100])
def test_a_window_as_large_as_the_map_gives_the_whole_maps_loss(window: int) -> None:
    assert torch.equal(local_alignment(maps(), maps(seed=1), window), local_alignment(maps(), maps(seed=1)))


@pytest.mark.parametrize(("shape", "side"), [((6, 8), 2), ((5, 7), 4), ((3, 9), 4), ((4, 4), 3)])
def test_the_windowed_loss_is_the_one_counted_cell_by_cell(shape: tuple[int, int], side: int) -> None:
    """Also where windows stick out of the map: what was padded is neither found nor counted."""
    one, two = maps(*shape, seed=1), maps(*shape, seed=2)
    two = two - 2 * one.mean((2, 3), keepdim=True)
    wanted = (by_hand(one, two, side) + by_hand(two, one, side)) / 2
    assert local_alignment(one, two, side).item() == pytest.approx(wanted, rel=1e-5)


def test_padding_is_never_the_best_match() -> None:
    """Its cosine of 0 would beat opposite features, whose only one is -1."""
    one = torch.ones(1, 4, 5, 5)
    assert local_alignment(one, -one, 4).item() == pytest.approx(2)


def test_one_cell_gives_one_minus_the_cosine() -> None:
    one, two = maps(1, 1, 1), maps(1, 1, 2)
    wanted = (1 - F.cosine_similarity(one, two)).abs().mean()
    assert torch.allclose(local_alignment(one, two), wanted)


def test_only_the_best_match_gets_a_gradient() -> None:
    queries = F.normalize(torch.randn(1, 1, 3, 8, generator=seeded()), dim=-1)
    keys = F.normalize(torch.randn(1, 1, 20, 8, generator=seeded(1)), dim=-1).requires_grad_()
    inside = torch.ones(1, 1, 20, dtype=torch.bool)
    best, _ = best_match(queries, keys, inside)
    best.sum().backward()
    assert keys.grad is not None
    chosen = (queries @ keys.transpose(-1, -2)).argmax(-1).unique()
    others = [number for number in range(20) if number not in chosen.tolist()]
    assert (keys.grad[0, 0, others] == 0).all()
    assert (keys.grad[0, 0, chosen].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_the_scale_of_features_does_not_matter(factor: float) -> None:
    plain = local_alignment(maps(), maps(seed=1), 4)
    assert torch.allclose(local_alignment(factor * maps(), maps(seed=1), 4), plain, rtol=1e-4)
    assert torch.allclose(local_alignment(maps(), factor * maps(seed=1), 4), plain, rtol=1e-4)


def test_equal_features_everywhere_are_a_trivial_optimum_that_the_curve_shows() -> None:
    """A network that writes its vector for the slice into every cell: nothing lost, and all is."""
    vectors = torch.randn(16, 8, 1, 1, generator=seeded()).expand(16, 8, 5, 5)
    assert local_alignment(vectors, vectors).item() == pytest.approx(0, abs=1e-6)
    assert within_slice_std(vectors).amax() < 1e-3
    assert feature_std(vectors) > 0.8, "between slices all looks well"
    assert within_slice_std(maps(20, 20, channels=64)).amin() > 0.9


def test_within_slice_is_0_for_one_cell_and_has_a_finite_gradient() -> None:
    constant = torch.ones(2, 8, 3, 3, requires_grad=True)
    within_slice_std(constant).sum().backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()
    assert within_slice_std(maps(1, 1)).amax() < 1e-4


def test_cells_without_weight_do_not_count() -> None:
    one, two = maps(seed=1), maps(seed=2)
    weight = torch.zeros(2, 6, 7)
    assert local_alignment(one, two, 4, (weight, weight)) == 0
    weight[0, 2, 3] = 0.5
    wanted = local_alignment(
        one[:1, :, 2:3, 3:4], one[:1, :, 2:3, 3:4]
    )  # of a map that is its own partner: 0
    assert local_alignment(one, one, 0, (weight, weight)).item() == pytest.approx(wanted.item(), abs=1e-6)
    single = 1 - F.cosine_similarity(one[0, :, 2, 3, None], two[0].flatten(1), dim=0).max()
    assert local_alignment(one, two, 0, (weight, 0 * weight)).item() == pytest.approx(single.item() / 2)
    assert torch.allclose(
        local_alignment(one, two, 4, [torch.full((2, 6, 7), 0.3)] * 2), local_alignment(one, two, 4)
    )


def test_a_partner_that_stands_still_gets_no_gradient() -> None:
    here, nowhere = torch.ones(2, 6, 7), torch.zeros(2, 6, 7)
    for detach in (False, True):
        one, two = maps(seed=1).requires_grad_(), maps(seed=2).requires_grad_()
        local_alignment(one, two, 0, (here, nowhere), detach=detach).backward()
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
        assert (two.grad is None or not two.grad.any()) == detach


def test_mutual_counts_no_cell_whose_partner_prefers_another() -> None:
    """Both cells of the one slice choose the first of the other, which chooses the first of them."""
    one = torch.tensor([[1.0, 0.8], [0.0, 0.6]])[None, :, None]
    two = torch.tensor([[1.0, -1.0], [0.0, 0.0]])[None, :, None]
    assert local_alignment(one, two, mutual=True).item() == pytest.approx(0, abs=1e-6)
    # Of the one slice 0 and 0.2, of the other 0 and 1.8 (its second cell's better match is -0.8).
    assert local_alignment(one, two).item() == pytest.approx((0.1 + 0.9) / 2, rel=1e-5)
    assert local_alignment(maps(5, 7, 1), maps(5, 7, 2), 4, mutual=True).isfinite()


def test_cells_without_a_match_good_enough_can_be_left_out() -> None:
    one, two = maps(seed=1), maps(seed=2)
    assert local_alignment(one, two, least_match=0.99) == 0
    assert 0 < local_alignment(one, two, least_match=0.6) < local_alignment(one, two)
    # 0 is not the published loss: it leaves out cells whose best cosine is negative.
    assert local_alignment(one, -one, 1, least_match=0.0) == 0
    assert local_alignment(one, -one, 1, least_match=-1.0).item() == pytest.approx(2)


def largest_allocation(window: int) -> int:
    """Bytes of the largest tensor that a loss of 64 x 64 cells and its gradient make."""
    one, two = maps(64, 64, 1, 4, 1).requires_grad_(), maps(64, 64, 2, 4, 1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        local_alignment(one, two, window).backward()
    return max(event.cpu_memory_usage for event in watched.events())


def test_windows_never_make_the_matrix_of_all_cells() -> None:
    """At 64 x 64 cells it would have 4096 x 4096 numbers."""
    whole = 4096 * 4096 * 4
    assert largest_allocation(0) >= whole, "this would not be noticed"
    assert largest_allocation(8) < whole / 16


def test_cosines_are_exact_under_mixed_precision() -> None:
    one = maps()
    two = one + 0.02 * maps(seed=1)
    exact = local_alignment(one, two)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = local_alignment(one, two)
        assert contrast(one.flatten(1), torch.ones(2, 2).bool(), 0.1).dtype == torch.float32
        assert positional_regression(one.flatten(1), torch.ones(2)).dtype == torch.float32
    assert torch.equal(mixed, exact)
    assert 0 < exact < 1e-3, "near 1 bf16 has steps of 0.004"


# The order of slices


def slice_features(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, generator=seeded(seed))


POSITIONS = torch.tensor([0.05, 0.12, 0.3, 0.9, 0.11, 0.2, 0.33, 0.8])


def test_the_contrast_is_the_one_counted_pair_by_pair() -> None:
    features, positive = F.normalize(slice_features(), dim=1), positive_mask(POSITIONS, 0.1)
    losses = []
    for anchor in range(8):
        others = [math.exp(float(features[anchor] @ features[c]) / 0.1) for c in range(8) if c != anchor]
        found = [
            b
            for b in range(8)
            if b != anchor and (abs(POSITIONS[anchor] - POSITIONS[b]) < 0.1 or abs(anchor - b) == 4)
        ]
        shares = [
            math.log(math.exp(float(features[anchor] @ features[b]) / 0.1) / sum(others)) for b in found
        ]
        losses.append(-sum(shares) / len(shares))
    assert contrast(slice_features(), positive, 0.1).item() == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_a_large_threshold_makes_every_pair_positive() -> None:
    assert torch.equal(positive_mask(POSITIONS, math.inf), ~torch.eye(8, dtype=torch.bool))


@pytest.mark.parametrize("positive_threshold", [0.0, -1.0])
def test_without_a_threshold_partners_are_left_which_is_simclr(positive_threshold: float) -> None:
    """PCL's mask loses even these at 0; here a partner is a positive whatever the threshold."""
    positive = positive_mask(torch.zeros(8), positive_threshold)
    assert torch.equal(positive.nonzero()[:, 1], torch.arange(8).roll(4))
    scores = F.normalize(slice_features(), dim=1) @ F.normalize(slice_features(), dim=1).T / 0.1
    wanted = F.cross_entropy(scores.fill_diagonal_(-math.inf), torch.arange(8).roll(4))
    assert torch.allclose(contrast(slice_features(), positive, 0.1), wanted)


def test_slices_without_positives_are_skipped() -> None:
    features = slice_features().requires_grad_()
    nothing = torch.zeros(8, 8, dtype=torch.bool)
    loss = contrast(features, nothing, 0.1)
    loss.backward()
    assert loss == 0
    assert features.grad is not None
    assert (features.grad == 0).all()
    some = nothing.clone()
    some[0, 1] = some[1, 0] = True
    rows = [
        contrast(features, nothing.index_put((torch.tensor(a), torch.tensor(b)), torch.tensor(True)), 0.1)
        for a, b in ((0, 1), (1, 0))
    ]
    assert torch.allclose(contrast(features, some, 0.1), sum(rows) / 2)


def test_adding_to_all_positions_or_turning_the_order_round_changes_nothing() -> None:
    def loss(position: Tensor) -> Tensor:
        return contrast(slice_features(), positive_mask(position, 0.1), 0.1)

    assert torch.equal(loss(POSITIONS + 0.5), loss(POSITIONS))
    assert torch.equal(loss(1 - POSITIONS), loss(POSITIONS))
    assert not torch.equal(loss(POSITIONS.flip(0)), loss(POSITIONS)), "and positions do matter"


def test_regression_is_0_for_equal_features_at_one_position_and_in_range() -> None:
    equal = slice_features(1).expand(8, 6)
    assert positional_regression(equal, torch.full((8,), 0.3)).item() == pytest.approx(0, abs=1e-6)
    assert positional_regression(equal, torch.tensor([0.0] * 4 + [1.0] * 4)).item() == pytest.approx(0.5)
    opposite = torch.tensor([[1.0], [-1.0]])
    assert positional_regression(opposite, torch.zeros(2)).item() == pytest.approx(1)
    for seed in range(5):
        assert 0 <= positional_regression(slice_features(seed=seed), POSITIONS) <= 2
