"""The properties of LRC's local loss and of how its pixels are drawn, one a test."""

from __future__ import annotations

import math

import pytest
import torch
from medssl.nn.data.superpixels import IGNORE, draw_pixels
from medssl.nn.methods.region_contrast import contrast, region_contrast
from small import seeded
from torch import Tensor


def vectors(regions: int = 4, samples: int = 3, channels: int = 8, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, regions, samples, channels, generator=seeded(seed))


def everywhere(of: Tensor) -> Tensor:
    return torch.ones(of.shape[:2], dtype=torch.bool)


def by_hand(unit: Tensor, temperature: float) -> float:
    """The formula for one view (N, K, C), term by term."""
    count, samples = unit.shape[:2]
    total = 0.0
    for n in range(count):
        for a in range(samples):
            negative = sum(
                math.exp(float(unit[n, a] @ unit[m, c]) / temperature)
                for m in range(count)
                for c in range(samples)
                if m != n
            )
            for b in range(samples):
                if b != a:
                    positive = math.exp(float(unit[n, a] @ unit[n, b]) / temperature)
                    total -= math.log(positive / (positive + negative))
    return total / (count * samples * (samples - 1))


# The loss.


@pytest.mark.parametrize(("regions", "samples"), [(2, 2), (2, 5), (5, 3)])
def test_the_loss_is_the_formula(regions: int, samples: int) -> None:
    unit = torch.nn.functional.normalize(vectors(regions, samples, batch=1), dim=-1)
    loss, used = region_contrast(unit, everywhere(unit), 0.3)
    assert loss.item() == pytest.approx(by_hand(unit[0].double(), 0.3), rel=1e-5)
    assert used.tolist() == [True]


def test_one_super_pixel_gives_no_loss_and_no_gradient_and_counts_as_skipped() -> None:
    alone = vectors(batch=1).requires_grad_()
    for of in (alone, alone[:, :1]):
        valid = torch.zeros(1, of.shape[1], dtype=torch.bool)
        valid[0, 0] = True
        loss, used = region_contrast(of, valid, 0.1)
        (gradient,) = torch.autograd.grad(loss, alone)
        assert loss.item() == 0
        assert (gradient == 0).all()
        assert used.tolist() == [False]


