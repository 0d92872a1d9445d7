"""The properties of the local contrast with pseudo-labels. Each test is named after the property."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.models.unet import Network
from medssl.tasks.inference.predict import Top1Posterior
from medssl.tasks.segment import pseudo_labels
from medssl.tasks.segment.pseudo_contrast import Pixels, PseudoContrast, Settings, draw, inter, intra
from medssl.tasks.segment.pseudo_labels import PseudoLabels
from small import Events, dataset, noise, plan, seeded
from torch import Tensor, nn
from tuning import IGNORE, half_painted, tuning

TAU = 0.1


def labels(*shape: int, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, shape, generator=seeded(seed))


def vectors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def pixels(count: int = 2, classes: int = 3, anchors: int = 3, seed: int = 0) -> Pixels:
    """Random vectors of 5 channels, all classes present."""
    anchor, mean = (
        vectors(count, classes, anchors, 5, seed=seed),
        vectors(count, classes, 5, seed=seed + 50),
    )
    return Pixels(anchor, mean, torch.ones(count, classes, dtype=torch.bool))


def both_modes(one: Pixels, two: Pixels) -> list[Tensor]:
    """Intra sees a pair as two patches."""
    pair = Pixels(*(torch.cat(each) for each in zip(_parts(one), _parts(two), strict=True)))
    return [intra(pair, TAU), inter(one, two, TAU)]


def _parts(given: Pixels) -> tuple[Tensor, Tensor, Tensor]:
    return given.anchors, given.means, given.present


def changed(given: Pixels, change: Callable[[Tensor], Tensor]) -> Pixels:
    return replace(given, anchors=change(given.anchors), means=change(given.means))


def without(given: Pixels, *classes: int) -> Pixels:
    present = given.present.clone()
    present[:, list(classes)] = False
    return replace(given, present=present)


# --- the loss by itself ----------------------------------------------------------------------------------


def by_hand(one: Pixels, two: Pixels, mode: str) -> float:
    """The equations of the sheet as loops."""

    def similarity(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b / (a.norm() * b.norm())) / TAU)

    total = 0.0
    count, classes, anchors = one.anchors.shape[:3]
    for pair in range(count):
        for label in range(classes):
            for anchor in range(anchors):
                for own, other in ((one, two), (two, one)):
                    pixel = own.anchors[pair, label, anchor]
                    sets = [own.means[pair]] if mode == "intra" else [own.means[pair], other.means[pair]]
                    below = sum(similarity(pixel, mean) for means in sets for mean in means)
                    for means in sets:
                        total -= math.log(similarity(pixel, means[label]) / below)
    return total / (count * classes * anchors) / (1 if mode == "intra" else 2)


@pytest.mark.parametrize("mode", ["intra", "inter"])
def test_the_vectorised_loss_equals_a_slow_triple_loop(mode: str) -> None:
    one, two = pixels(count=2, classes=4, anchors=3), pixels(count=2, classes=4, anchors=3, seed=9)
    value = both_modes(one, two)[mode == "inter"]
    assert value.item() == pytest.approx(by_hand(one, two, mode), rel=1e-5)


def test_all_features_equal_gives_log_f_a_term_and_twice_that_in_total() -> None:
    same = changed(pixels(), torch.ones_like)
    intra_loss, inter_loss = both_modes(same, same)
    assert intra_loss.item() == pytest.approx(2 * math.log(3), rel=1e-5)
    assert inter_loss.item() == pytest.approx(2 * math.log(6), rel=1e-5)


def test_orthogonal_class_means_give_nearly_zero_within_and_two_log_two_between() -> None:
    axes = torch.eye(3)[None]
    perfect = Pixels(axes[:, :, None].expand(1, 3, 4, 3), axes, torch.ones(1, 3, dtype=torch.bool))
    intra_loss, inter_loss = both_modes(perfect, perfect)
    assert intra_loss.item() == pytest.approx(1.8e-4, rel=0.02)
    assert inter_loss.item() == pytest.approx(1.3865, abs=1e-4)


def test_the_modes_are_never_below_their_floors() -> None:
    for seed in range(20):
        intra_loss, inter_loss = both_modes(pixels(seed=seed), pixels(seed=seed + 100))
        assert intra_loss >= 0
        assert inter_loss >= 2 * math.log(2)


def test_one_class_within_is_always_zero() -> None:
    given = pixels(classes=1)
    given.anchors.requires_grad_()
    intra_loss = intra(given, TAU)
    intra_loss.backward()
    assert intra_loss == 0
    assert given.anchors.grad is not None
    assert (given.anchors.grad == 0).all()


def test_one_class_between_is_two_log_two_where_the_means_coincide_and_more_elsewhere() -> None:
    one, two = pixels(classes=1), pixels(classes=1, seed=5)
    assert inter(one, replace(two, means=one.means), TAU).item() == pytest.approx(2 * math.log(2), rel=1e-5)
    assert inter(one, two, TAU) > 2 * math.log(2) + 0.01


def test_swap_symmetry() -> None:
    one, two = pixels(count=4), pixels(count=4, seed=7)
    for there, back in zip(both_modes(one, two), both_modes(two, one), strict=True):
        assert there.item() == pytest.approx(back.item(), rel=1e-5)


def test_invariance_to_a_permutation_of_class_numbers() -> None:
    one, two = without(pixels(), 2), pixels(seed=7)
    order = [2, 0, 1]
    turned = [
        Pixels(each.anchors[:, order], each.means[:, order], each.present[:, order]) for each in (one, two)
    ]
    for plain, permuted in zip(both_modes(one, two), both_modes(turned[0], turned[1]), strict=True):
        assert plain.item() == pytest.approx(permuted.item(), rel=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_invariance_to_the_scale_of_features(factor: float) -> None:
    one, two = pixels(), pixels(seed=7)
    larger = [changed(each, lambda part: factor * part) for each in (one, two)]
    for plain, scaled in zip(both_modes(one, two), both_modes(larger[0], larger[1]), strict=True):
        assert plain.item() == pytest.approx(scaled.item(), rel=1e-4)


def test_an_absent_class_contributes_nothing_neither_value_nor_gradient() -> None:
    one, two = without(pixels(), 1), pixels(seed=7)
    kept = [Pixels(each.anchors[:, ::2], each.means[:, ::2], one.present[:, ::2]) for each in (one, two)]
    garbage = replace(one, anchors=one.anchors.clone(), means=one.means.clone())
    garbage.anchors[:, 1] = 1e6
    garbage.means[:, 1] = -7
    for part in (garbage.anchors, garbage.means):
        part.requires_grad_()
    assert inter(garbage, two, TAU).item() == pytest.approx(inter(kept[0], kept[1], TAU).item(), rel=1e-5)
    assert intra(garbage, TAU).item() == pytest.approx(intra(kept[0], TAU).item(), rel=1e-5)
    (inter(garbage, two, TAU) + intra(garbage, TAU)).backward()
    for part in (garbage.anchors, garbage.means):
        assert part.grad is not None
        assert (part.grad[:, 1] == 0).all()
        assert part.grad.abs().sum() > 0


def test_no_class_present_gives_zero_and_finite_gradients() -> None:
    one, two = without(pixels(), 0, 1, 2), pixels(seed=7)
    one.anchors.requires_grad_()
    two.means.requires_grad_()
    loss = inter(one, two, TAU) + intra(one, TAU)
    loss.backward()
    assert loss == 0
    for part in (one.anchors, two.means):
        assert part.grad is not None
        assert (part.grad == 0).all()


def test_a_pair_that_shares_no_class_does_not_thin_out_the_others() -> None:
    one, two = pixels(count=2), pixels(count=2, seed=7)
    one.present[0] = torch.tensor([True, False, False])
    two.present[0] = torch.tensor([False, True, True])
    second = torch.tensor([1])
    assert torch.allclose(inter(one, two, TAU), inter(one.select(second), two.select(second), TAU))


# --- which pixels are drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 10), (4, 6, 5)])
def test_means_are_over_all_pixels_of_a_class_and_unknown_ones_are_left_out(shape: tuple[int, ...]) -> None:
    given, target = vectors(2, 5, *shape), labels(2, *shape)
    target[:, 0] = IGNORE
    target[target == 3] = 2
    found = draw(given, target, 4, 3, seeded(), background=True)
    for patch in range(2):
        for label in range(3):
            expected = given[patch][:, target[patch] == label].mean(1)
            assert torch.allclose(found.means[patch, label], expected, atol=1e-5)
    assert found.present.tolist() == [[True, True, True, False]] * 2


def test_drawn_pixels_are_of_their_class_and_drawn_evenly() -> None:
    target = labels(2, 8, 8)
    target[0, :2] = IGNORE
    number = torch.arange(64.0).reshape(8, 8).expand(2, 1, 8, 8)
    found = draw(number, target, 4, 20_000, seeded(), background=True)
    for patch in range(2):
        for label in range(4):
            there = number[patch, 0][target[patch] == label]
            seen, counts = found.anchors[patch, label, :, 0].unique(return_counts=True)
            assert torch.equal(seen, there)
            assert counts.min() > 0.8 * 20_000 / len(there)


def test_the_background_is_left_out_unless_it_is_asked_for() -> None:
    given, target = vectors(2, 5, 8, 8), labels(2, 8, 8)
    whole = draw(given, target, 4, 3, seeded(), background=True)
    fewer = draw(given, target, 4, 3, seeded(), background=False)
    assert torch.equal(whole.means[:, 1:], fewer.means)
    assert torch.equal(whole.anchors[:, 1:], fewer.anchors)


def test_joint_permutation_of_pixels_and_labels() -> None:
    """Means stay exactly; which pixels are drawn does not, so the loss does for very many of them."""
    given, target = vectors(4, 5, 64), labels(4, 64)
    order = torch.randperm(64, generator=seeded(3))
    one = draw(given, target, 4, 5000, seeded(), background=True)
    two = draw(given[..., order], target[:, order], 4, 5000, seeded(8), background=True)
    assert torch.allclose(one.means, two.means, atol=1e-6)
    assert intra(one, TAU).item() == pytest.approx(intra(two, TAU).item(), rel=0.02)


# --- with one class --------------------------------------------------------------------------------------


def test_with_one_painted_class_the_background_is_contrasted_too() -> None:
    assert PseudoContrast(plan(), Settings(), 3, painted=1).background
    assert not PseudoContrast(plan(), Settings(), 3, painted=2).background
    assert PseudoContrast(plan(), Settings(background=True), 3, painted=2).background


def test_one_class_without_the_background_is_refused() -> None:
    with pytest.raises(UserError, match="Only one class") as caught:
        PseudoContrast(plan(), Settings(background=False), 2, painted=1)
    assert caught.value.code == "one-class"


@pytest.mark.parametrize("mode", ["intra", "inter"])
def test_one_painted_class_gives_a_contrast_that_trains(mode: str) -> None:
    task = tuning("pseudo_contrast", half_painted(1), mode=mode)
    _, numbers = task.loss(seeded(), 0.5)
    gradient = torch.autograd.grad(contrast_of(task), list(task.terms["contrast"].parameters()))
    assert numbers["contrast"] > 0.1
    assert all(each.abs().sum() > 0 for each in gradient)


# --- the term in a step ----------------------------------------------------------------------------------


def contrast_of(task: Any, fraction: float = 0.5) -> Tensor:
    """The contrast of a step alone, with its graph."""
    kept: list[Tensor] = []
    hook = task.terms["contrast"].register_forward_hook(lambda module, given, value: kept.append(value))
    task.loss(seeded(), fraction)
    hook.remove()
    return kept[0]


def gradients(loss: Tensor, part: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_contrast_gives_the_segmentation_head_no_gradient_and_the_loss_none_to_its_head(
    dims: int,
) -> None:
    task = tuning("pseudo_contrast", small=plan(dims))
    loss, numbers = task.loss(seeded(), 0.5)
    contrast = contrast_of(task)
    assert all(each is None for each in gradients(contrast, task.network.head))
    for part in (task.network.encoder, task.network.decoder, task.terms["contrast"]):
        assert sum(each.abs().sum() for each in gradients(contrast, part) if each is not None) > 0
    plain = tuning("none", small=plan(dims))
    alone, _ = plain.loss(seeded(), 0.5)
    assert numbers["loss"].item() == pytest.approx(alone.item(), rel=1e-5)
    assert loss.item() == pytest.approx(alone.item() + 0.1 * numbers["contrast"].item(), rel=1e-5)


def test_guessed_patches_give_the_segmentation_head_no_gradient() -> None:
    """Its gradient is the same whatever the pseudo-labels are, and that of painted patches alone."""
    plain, task = tuning("none"), tuning("pseudo_contrast")
    one, _ = plain.loss(seeded(), 0.5)
    two, _ = task.loss(seeded(), 0.5)
    for alone, beside in zip(
        gradients(one, plain.network.head), gradients(two, task.network.head), strict=True
    ):
        assert alone is not None
        assert beside is not None
        assert torch.allclose(alone, beside, atol=1e-6)


def test_a_weight_of_zero_is_plain_supervised_training() -> None:
    """Exactly, also beside pseudo-labelled patches: the network has no batch norm that would see them."""
    plain, task = tuning("none"), tuning("pseudo_contrast", contrast_weight=0.0)
    one, _ = plain.loss(seeded(), 0.5)
    two, _ = task.loss(seeded(), 0.5)
    assert torch.allclose(one, two, rtol=1e-6)
    for alone, beside in zip(gradients(one, plain.network), gradients(two, task.network), strict=True):
        assert alone is not None
        assert beside is not None
        assert torch.allclose(alone, beside, atol=1e-6)


@pytest.mark.parametrize(("dims", "mode"), [(2, "inter"), (3, "intra")])
def test_steps_lower_the_contrast(dims: int, mode: str) -> None:
    """On the same patches and pixels in every step: with others each time, the draw outweighs the steps."""
    scans = half_painted()
    every = scans.targets[0][2].expand_as(scans.targets[0]).clone()
    learnable = dataset(
        scans.images[0].where(every == IGNORE, 3.0 * every + scans.images[1]), targets=[every]
    )
    task = tuning("pseudo_contrast", learnable, plan(dims), mode=mode, contrast_weight=1.0, multiplanar=False)
    parameters = [each for group in task.parameter_groups() for each in group["params"]]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    values = []
    for _ in range(16):
        loss, numbers = task.loss(seeded(), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(numbers["contrast"].item())
    floor = 2 * math.log(2) if mode == "inter" else 0.0
    assert values[-1] - floor < 0.1 * (values[0] - floor)  # some 0.3 without the contrast, 0.01 with it


def test_held_means_change_the_gradient_but_not_the_loss() -> None:
    tasks = [tuning("pseudo_contrast", detach=each) for each in (False, True)]
    moving, held = (contrast_of(task) for task in tasks)
    assert moving.item() == pytest.approx(held.item(), rel=1e-5)
    one, two = (
        gradients(value, task.terms["contrast"])[0] for value, task in zip((moving, held), tasks, strict=True)
    )
    assert one is not None
    assert two is not None
    assert not torch.allclose(one, two)


def test_a_smaller_batch_reaches_the_contrast() -> None:
    task = tuning("pseudo_contrast", small=plan(batch=2))
    assert "batch of 1 " in str(task.shrink())
    loss, _ = task.loss(seeded(), 0.5)
    assert loss.isfinite()


def test_mixed_precision_gives_a_finite_loss_near_that_of_full_precision() -> None:
    task = tuning("pseudo_contrast")
    contrast_of(task)  # makes the pseudo-labels: those of a random network change with the last bits of bf16
    full = contrast_of(task)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = contrast_of(task)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(full.item(), rel=0.01)


# --- pseudo-labels ---------------------------------------------------------------------------------------


def test_guesses_are_made_in_eval_mode_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = tuning("pseudo_contrast"), []
    plain = pseudo_labels.top1_posterior

    def watched(network: Network, *given: Any) -> Top1Posterior:
        seen.append(network)
        assert not network.training
        assert not any(each.requires_grad for each in network.parameters())
        found = plain(network, *given)
        assert not found.best.requires_grad
        return found

    monkeypatch.setattr(pseudo_labels, "top1_posterior", watched)
    task.loss(seeded(), 0.5)
    assert seen
    assert task.network.training


def test_guesses_stay_between_rounds_and_are_made_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """R rounds: the first pseudo-labels, and exactly R - 1 times new ones."""
    task = tuning("pseudo_contrast", rounds=(0.2, 0.5, 0.8))
    assert task.rounds is not None
    made: list[float] = []
    plain = PseudoLabels.refresh

    def counted(self: PseudoLabels, *given: Any) -> None:
        made.append(fraction)
        plain(self, *given)

    monkeypatch.setattr(PseudoLabels, "refresh", counted)
    generator, before = seeded(), None
    for fraction in torch.linspace(0, 1, 21).tolist():
        task.loss(generator, fraction)
        now = task.rounds.pseudo_labels.dataset
        assert (now is not before) == (fraction in made) or not made
        before = now
    assert made == pytest.approx([0.2, 0.5, 0.8])


def test_a_change_of_grey_values_moves_no_label() -> None:
    """The image is its own label here: what it shows after turning, bending and zooming tells the target."""
    target = torch.zeros(10, 40, 40, dtype=torch.uint8)
    target[:, 10:30, 8:20] = 1
    target[:, 10:30, 20:32] = 2
    scans = dataset(10.0 * target, targets=[target])
    task = tuning("none", scans, plan(batch=16))
    image, labels = task.patches(task.dataset, task.voxels, seeded())
    middle, known = image[:, 1], labels != IGNORE
    for patch, label, inside in zip(middle, labels, known, strict=True):
        means = [patch[inside & (label == each)].mean() for each in label[inside].unique().tolist()]
        assert all(one < two for one, two in pairwise(means))


def test_clean_up_keeps_shape_and_classes() -> None:
    labels = torch.zeros(6, 12, 12, dtype=torch.uint8)
    labels[1:4, 2:6, 2:6] = 1
    labels[2, 9, 9] = 1
    labels[5, 0:3, 8:11] = 2
    cleaned = pseudo_labels.largest_components(labels)
    assert cleaned.shape == labels.shape
    assert cleaned.dtype == labels.dtype
    assert (cleaned != labels).nonzero().tolist() == [[2, 9, 9]]
    assert cleaned[2, 9, 9] == IGNORE


def test_without_clean_up_guesses_are_the_arg_max_and_with_it_parts_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best: list[Tensor] = []
    plain = pseudo_labels.top1_posterior

    def watched(*given: Any) -> Top1Posterior:
        found = plain(*given)
        best.append(found.best.where(found.probability >= found.background, torch.zeros_like(found.best)))
        return found

    monkeypatch.setattr(pseudo_labels, "top1_posterior", watched)
    tasks = [tuning("pseudo_contrast", clean_up=each) for each in ("none", "largest")]
    for task in tasks:
        task.loss(seeded(), 0.5)
    none, largest = (pseudo_labelled(task)[1] for task in tasks)
    assert any(torch.equal(none, each) for each in best[:2])
    assert ((none == largest) | (largest == IGNORE)).all()
    assert not torch.equal(none, largest)


def pseudo_labelled(task: Any) -> dict[int, Tensor]:
    """Targets of the current pseudo-labels by the scan's place in the training's pool."""
    made = task.rounds.pseudo_labels.dataset
    return {task.dataset.ids.index(name): each for name, each in zip(made.ids, made.targets, strict=True)}


def test_a_class_that_no_guess_shows_is_said() -> None:
    events = Events()
    scans = half_painted()
    task = tuning("pseudo_contrast", scans, events=events)
    with torch.no_grad():
        task.modules["average"].head.conv.conv.bias.copy_(torch.tensor([0.0, 1e3, -1e3]))
    task.loss(seeded(), 0.5)
    assert "first 8,640 voxels; none yet of second" in events[0].text


def test_guesses_of_background_alone_leave_plain_training() -> None:
    empty = dataset(noise((4, 20, 20)), targets=[torch.full((4, 20, 20), IGNORE, dtype=torch.uint8)])
    task = tuning("pseudo_contrast")
    assert task.rounds is not None
    task.rounds.pseudo_labels.scans = empty
    with torch.no_grad():
        task.modules["average"].head.conv.conv.bias.copy_(torch.tensor([1e3, 0.0, 0.0]))
    loss, numbers = task.loss(seeded(), 0.5)
    assert numbers == {}
    assert torch.equal(loss, tuning("none").loss(seeded(), 0.5)[0])
