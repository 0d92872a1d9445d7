"""The properties of prototypes and of their loss, one a test."""

from __future__ import annotations

import math

import pytest
import torch
from medssl.nn.methods.prototypes import IGNORE, MIN_PIXELS, label_prototypes, prototype_loss
from small import seeded
from torch import Tensor
from torch.nn import functional as F

COUNT = 5


def features(seed: int = 0, batch: int = 2, channels: int = 8) -> Tensor:
    return torch.randn(batch, channels, 6, 8, generator=seeded(seed))


def stripes(*numbers: int, batch: int = 2) -> Tensor:
    """(batch, 6, 8) labels: so many pixels of label 0, of label 1, ..."""
    assert sum(numbers) == 48
    return (
        torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers)).view(1, 6, 8).repeat(batch, 1, 1)
    )


EVEN = (16, 12, 10, 10)


def one_hot(labels: Tensor, channels: int = 8) -> Tensor:
    """Features that say the label and nothing else."""
    return F.one_hot(labels, channels).movedim(-1, 1).float()


def by_hand(
    support: Tensor, support_labels: Tensor, query: Tensor, query_labels: Tensor, temperature: float
) -> tuple[float, float]:
    """Loss and share that is right, pixel by pixel."""
    losses, rights = [], []
    for image in range(len(support)):
        means = {}
        for label in range(COUNT):
            members = support[image][:, support_labels[image] == label].double()
            if members.shape[1] >= MIN_PIXELS:
                mean = (members / members.norm(dim=0)).mean(1)
                means[label] = mean / mean.norm()
        for at in zip(*torch.where(query_labels[image] < COUNT), strict=True):
            label = int(query_labels[image][at])
            if label in means:
                pixel = query[image][(slice(None), *at)].double()
                cosine = {each: float(mean @ pixel / pixel.norm()) for each, mean in means.items()}
                total = sum(math.exp(each / temperature) for each in cosine.values())
                losses.append(math.log(total) - cosine[label] / temperature)
                rights.append(max(cosine, key=lambda each: cosine[each]) == label)
    return sum(losses) / len(losses), sum(rights) / len(rights)


# Prototypes.


def test_a_prototype_is_the_unit_mean_of_the_unit_features_of_its_label() -> None:
    support, labels = features(), stripes(*EVEN)
    prototypes, there = label_prototypes(support, labels, COUNT)
    assert prototypes.shape == (2, COUNT, 8)
    for image in range(2):
        for label in range(4):
            unit = F.normalize(support[image][:, labels[image] == label], dim=0)
            assert torch.allclose(prototypes[image, label], F.normalize(unit.mean(1), dim=0), atol=1e-6)
    assert there.tolist() == [[True] * 4 + [False]] * 2


def test_a_label_needs_enough_pixels_for_a_prototype() -> None:
    _, there = label_prototypes(features(), stripes(48 - 2 * MIN_PIXELS + 1, MIN_PIXELS, MIN_PIXELS - 1), 3)
    assert there.tolist() == [[True, True, False]] * 2


# The loss.


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_the_loss_is_the_formula(temperature: float) -> None:
    support, query, labels = features(0), features(1), stripes(*EVEN)
    wanted = torch.randint(COUNT, labels.shape, generator=seeded())
    wanted[:, 0] = IGNORE
    loss, right = prototype_loss(support, labels, query, wanted, COUNT, temperature)
    expected, share = by_hand(support, labels, query, wanted, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert right.item() == pytest.approx(share, abs=1e-6)


def test_perfect_features_give_a_loss_near_0_and_all_is_right() -> None:
    labels = stripes(*EVEN)
    wanted = labels.flip(1, 2)
    loss, right = prototype_loss(one_hot(labels), labels, one_hot(wanted), wanted, COUNT)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-3)
    assert right == 1


def test_features_of_a_wrong_label_are_wrong() -> None:
    labels = stripes(*EVEN)
    loss, right = prototype_loss(one_hot(labels), labels, one_hot((labels + 1) % 4), labels, COUNT)
    assert loss > 9
    assert right == 0


@pytest.mark.parametrize("numbers", [EVEN, (40, 8), (48,)])
def test_equal_features_everywhere_give_the_logarithm_of_the_number_of_prototypes(
    numbers: tuple[int, ...],
) -> None:
    labels = stripes(*numbers)
    loss, _ = prototype_loss(torch.ones(2, 8, 6, 8), labels, torch.ones(2, 8, 6, 8), labels, COUNT)
    assert loss.item() == pytest.approx(math.log(len(numbers)), abs=1e-5)