def test_no_super_pixel_at_all_gives_no_loss_and_no_gradient() -> None:
    of = vectors().requires_grad_()
    loss, used = region_contrast(of, ~everywhere(of), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert of.grad is not None
    assert (of.grad == 0).all()
    assert not used.any()


def test_one_pixel_a_region_gives_no_loss_and_no_gradient_and_counts_as_skipped() -> None:
    of = vectors(samples=1).requires_grad_()
    loss, used = region_contrast(of, everywhere(of), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert of.grad is not None
    assert (of.grad == 0).all()
    assert not used.any()


def test_skipped_views_do_not_dilute_the_others() -> None:
    of = vectors()
    valid = everywhere(of)
    valid[1, 1:] = False
    both, used = region_contrast(of, valid, 0.1)
    alone, _ = region_contrast(of[:1], valid[:1], 0.1)
    assert used.tolist() == [True, False]
    assert torch.allclose(both, alone)


def test_regions_that_a_view_lacks_take_no_part() -> None:
    of = vectors(regions=5)
    valid = everywhere(of)
    valid[:, 3:] = False
    less, _ = region_contrast(of, valid, 0.1)
    assert torch.allclose(less, region_contrast(of[:, :3], valid[:, :3], 0.1)[0])
    other = of.clone()
    other[:, 3:] = 1e3
    assert torch.equal(region_contrast(other, valid, 0.1)[0], less)


def test_constant_within_and_orthogonal_between_regions_goes_to_zero_with_the_temperature() -> None:
    of = torch.eye(4)[None, :, None].repeat(1, 1, 3, 1)
    losses = [region_contrast(of, everywhere(of), each)[0].item() for each in (1.0, 0.3, 0.1, 0.02)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0.5
    assert losses[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("regions", "samples"), [(2, 2), (4, 3), (50, 10)])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equal_features_give_the_logarithm_of_one_plus_the_negatives(
    regions: int, samples: int, temperature: float
) -> None:
    of = torch.ones(1, regions, samples, 8)
    loss, _ = region_contrast(of, everywhere(of), temperature)
    assert loss.item() == pytest.approx(math.log(1 + (regions - 1) * samples), rel=1e-5)


def test_relabelling_the_regions_changes_nothing() -> None:
    of = vectors()
    order = torch.randperm(of.shape[1], generator=seeded(1))
    loss, _ = region_contrast(of, everywhere(of), 0.1)
    assert torch.allclose(region_contrast(of[:, order], everywhere(of), 0.1)[0], loss)


def test_shuffling_the_pixels_of_a_region_changes_nothing() -> None:
    of = vectors(samples=5)
    loss, _ = region_contrast(of, everywhere(of), 0.1)
    shuffled = of[:, :, torch.randperm(5, generator=seeded(1))]
    assert torch.allclose(region_contrast(shuffled, everywhere(of), 0.1)[0], loss)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scaling_the_features_changes_nothing(factor: float) -> None:
    of = vectors()
    loss, _ = region_contrast(of, everywhere(of), 0.1)
    assert torch.allclose(region_contrast(factor * of, everywhere(of), 0.1)[0], loss, rtol=1e-4)


def test_views_of_a_batch_do_not_see_each_other() -> None:
    of = vectors(batch=3)
    losses = [region_contrast(each[None], everywhere(of)[:1], 0.1)[0] for each in of]
    assert torch.allclose(region_contrast(of, everywhere(of), 0.1)[0], torch.stack(losses).mean())


def test_the_slope_is_negative_by_every_positive_and_positive_by_every_negative_and_cancels() -> None:
    """By the similarities: for every anchor the slopes sum to 0."""
    similarity = torch.randn(2, 4, 3, 4, 3, generator=seeded(), dtype=torch.float64).requires_grad_()
    valid = torch.tensor([[True] * 4, [True, True, False, True]])
    positive = ~torch.eye(3, dtype=torch.bool).expand(2, 4, 3, 3)
    contrast(similarity, valid, positive)[0].backward()
    slope = similarity.grad
    assert slope is not None
    for view, n, a, m, c in torch.cartesian_prod(
        *(torch.arange(length) for length in similarity.shape)
    ).tolist():
        here = slope[view, n, a, m, c]
        if not (valid[view, n] and valid[view, m]) or (n, a) == (m, c):
            assert here == 0
        else:
            assert here < 0 if n == m else here > 0
    assert slope.sum((3, 4)).abs().max() < 1e-12


def test_a_pixel_that_a_small_region_gave_twice_is_no_positive_of_itself() -> None:
    """Two pixels, of which four are drawn: each twice, so the loss is that of the two."""
    of = vectors(regions=3, samples=2, batch=1)
    at = torch.arange(6).reshape(1, 3, 2)
    twice, _ = region_contrast(of.repeat(1, 1, 2, 1), everywhere(of), 0.1, at.repeat(1, 1, 2))
    unit = torch.nn.functional.normalize(of[0].double(), dim=-1).repeat(1, 2, 1)
    total = 0.0
    for n in range(3):
        negatives = [m for m in range(3) if m != n]
        for a in range(2):
            negative = (unit[negatives].flatten(0, 1) @ unit[n, a] / 0.1).exp().sum()
            positive = (unit[n, a] @ unit[n, 1 - a] / 0.1).exp()
            total -= float((positive / (positive + negative)).log())
    assert twice.item() == pytest.approx(total / 6, rel=1e-5)


def test_a_region_of_one_pixel_has_no_positives_and_dilutes_nothing() -> None:
    of = vectors(regions=3, samples=2, batch=1).requires_grad_()
    at = torch.tensor([[[0, 1], [2, 3], [4, 4]]])
    loss, used = region_contrast(of, everywhere(of), 0.1, at)
    alone, _ = region_contrast(of, everywhere(of), 0.1, torch.tensor([[[0, 1], [2, 2], [4, 4]]]))
    other, _ = region_contrast(of, everywhere(of), 0.1, torch.tensor([[[0, 0], [2, 3], [4, 4]]]))
    assert used.all()
    assert loss.item() == pytest.approx((alone.item() + other.item()) / 2, rel=1e-5)
    nothing, used = region_contrast(of, everywhere(of), 0.1, torch.tensor([[[0, 0], [2, 2], [4, 4]]]))
    assert nothing.item() == 0
    assert not used.any()


def test_following_the_gradient_gathers_regions_and_parts_them_from_each_other() -> None:
    of = vectors(regions=3, batch=1).requires_grad_()
    optimizer = torch.optim.Adam([of], lr=0.2)
    for _ in range(40):
        loss, _ = region_contrast(of, everywhere(of), 0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(of.detach()[0], dim=-1).flatten(0, 1)
    same = torch.arange(3).repeat_interleave(3)
    similarity = unit @ unit.T
    assert similarity[same[:, None] == same].min() > 0.9
    assert similarity[same[:, None] != same].max() < 0.1


def test_similarities_are_fp32_under_mixed_precision() -> None:
    of = vectors(regions=10, channels=64)
    plain, _ = region_contrast(of, everywhere(of), 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = region_contrast(of, everywhere(of), 0.05)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


# The pixels.


def label_map(*rows: str) -> Tensor:
    """(1, H, W) from digits; "." is ignored."""
    return torch.tensor([[[IGNORE if each == "." else int(each) for each in row] for row in rows]])


def test_every_region_gives_k_pixels_of_its_own() -> None:
    labels = torch.stack([torch.randint(-1, 9, (20, 20), generator=seeded(seed)) for seed in range(3)])
    at, valid = draw_pixels(labels, 12, 5, 4, seeded())
    assert at.shape == (3, 5, 4)
    assert valid.all()
    drawn = labels.flatten(1).gather(1, at.flatten(1)).reshape(at.shape)
    assert (drawn == drawn[..., :1]).all()
    assert (drawn >= 0).all()
    for each in drawn[..., 0]:
        assert each.unique().numel() == 5, "a region was drawn twice"


def test_the_number_of_different_anchors_is_n_times_k_where_regions_have_k_pixels() -> None:
    labels = torch.arange(6).repeat_interleave(50).reshape(1, 10, 30)
    at, _ = draw_pixels(labels, 6, 4, 20, seeded())
    assert at.unique().numel() == 4 * 20


def test_regions_of_fewer_than_k_pixels_give_each_of_them_about_as_often() -> None:
    labels = label_map("011", "...", "222")
    at, valid = draw_pixels(labels, 3, 3, 6, seeded())
    assert valid.all()
    assert sorted(sorted(each.tolist()) for each in at[0]) == [[0] * 6, [1] * 3 + [2] * 3, [6, 6, 7, 7, 8, 8]]


def test_ignored_pixels_are_never_drawn() -> None:
    labels = label_map("..0....1..", ".2........")
    for seed in range(20):
        at, valid = draw_pixels(labels, 4, 4, 3, seeded(seed))
        assert valid.sum() == 3
        assert set(at[0][valid[0]].flatten().tolist()) == {2, 7, 11}


def test_regions_are_drawn_evenly_however_large() -> None:
    """99 % of the map is one region; it is drawn as often as each of the other five."""
    labels = torch.zeros(1, 30, 30, dtype=torch.long)
    labels[0, 0, :5] = torch.arange(1, 6)
    counts = torch.zeros(6)
    for seed in range(600):
        at, _ = draw_pixels(labels, 6, 2, 2, seeded(seed))
        counts[labels[0].flatten()[at[0, :, 0]]] += 1
    assert counts.sum() == 1200
    assert (counts > 150).all()
    assert (counts < 250).all()


def test_pixels_of_a_region_are_drawn_evenly() -> None:
    labels = torch.zeros(1, 4, 5, dtype=torch.long)
    counts = torch.zeros(20)
    for seed in range(1000):
        at, _ = draw_pixels(labels, 1, 1, 4, seeded(seed))
        counts[at.flatten()] += 1
    assert (counts > 150).all()
    assert (counts < 250).all()


def test_a_map_with_fewer_regions_than_asked_for_gives_all_of_them() -> None:
    labels = torch.cat([label_map("00112233"), label_map("....5555"), label_map("........")])
    at, valid = draw_pixels(labels, 6, 5, 2, seeded())
    assert at.shape == (3, 5, 2)
    assert valid.sum(1).tolist() == [4, 1, 0]


def test_a_permutation_of_the_labels_leaves_the_same_sets_of_pixels_to_draw() -> None:
    """All regions, all pixels: only their order may differ, which the loss does not see."""
    labels = torch.arange(4).repeat_interleave(6).reshape(1, 4, 6)
    features = torch.randn(24, 8, generator=seeded())
    losses = []
    for order in (torch.arange(4), torch.tensor([2, 0, 3, 1])):
        at, valid = draw_pixels(order[labels], 4, 4, 6, seeded())
        losses.append(region_contrast(features[at], valid, 0.1)[0])
    assert torch.allclose(*losses)
