"""How much of each class is expected among guesses, and what is labelled where less is found."""

from __future__ import annotations

import pytest
import torch
from medssl.finetuning import amounts
from medssl.projects.project import IGNORE
from medssl.results.predict import Likely
from small import noise, pool, seeded
from torch import Tensor
from tuning import half_painted, tuning

SURE = 0.7


def likely(probability: Tensor, background: Tensor | None = None, best: Tensor | int = 1) -> Likely:
    """Of probabilities 0..1; the background has the rest, unless it is said."""
    rest = 1 - probability if background is None else background
    classes = torch.full_like(probability, best) if isinstance(best, int) else best
    return Likely(*(each.to(torch.uint8) for each in (classes, (probability * 255).round(), rest * 255)))


def labels(seen: Likely, share: float, portion: float = 0.5, unclear: float = 2.0) -> Tensor:
    shares = torch.tensor([1 - share, share])
    return amounts.thresholds([seen], shares, SURE, portion, unclear).labels(seen, SURE)


# --- what is to be expected ------------------------------------------------------------------------------


def test_areas_are_joined_from_one_known_slice_to_the_next() -> None:
    """A class that takes none, 4, 8 and no voxels of slices 1, 3, 5 and 7: 0 0 2 4 6 8 4 0 0."""
    target = torch.full((9, 10, 10), IGNORE, dtype=torch.uint8)
    for index, area in ((1, 0), (3, 4), (5, 8), (7, 0)):
        target[index] = 0
        target[index].flatten()[:area] = 1
    found = amounts.shares(pool(noise((9, 10, 10)), targets=[target]), 1)
    assert found[1].item() == pytest.approx(24 / 900)
    assert found.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (1.0, 0.5, 0.5)])
def test_beyond_the_outermost_slices_a_structure_ends_as_a_ball_would(spacing: tuple[float, ...]) -> None:
    """The middle slice of a ball says how large all of it is."""
    radius = 12.0
    axes = [torch.arange(round(40 / step)) * step - 20 for step in spacing]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    ball = z**2 + y**2 + x**2 <= radius**2
    target = torch.full(ball.shape, IGNORE, dtype=torch.uint8)
    middle = len(target) // 2
    target[middle] = ball[middle]
    one = pool(noise(tuple(ball.shape)), targets=[target], spacing_mm=spacing)
    found = amounts.shares(one, 1)
    assert found[1].item() == pytest.approx(ball.float().mean().item(), rel=0.05)


def test_scans_are_averaged_and_those_nobody_painted_left_out() -> None:
    painted = half_painted(2)
    alone = amounts.shares(painted.part([0]), 2)
    assert torch.equal(amounts.shares(painted, 2), alone)
    whole = [torch.full((4, 4, 4), label, dtype=torch.uint8) for label in (0, 1)]  # to the scan's ends
    assert amounts.shares(pool(noise((4, 4, 4)), noise((4, 4, 4)), targets=whole), 1).tolist() == [0.5, 0.5]


def test_strokes_on_slices_that_are_not_complete_let_nothing_be_expected() -> None:
    target = torch.full((4, 10, 10), IGNORE, dtype=torch.uint8)
    target[1, 3:5] = 1
    target[1, 7:9] = 0
    assert amounts.shares(pool(noise((4, 10, 10)), targets=[target]), 1).tolist() == [0, 0]


# --- what is labelled ------------------------------------------------------------------------------------


def test_enough_that_is_sure_changes_nothing() -> None:
    probability = torch.tensor([[[0.9, 0.8, 0.6, 0.45, 0.31, 0.2, 0.0, 0.0]]])
    plain = [1, 1, IGNORE, IGNORE, IGNORE, 0, 0, 0]
    assert labels(likely(probability), share=0.5).flatten().tolist() == plain
    assert labels(likely(probability), share=0.9, portion=0.0).flatten().tolist() == plain


def test_the_likeliest_voxels_are_labelled_until_the_portion_is_found() -> None:
    """Of 8 voxels 4 are to be expected; none is sure, so the 2 likeliest are labelled."""
    probability = torch.tensor([[[0.6, 0.45, 0.44, 0.3, 0.1, 0.0, 0.0, 0.0]]])
    found = labels(likely(probability), share=0.5, unclear=1.0)
    assert found.flatten().tolist() == [1, 1, IGNORE, IGNORE, 0, 0, 0, 0]


def test_what_may_well_be_a_class_found_too_seldom_is_not_called_background() -> None:
    probability = torch.tensor([[[0.6, 0.5, 0.29, 0.28, 0.27, 0.26, 0.01, 0.0]]])
    plain, open_ = (labels(likely(probability), share=0.5, unclear=each) for each in (0.1, 1.0))
    assert plain.flatten().tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert open_.flatten().tolist() == [1, 1, IGNORE, IGNORE, 0, 0, 0, 0]


def test_what_is_hardly_likely_is_never_labelled() -> None:
    probability = torch.full((1, 1, 8), 0.15)
    assert set(labels(likely(probability), share=0.9).flatten().tolist()) <= {0, IGNORE}


def test_every_class_has_thresholds_of_its_own_over_all_scans() -> None:
    """The first class is found, the second is not: only its threshold goes down, by both scans together."""
    one = likely(torch.tensor([[[0.9, 0.9, 0.5, 0.5]]]), best=torch.tensor([[[1, 1, 1, 2]]]))
    two = likely(torch.tensor([[[0.4, 0.3, 0.05, 0.05]]]), best=torch.tensor([[[2, 2, 2, 2]]]))
    least = amounts.thresholds([one, two], torch.tensor([0.25, 0.25, 0.5]), SURE, 0.5, 1.0)
    assert least.labels(one, SURE).flatten().tolist() == [1, 1, IGNORE, 2]
    assert least.labels(two, SURE).flatten().tolist() == [2, IGNORE, 0, 0]
    assert least.found.tolist() == [256, 256, 102]


def test_guesses_make_up_for_a_class_that_the_network_would_rather_miss() -> None:
    found = []
    for portion in (0.0, 0.5):
        task = tuning("self_training", sure=SURE, portion=portion)
        assert task.rounds is not None
        with torch.no_grad():
            task.modules["average"].head.conv.conv.bias.copy_(torch.tensor([2.0, 0.0, -1.0]))
        task.loss(seeded(), 0.5)
        targets = torch.cat([each.flatten() for each in task.rounds.guesses.pool.targets])
        found.append(int((targets == 2).sum()))
    painted = sum(int((each == 2).sum()) for each in half_painted().targets)
    assert found[0] < 1.1 * painted < 2 * painted < found[1]
