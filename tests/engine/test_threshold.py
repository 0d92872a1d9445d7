"""The decision for Dice, against all other thresholds on structures drawn as the probabilities say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from medssl.tasks.inference.location_prior import FAR_FACTOR, MARGIN, LocationPrior
from medssl.tasks.inference.threshold import MIN_THRESHOLD, DiceOptimalLabels
from torch import Tensor


def scores_of(*probabilities: Tensor) -> Tensor:
    """(slices, 1 + K, rows, columns) of each class's probabilities (slices, rows, columns)."""
    classes = torch.stack(probabilities, 1)
    return torch.cat([1 - classes.sum(1, keepdim=True), classes], 1)


def blob(sharp: float, height: float = 1.0, shape: tuple[int, int, int] = (10, 24, 24)) -> Tensor:
    """Probability that falls off from the middle; the larger `sharp`, the surer."""
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return height * torch.sigmoid(sharp * (0.5 - grid.norm(dim=0)))


def decided(scores: Tensor, slab: int = 4) -> Tensor:
    decision = DiceOptimalLabels(len(scores))
    for part in scores.split(slab):
        decision.add(part)
    return decision.labels()


def expected_dice(label: Tensor, probability: Tensor, draws: int = 200) -> float:
    """The mean Dice of a label against structures drawn voxel by voxel."""
    rng = np.random.default_rng(0)
    chances, found = probability.numpy(), label.numpy().astype(bool)
    values = []
    for _ in range(draws):
        truth = rng.random(chances.shape) < chances
        values.append(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    return float(np.mean(values))


@pytest.mark.parametrize(("sharp", "height"), [(40, 1.0), (8, 1.0), (4, 0.9), (8, 0.45), (20, 0.35)])
def test_no_threshold_is_expected_to_give_a_better_dice(sharp: float, height: float) -> None:
    probability = blob(sharp, height)
    ours = expected_dice(decided(scores_of(probability)), probability)
    levels = np.arange(MIN_THRESHOLD, 0.9, 0.05)
    others = [expected_dice(probability >= level, probability) for level in levels]
    assert ours > max(others) - 0.005


@pytest.mark.parametrize(("sharp", "height"), [(40, 1.0), (4, 0.9), (8, 0.45)])
def test_the_expected_dice_is_that_of_structures_drawn_as_the_probabilities_say(
    sharp: float, height: float
) -> None:
    probability = blob(sharp, height)
    decision = DiceOptimalLabels(len(probability))
    decision.add(scores_of(probability, torch.zeros_like(probability)))
    found, missing = decision.expected_dice()
    assert missing == 0
    assert abs(found - expected_dice(decision.labels(), probability)) < 0.005


def test_a_structure_that_is_unsure_everywhere_is_found_where_the_likeliest_class_says_nothing() -> None:
    probability = blob(30, 0.4)
    assert (scores_of(probability).argmax(1) == 0).all()
    found = decided(scores_of(probability)).bool()
    assert 2 * (found & (probability > 0.2)).sum() / (found.sum() + (probability > 0.2).sum()) > 0.95


def test_sure_probabilities_are_decided_as_by_the_likeliest_class() -> None:
    scores = scores_of(blob(200) * 0.5, 0.5 * blob(300)).softmax(1)
    confidence_threshold = torch.nn.functional.one_hot(scores.argmax(1), 3).movedim(-1, 1).float()
    assert torch.equal(decided(confidence_threshold), scores.argmax(1).byte())


def test_a_structure_that_is_not_there_is_not_invented() -> None:
    faint = 0.15 * torch.rand((6, 20, 20), generator=torch.Generator().manual_seed(0))
    assert not decided(scores_of(faint)).any()


def test_the_lowest_threshold_is_high_enough_itself() -> None:
    probability = torch.full((4, 8, 8), MIN_THRESHOLD - 0.01)
    probability[1] = MIN_THRESHOLD
    assert torch.equal(decided(scores_of(probability)) == 1, probability == MIN_THRESHOLD)


def test_every_class_has_a_threshold_of_its_own() -> None:
    """The sure class stays as it is while the unsure one is found at 0.35."""
    confidence_threshold, unsure = blob(60), torch.zeros(10, 24, 24)
    unsure[:, :3] = 0.35
    confidence_threshold[:, :3] = 0
    edge = (confidence_threshold > 0.36) & (confidence_threshold < 0.47)
    assert edge.any()
    found = decided(scores_of(confidence_threshold, unsure))
    assert (found[:, :3] == 2).all()
    assert not found[edge].any()


def test_slabs_make_no_difference() -> None:
    scores = torch.randn(11, 4, 9, 13, generator=torch.Generator().manual_seed(1)).mul(2).softmax(1)
    assert torch.equal(decided(scores, 3), decided(scores, 11))
    assert decided(scores).dtype == torch.uint8
    assert decided(scores).shape == (11, 9, 13)


def test_what_is_likelier_than_not_is_labelled() -> None:
    """Half of a Dice of 1 is the highest threshold that can be best, however the probabilities lie."""
    generator = torch.Generator().manual_seed(0)
    for steep in (0.2, 1.0, 5.0):
        probability = torch.rand((4, 16, 16), generator=generator) ** steep
        found = decided(scores_of(probability)).bool()
        assert found[probability > 0.51].all()


def test_much_that_is_faint_and_out_of_place_does_not_raise_the_threshold() -> None:
    """Taking faint voxels away makes a structure seem smaller than it is: its Dice may come out above 1."""
    probability = torch.full((40, 48, 44), 0.003)
    place = (slice(10, 14), slice(10, 14), slice(10, 14))
    probability[place] = 0.6
    probability[10:14, 10:14, 10:12] = 0.95
    decision = DiceOptimalLabels(len(probability))
    decision.add(scores_of(probability, torch.zeros_like(probability)))
    cells = torch.zeros(2, 10, 12, 11)
    cells[0, 2:4, 2:4, 2:4] = 1
    factors = torch.full((2, 42, 44, 43), FAR_FACTOR)
    factors[:, MARGIN + 2 : MARGIN + 4, MARGIN + 2 : MARGIN + 4, MARGIN + 2 : MARGIN + 4] = 1
    decision.apply_prior(LocationPrior(cells, factors, torch.ones(2), torch.tensor(4.0)), (1.0, 1.0, 1.0))
    found = decision.labels()
    assert (found[place] == 1).all()
    assert found.count_nonzero() == 4**3
