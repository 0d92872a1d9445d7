"""Alice: its losses, its masks, CASA, the teacher, and when the matcher learns."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.alice import (
    Alice,
    AliceSettings,
    draw_visible,
    reconstruction_loss,
    teacher_temperature,
)
from medssl.nn.methods.alice_parts import CASA, Head, across, centering, cross_entropy, perplexity, sinkhorn
from medssl.nn.models.unet import build
from medssl.tasks.pretrain.pretrain import Pretraining
from medssl.tasks.training import loop
from medssl.tasks.training.loop_settings import LoopSettings
from medssl.tasks.training.optimizer import make_optimizer
from project_parts import code_of
from small import Events, dataset, noise, plan, seeded
from torch import Tensor

SMALL = AliceSettings(
    dimension=8,
    crop=16,
    anchors=16,
    hidden=16,
    bottleneck=8,
    prototypes=12,
    attention_heads=2,
    attention_width=4,
    block=4,
)
SCANS = (noise((12, 30, 30)), noise((14, 26, 32), seed=1))
LATER = 0.6
"""Of the training: the matcher is ready."""


def method(dims: int = 2, scans: DeviceDataset | None = None, **changes: Any) -> Alice:
    torch.manual_seed(0)
    small = plan(dims)
    made = Alice(build(small, 3 if dims == 2 else 1, 0), small, replace(SMALL, **changes))
    made.prepare(dataset(*SCANS) if scans is None else scans, Events())
    return made


def scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def views(dims: int = 2, pairs: int = 2) -> Tensor:
    """Images of Q, then K."""
    shape = (2 * pairs, 3, 16, 16) if dims == 2 else (2 * pairs, 1, 8, 16, 16)
    return torch.randn(shape, generator=seeded())


# The losses.


def test_h_is_least_where_student_and_teacher_say_the_same_at_their_temperatures() -> None:
    # Small scores: of surer ones the loss is nearly 0 whatever the student says, and rounding decides.
    teacher, centre = 0.02 * scores(5, 7), 0.02 * scores(7, seed=1)
    target = centering(teacher, centre, 0.01)
    best = ((teacher - centre) / 0.01 * 0.1).requires_grad_()
    least = cross_entropy(target, best, 0.1)
    least.backward()
    assert best.grad is not None
    assert best.grad.abs().max() < 1e-6
    for seed in range(5):
        other = best.detach() + 0.05 * scores(5, 7, seed=seed)
        assert cross_entropy(target, other, 0.1) >= least


def test_h_of_the_same_scores_is_the_entropy_of_the_teacher() -> None:
    same = scores(6, 9)
    share = torch.softmax(same / 0.1, -1)
    entropy = torch.special.entr(share).sum(-1).mean()
    assert entropy > 0
    assert cross_entropy(share, same, 0.1).item() == pytest.approx(entropy.item(), rel=1e-4)


def test_identical_views_and_networks_give_the_teachers_entropy_across_scans() -> None:
    one = method(ratio=0.0, student_temperature=0.1, teacher_temperature=(0.1, 0.1))
    images = views()[:2].repeat(2, 1, 1, 1)
    _, numbers = one.compare(images, torch.ones(4, 1, 16, 16), 0.5)
    share = torch.softmax(one._teach(images, scores(4, 16, 12))[0] / 0.1, -1)
    assert numbers["inter"].item() == pytest.approx(torch.special.entr(share).sum(-1).mean().item(), rel=1e-4)


def test_across_scans_each_view_is_compared_with_the_other_one() -> None:
    target, student = centering(scores(4, 6), scores(6, seed=2), 0.05), scores(4, 6, seed=1)
    by_hand = sum(
        cross_entropy(target[one], student[two], 0.1) for one, two in ((0, 2), (1, 3), (2, 0), (3, 1))
    )
    assert across(target, student, 0.1).item() == pytest.approx(float(by_hand) / 4, rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_swapping_q_and_k_leaves_the_loss_unchanged(dims: int) -> None:
    images = views(dims)
    visible = draw_visible(4, tuple(images.shape[2:]), SMALL, seeded())
    swapped = [each.roll(2, 0) for each in (images, visible)]
    one, other = method(dims).compare(images, visible, 0.5), method(dims).compare(*swapped, 0.5)
    assert one[0].item() == pytest.approx(other[0].item(), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    images = views()
    for weights in ((1.0, 1.0, 10.0), (0.5, 2.0, 0.0)):
        inter, intra, reconstruction = weights
        weighted = method(inter=inter, intra=intra, reconstruction=reconstruction)
        loss, numbers = weighted.compare(images, torch.ones(4, 1, 16, 16), 0.5)
        terms = (numbers[name].item() for name in ("inter", "intra", "reconstruction"))
        assert loss.item() == pytest.approx(sum(w * t for w, t in zip(weights, terms, strict=True)), rel=1e-4)


def test_the_teacher_gets_no_gradient_and_all_else_does() -> None:
    one = method()
    images = views()
    loss, _ = one.compare(images, draw_visible(4, (16, 16), SMALL, seeded()), 0.5)
    loss.backward()
    for name, parameter in one.modules.named_parameters():
        trained = not name.startswith(("teacher.", "matcher."))
        assert (parameter.grad is not None and parameter.grad.isfinite().all()) == trained, name


def test_the_reconstruction_loss_is_zero_only_for_the_image_itself() -> None:
    image = scores(2, 3, 8, 8)
    visible = draw_visible(2, (8, 8), SMALL, seeded())
    assert reconstruction_loss(image, image, visible, "all") == 0
    assert reconstruction_loss(image + 0.1 * visible, image, visible, "all") > 0
    assert reconstruction_loss(image + 2, image, visible, "all").item() == pytest.approx(2.0, rel=1e-5)


def test_the_masked_variant_ignores_visible_voxels() -> None:
    image, painted = scores(2, 3, 8, 8), scores(2, 3, 8, 8, seed=1).requires_grad_()
    visible = draw_visible(2, (8, 8), SMALL, seeded())
    reconstruction_loss(painted, image, visible, "masked").backward()
    assert painted.grad is not None
    seen = visible.expand_as(image) == 1
    assert (painted.grad[seen] == 0).all()
    assert (painted.grad[~seen] != 0).all()


def test_the_centre_goes_to_what_a_constant_teacher_says() -> None:
    one = method()
    constant = scores(12)
    one._teach = lambda images, queries: (  # type: ignore[method-assign]
        constant.expand(4, -1),
        constant.expand(*queries.shape),
        torch.ones(()),
    )
    for _ in range(100):
        one.compare(views(), torch.ones(4, 1, 16, 16), 0.5)
    assert torch.allclose(one.modules["centres"].whole, constant, atol=1e-3)
    assert torch.allclose(one.modules["centres"].cell, constant, atol=1e-3)


def test_the_teachers_temperature_rises_over_the_first_steps() -> None:
    assert [teacher_temperature((0.008, 0.01), fraction) for fraction in (0.0, 0.015, 0.03, 1.0)] == [
        0.008,
        pytest.approx(0.009),
        pytest.approx(0.01),
        pytest.approx(0.01),
    ]


def test_prototypes_in_use_are_counted_evenly() -> None:
    one_hot = 10.0 * torch.eye(8)
    assert perplexity(centering(one_hot, torch.zeros(8), 0.1)).item() == pytest.approx(8, rel=1e-4)
    assert perplexity(centering(one_hot[:1].expand(6, -1), torch.zeros(8), 0.1)).item() == pytest.approx(
        1, rel=1e-4
    )


def test_balanced_shares_use_all_prototypes_where_centred_ones_collapse() -> None:
    """Cells that hardly differ, and one prototype that all of them like best."""
    positive_mask = scores(1, 1, 8) + 0.05 * scores(4, 16, 8, seed=1)
    assignment = sinkhorn(positive_mask, 0.02)
    assert assignment.shape == positive_mask.shape
    assert torch.allclose(assignment.sum(-1), torch.ones(4, 16), atol=1e-4)
    assert perplexity(assignment) > 7.5
    assert perplexity(centering(positive_mask, torch.zeros(8), 0.02)) < 2
    assert not sinkhorn(positive_mask.requires_grad_(), 0.02).requires_grad


def test_balanced_shares_keep_what_tells_cells_apart() -> None:
    """A cell gets most of the prototype it likes best where there are as many cells as prototypes."""
    liked = torch.eye(8)[torch.randperm(8, generator=seeded())] + 0.1 * scores(8, 8, seed=1)
    assert torch.equal(sinkhorn(liked, 0.1).argmax(-1), liked.argmax(-1))
    assert sinkhorn(3000 * liked, 0.01).isfinite().all(), "scores over a hundredth leave the range of floats"


def test_the_recipe_for_minutes_balances_and_the_published_one_centres() -> None:
    assert recipes.read("alice-quick").method["assignment"] == "sinkhorn"
    assert "shares" not in recipes.read("alice-paper").method
    assert AliceSettings().assignment == "centering"
    one = method(assignment="sinkhorn")
    _, numbers = one.compare(views(), torch.ones(4, 1, 16, 16), 0.5)
    assert numbers["perplexity"] > 0.8 * 12
    assert (one.modules["centres"].cell == 0).all()


# Masks.


@pytest.mark.parametrize("size", [(32, 48), (16, 32, 48)])
def test_masks_hide_an_exact_number_of_whole_blocks_and_differ_between_q_and_k(size: tuple[int, ...]) -> None:
    visible = draw_visible(4, size, SMALL, seeded())
    assert visible.shape == (4, 1, *size)
    blocks = visible[:, 0]
    for axis in range(1, len(size) + 1):
        blocks = blocks.unflatten(axis, (-1, 4)).movedim(axis + 1, -1)
    flat = blocks.flatten(len(size) + 1)
    assert (flat.amin(-1) == flat.amax(-1)).all()
    total = flat[0, ..., 0].numel()
    # 0.75 of the blocks; where that is no whole number MAE's mask has one less, not one more.
    assert (flat[..., 0] == 0).flatten(1).sum(1).tolist() == [int(0.75 * total)] * 4
    assert not torch.equal(visible[:2], visible[2:])
    assert torch.equal(visible, draw_visible(4, size, SMALL, seeded()))


def test_columns_are_masked_through_all_slices() -> None:
    visible = draw_visible(3, (8, 16, 16), replace(SMALL, mask_shape="columns"), seeded())
    assert visible.shape == (3, 1, 8, 16, 16)
    assert (visible == visible[:, :, :1]).all()
    assert (visible == 0).float().mean().item() == 0.75


@pytest.mark.parametrize(("ratio", "shown"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_or_everything_masked(ratio: float, shown: float) -> None:
    """Ratio 0 leaves the input as it is, ratio 1 nothing of it, and the loss stays finite."""
    one = method(ratio=ratio)
    seen: list[Tensor] = []
    one.modules["network"].encoder[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    images = views()
    loss, _ = one.compare(images, draw_visible(4, (16, 16), one.settings, seeded()), 0.5)
    assert torch.equal(seen[0], images * shown)
    assert loss.isfinite()


def test_the_student_sees_masked_views_and_the_teacher_whole_ones() -> None:
    one = method()
    seen: dict[str, Tensor] = {}
    for name in ("network", "teacher"):
        encoder = one.modules["network"].encoder if name == "network" else one.modules["teacher"]["encoder"]
        encoder[0].register_forward_pre_hook(lambda module, given, name=name: seen.update({name: given[0]}))
    one.loss(dataset(*SCANS), seeded(), LATER)
    hidden = seen["network"] != seen["teacher"]
    assert 0.7 < hidden.float().mean() < 0.8
    for student, masked in zip(seen["network"], hidden, strict=True):
        assert torch.allclose(student[masked], student[~masked].mean(), atol=1e-5)


# CASA.


def casa() -> CASA:
    torch.manual_seed(0)
    return CASA(12, 2, 4, 16)


def test_casa_answers_every_query_however_many_keys_there_are() -> None:
    for keys in (1, 5, 40):
        assert casa()(scores(2, 7, 12), scores(2, keys, 12)).shape == (2, 7, 12)


def test_the_order_of_keys_makes_no_difference() -> None:
    queries, keys = scores(2, 4, 12), scores(2, 9, 12, seed=1)
    shuffled = keys[:, torch.randperm(9, generator=seeded())]
    assert torch.allclose(casa()(queries, keys), casa()(queries, shuffled), atol=1e-5)
    assert not torch.allclose(casa()(queries, keys), casa()(queries, keys + 1), atol=1e-3)


@pytest.mark.parametrize("casa_teacher", ["ema", "shared"])
def test_the_same_keys_and_weights_give_the_same_on_both_sides(casa_teacher: str) -> None:
    """At the start, with nothing masked, and decoder cells as keys on both sides."""
    one = method(ratio=0.0, kv_teacher="decoder", casa_teacher=casa_teacher)
    found: list[Tensor] = []
    for module in {one.modules["casa"], one.modules["teacher"]["casa" if casa_teacher == "ema" else "head"]}:
        if isinstance(module, CASA):
            module.register_forward_hook(lambda module, given, result: found.append(result.detach()))
    one.compare(views(), torch.ones(4, 1, 16, 16), 0.5)
    assert len(found) == 2
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_the_teachers_keys_come_from_encoder_or_decoder() -> None:
    images, queries = views(), scores(4, 16, 12)
    by_encoder, by_decoder = method(), method(kv_teacher="decoder")
    assert "decoder" not in by_encoder.modules["teacher"]
    assert not torch.allclose(by_encoder._teach(images, queries)[1], by_decoder._teach(images, queries)[1])


# Student and teacher.


@pytest.mark.parametrize("changes", [{}, {"kv_teacher": "decoder"}, {"casa_teacher": "shared"}])
def test_the_teacher_starts_as_the_student_and_follows_it_by_name(changes: dict[str, str]) -> None:
    one = method(momentum=0.9, **changes)
    assert not one._matcher_ready(0.0)
    student, teacher = one._student, one.modules["teacher"]
    assert ("casa" in teacher) == ("casa_teacher" not in changes)
    before = copy.deepcopy(dict(teacher.named_parameters()))
    assert all(torch.equal(before[name], each) for name, each in student.named_parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    one.after_step(0.0)
    assert all(torch.equal(before[name], each) for name, each in teacher.named_parameters()), "too early"
    one._ready = True
    one.after_step(one.settings.matching)
    for name, parameter in teacher.named_parameters():
        assert torch.allclose(parameter, before[name] + 0.1, atol=1e-5), name


def test_the_last_layer_is_frozen_at_the_start() -> None:
    images, visible = views(), torch.ones(4, 1, 16, 16)
    for fraction, frozen in ((0.0, True), (0.002, False)):
        one = method()
        one.compare(images, visible, fraction)[0].backward()
        for name in ("whole", "cell"):
            assert (getattr(one.modules["head"], name).weight.grad is None) == frozen
        assert one.modules["head"].shared[0].weight.grad is not None


def test_scores_are_cosines_with_prototypes() -> None:
    head = Head(8, 4, 16, 8, 12)
    found = 20 * head(scores(2, 5, 8), head.encoder, head.cell)
    assert found.abs().max() <= 20
    with torch.no_grad():
        head.cell.weight.mul_(3)
    again = 20 * head(scores(2, 5, 8), head.encoder, head.cell)
    assert torch.allclose(found, again, atol=1e-4)


# The matcher's time, and what scans it needs.


@pytest.mark.parametrize("dims", [2, 3])
def test_at_first_only_the_matcher_learns_and_then_all_but_it(dims: int) -> None:
    scans = dataset(*SCANS)
    one = method(dims, scans)
    for fraction, beginning in ((0.1, True), (LATER, False)):
        one.modules.zero_grad()
        loss, numbers = one.loss(scans, seeded(), fraction)
        loss.backward()
        assert loss.isfinite()
        assert set(numbers) == (
            {"matching"}
            if beginning
            else {"inter", "intra", "reconstruction", "perplexity", "feature_std", "accepted"}
        )
        for name, parameter in one.modules.named_parameters():
            trained = name.startswith("matcher.") == beginning and not name.startswith("teacher.")
            assert (parameter.grad is not None) == trained, name


def test_the_student_starts_at_a_low_rate_whatever_the_matcher_took() -> None:
    """Its share of the training has a schedule of its own; one over all would begin it near the peak."""
    scans = dataset(*SCANS)
    one = method(scans=scans)
    task, settings = Pretraining(one, scans), LoopSettings(learning_rate=1.0, warmup=0.05)
    optimizer = make_optimizer(task.modules, task.parameter_groups(), settings.learning_rate, 0.0)
    rates = []
    for fraction in (0.19, 0.2, 0.24, 0.999):
        loop.step(task, optimizer, settings, seeded(), fraction)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [pytest.approx(value, abs=0.02) for value in (0.0, 0.02, 1.0, 0.0)]


def test_a_trained_matcher_stays_as_it_is_when_the_training_is_taken_further() -> None:
    scans = dataset(*SCANS)
    one = method(scans=scans)
    one.loss(scans, seeded(), LATER)
    assert "accepted" in one.loss(scans, seeded(), 0.1)[1]
    resumed = method(scans=scans)
    resumed.modules.load_state_dict(one.modules.state_dict())
    events = Events()
    resumed.prepare(scans, events)
    assert "accepted" in resumed.loss(scans, seeded(), 0.1)[1]
    assert not events.of(Notice), "it was said when it happened"


def test_it_says_how_often_the_matcher_finds_a_place() -> None:
    scans, events = dataset(*SCANS), Events()
    for threshold, share in ((-1.0, "100 %"), (1.0, "0 %")):
        one = method(scans=scans, threshold=threshold)
        one.prepare(scans, events)
        _, numbers = one.loss(scans, seeded(), LATER)
        assert numbers["accepted"] == (threshold < 0)
        assert f" {share} of 32" in events.of(Notice)[-1].text


def test_a_single_scan_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        method(scans=dataset(SCANS[0]))
    assert code_of(caught) == "one-scan"


@pytest.mark.parametrize("dims", [2, 3])
def test_constant_scans_end_and_give_a_finite_loss(dims: int) -> None:
    scans = dataset(torch.zeros(12, 24, 24), torch.ones(9, 20, 24))
    one = method(dims, scans)
    for fraction in (0.0, LATER):
        loss, _ = one.loss(scans, seeded(), fraction)
        loss.backward()
        assert loss.isfinite()


def test_a_step_repeats_with_the_generator() -> None:
    scans = dataset(*SCANS)
    losses = [method(scans=scans).loss(scans, seeded(seed), LATER)[0] for seed in (5, 5, 6)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