@pytest.mark.parametrize("which", ["support", "query"])
def test_equal_labels_pull_and_different_ones_push(which: str) -> None:
    """One image says the label, the other lies half-way between both labels and takes a step."""
    labels = stripes(24, 24)
    own, other = one_hot(labels), one_hot(1 - labels)
    between = (own + other).requires_grad_()
    pair = (between, own) if which == "support" else (own, between)
    prototype_loss(pair[0], labels, pair[1], labels, COUNT)[0].backward()
    assert between.grad is not None
    assert (between.grad[own == 1] < 0).all()
    assert (between.grad[other == 1] > 0).all()
    moved = between - between.grad
    assert (F.cosine_similarity(moved, own) > F.cosine_similarity(between, own)).all()
    assert (F.cosine_similarity(moved, other) < F.cosine_similarity(between, other)).all()


def test_a_step_along_the_gradient_brings_random_features_closer_to_their_own_label_than_to_others() -> None:
    labels = stripes(*EVEN)
    support, query = features(0).requires_grad_(), features(1).requires_grad_()

    def cosines() -> tuple[Tensor, Tensor]:
        prototypes, _ = label_prototypes(support, labels, 4)
        every = torch.einsum("blc,bchw->blhw", prototypes, F.normalize(query, dim=1))
        own = F.one_hot(labels, 4).movedim(-1, 1).bool()
        return every[own].mean(), every[~own].mean()

    before = cosines()
    loss, _ = prototype_loss(support, labels, query, labels, COUNT)
    loss.backward()
    with torch.no_grad():
        for each in (support, query):
            assert each.grad is not None
            each -= 5 * each.grad
    after = cosines()
    assert after[0] > before[0] + 0.01
    assert after[1] < before[1]
    assert prototype_loss(support, labels, query, labels, COUNT)[0] < loss


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_the_scale_of_features_changes_nothing(factor: float) -> None:
    labels = stripes(*EVEN)
    plain, right = prototype_loss(features(0), labels, features(1), labels, COUNT)
    each = factor * (0.5 + torch.rand(2, 1, 6, 8, generator=seeded()))
    for one, two in ((each, 1.0), (1.0, each)):
        loss, again = prototype_loss(one * features(0), labels, two * features(1), labels, COUNT)
        assert torch.allclose(loss, plain, rtol=1e-5)
        assert again == right


def test_the_order_of_labels_and_pixels_changes_nothing() -> None:
    labels, order = stripes(*EVEN), torch.tensor([3, 4, 0, 2, 1])
    plain, right = prototype_loss(features(0), labels, features(1), labels, COUNT)
    loss, again = prototype_loss(features(0), order[labels], features(1), order[labels], COUNT)
    assert torch.allclose(loss, plain)
    assert again == right
    shuffled = torch.randperm(48, generator=seeded())
    one, two, wanted = (each.flatten(-2)[..., shuffled] for each in (features(0), features(1), labels))
    assert torch.allclose(prototype_loss(one, wanted, two, wanted, COUNT)[0], plain)


def test_support_and_query_may_differ_in_size() -> None:
    labels = stripes(*EVEN)
    wanted = labels.repeat(1, 2, 1)
    plain, _ = prototype_loss(features(0), labels, features(1), labels, COUNT)
    loss, _ = prototype_loss(features(0), labels, features(1).repeat(1, 1, 2, 1), wanted, COUNT)
    assert torch.allclose(loss, plain)


# What counts nothing.


def assert_counts_nothing(
    support_labels: Tensor, query_labels: Tensor, dropped: tuple[Tensor, Tensor]
) -> None:
    """Neither value nor gradient depends on the features where `dropped` (of support, of query) is true."""
    one, two = features(0).requires_grad_(), features(1).requires_grad_()
    loss, right = prototype_loss(one, support_labels, two, query_labels, COUNT)
    loss.backward()
    assert loss > 0
    for each, nothing in zip((one, two), dropped, strict=True):
        assert each.grad is not None
        away = nothing[:, None].expand_as(each)
        assert (each.grad[away] == 0).all()
        assert (each.grad.abs().sum(1)[~nothing] > 0).all()
    other_one, other_two = (
        torch.where(nothing[:, None], 100 * features(5), each.detach())
        for each, nothing in zip((one, two), dropped, strict=True)
    )
    again, again_right = prototype_loss(other_one, support_labels, other_two, query_labels, COUNT)
    assert torch.equal(again, loss.detach())
    assert again_right == right


def test_a_label_of_the_query_alone_counts_nothing() -> None:
    support, query = stripes(24, 24), stripes(16, 16, 16)
    assert_counts_nothing(support, query, (support > 1, query == 2))


@pytest.mark.parametrize("few", [1, MIN_PIXELS - 1])
def test_a_label_of_too_few_support_pixels_counts_nothing_in_both_images(few: int) -> None:
    support, query = stripes(24, 24 - few, few), stripes(16, 16, 16)
    assert_counts_nothing(support, query, (support == 2, query == 2))


@pytest.mark.parametrize("ignored", [IGNORE, COUNT, -1])
def test_labels_that_are_none_of_the_known_ones_count_nothing(ignored: int) -> None:
    support, query = stripes(*EVEN), stripes(*EVEN)
    support[:, 1], query[:, -2:] = ignored, ignored
    assert_counts_nothing(support, query, (support == ignored, query == ignored))


def test_a_label_of_the_support_alone_is_one_more_wrong_answer() -> None:
    """Its own pixels are not asked for, but those of others are kept away from it."""
    support, query = stripes(16, 16, 16), stripes(24, 24)
    without = support.clone()
    without[support == 2] = IGNORE
    one, two = features(0).requires_grad_(), features(1)
    loss, _ = prototype_loss(one, support, two, query, COUNT)
    assert loss > prototype_loss(one, without, two, query, COUNT)[0]
    loss.backward()
    assert one.grad is not None
    with torch.no_grad():
        moved = torch.where((support == 2)[:, None], one - 100 * one.grad, one)

    def likeness(of: Tensor) -> Tensor:
        return (
            (label_prototypes(of, support, 3)[0][:, 2, :, None] * F.normalize(two, dim=1).flatten(2))
            .sum(1)
            .mean()
        )

    assert likeness(moved) < likeness(one.detach()) - 0.01


@pytest.mark.parametrize(
    ("support", "query"),
    [
        (stripes(24, 24), torch.full((2, 6, 8), IGNORE)),
        (torch.full((2, 6, 8), IGNORE), stripes(24, 24)),
        (torch.zeros(2, 6, 8, dtype=torch.long), torch.ones(2, 6, 8, dtype=torch.long)),
    ],
    ids=["nothing in the query", "nothing in the support", "nothing in common"],
)
def test_without_any_valid_pixel_the_loss_is_0_with_a_finite_gradient(support: Tensor, query: Tensor) -> None:
    one, two = features(0).requires_grad_(), features(1).requires_grad_()
    loss, right = prototype_loss(one, support, two, query, COUNT)
    loss.backward()
    assert loss == 0
    assert right == 0
    for each in (one, two):
        assert each.grad is not None
        assert (each.grad == 0).all()


def test_images_of_a_batch_do_not_see_each_other_and_each_pixel_counts_once() -> None:
    labels = torch.cat([stripes(*EVEN, batch=1), stripes(24, 24, batch=1)])
    wanted = labels.clone()
    wanted[1, :4] = IGNORE
    both, right = prototype_loss(features(0), labels, features(1), wanted, COUNT)
    parts = [
        prototype_loss(features(0)[[at]], labels[[at]], features(1)[[at]], wanted[[at]], COUNT)
        for at in (0, 1)
    ]
    for whole, each in zip((both, right), zip(*parts, strict=True), strict=True):
        assert torch.allclose(whole, (48 * each[0] + 16 * each[1]) / 64)


def test_an_image_without_valid_pixels_does_not_dilute_the_others() -> None:
    labels = stripes(*EVEN)
    wanted = labels.clone()
    wanted[1] = IGNORE
    both, _ = prototype_loss(features(0), labels, features(1), wanted, COUNT)
    alone, _ = prototype_loss(features(0)[:1], labels[:1], features(1)[:1], wanted[:1], COUNT)
    assert torch.allclose(both, alone)


def test_volumes_work_as_slices_do() -> None:
    labels = stripes(*EVEN)
    plain, _ = prototype_loss(features(0), labels, features(1), labels, COUNT)
    one, two = (features(seed).view(2, 8, 2, 3, 8) for seed in (0, 1))
    loss, _ = prototype_loss(one, labels.view(2, 2, 3, 8), two, labels.view(2, 2, 3, 8), COUNT)
    assert torch.allclose(loss, plain)
