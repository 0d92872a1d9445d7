"""Pseudo-labels: how much of the scans a round labels, and that the location prior acts on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.models.unet import Network, build
from medssl.tasks.inference.location_prior import MARGIN, LocationPrior
from medssl.tasks.segment import pseudo_labels
from medssl.tasks.segment.finetune_step import Finetuning
from medssl.tasks.segment.pseudo_labels import PseudoLabels, Settings
from small import Events, dataset, noise, plan, seeded
from tuning import CLASSES, IGNORE, SCAN, tuning

SURE = Settings(confidence_threshold=0.0)


def sees_the_second_class() -> Network:
    network = build(plan(), len(CLASSES) + 1, 0)
    with torch.no_grad():
        network.head.conv.conv.bias.copy_(torch.tensor([0.0, 0.0, 1e3]))
    return network


def unpainted(count: int) -> DeviceDataset:
    images = [noise(SCAN, seed) for seed in range(count)]
    return dataset(*images, targets=[torch.full(SCAN, IGNORE, dtype=torch.uint8)] * count)


def test_a_round_labels_neighbouring_slices_of_large_scans_until_it_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slices, scans = 3, pseudo_labels.SCANS_A_ROUND
    monkeypatch.setattr(pseudo_labels, "SLICES_A_SCAN", 1)
    monkeypatch.setattr(pseudo_labels, "VOXELS_A_ROUND", {"cpu": scans * slices * SCAN[1] * SCAN[2]})
    labels = PseudoLabels(unpainted(scans + 4), SURE, CLASSES, Events())
    labels.refresh(sees_the_second_class(), plan(), seeded())
    assert len(set(labels.dataset.ids)) == len(labels.dataset.ids) == scans
    firsts = set()
    for target in labels.dataset.targets:
        (labelled,) = (target != IGNORE).all((1, 2)).nonzero(as_tuple=True)
        assert (target != IGNORE).any((1, 2)).sum() == slices
        assert labelled.tolist() == list(range(labelled[0], labelled[0] + slices))
        firsts.add(int(labelled[0]))
    assert {0, SCAN[0] - slices} <= firsts


def test_what_lies_far_from_its_class_s_place_is_not_guessed() -> None:
    cells = torch.ones(2, 5, 12, 10)
    size = [length + 2 * MARGIN for length in cells.shape[1:]]
    for factor, pseudo_labelled in ((1.0, 2), (0.0, 0)):
        location_prior = LocationPrior(
            cells, torch.full((2, *size), factor), torch.ones(2), torch.tensor(2.0)
        )
        labels = PseudoLabels(unpainted(1), SURE, CLASSES, Events(), location_prior)
        labels.refresh(sees_the_second_class(), plan(), seeded())
        assert (labels.dataset.targets[0] == pseudo_labelled).all()


def cost_steps(task: Finetuning, steps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that cost so many steps, and may be half of the work."""
    assert task.rounds is not None
    monkeypatch.setattr(task.rounds.pseudo_labels, "cost_in_steps", lambda plan: steps)
    monkeypatch.setattr(task.rounds, "settings", replace(task.rounds.settings, max_round_share=0.5))


def test_the_cost_of_a_round_is_that_of_its_voxels_in_all_orientations() -> None:
    """Against three times the pixels of a batch."""
    scans, small = unpainted(3), plan(2, multiplanar=True)
    voxels, pixels = 3 * scans.images[0].numel(), small.batch * math.prod(small.patch_vox[1:])
    labels = PseudoLabels(scans, SURE, CLASSES, Events())
    assert labels.voxel_budget()[1] > scans.images[0].numel(), "whole scans"
    assert labels.cost_in_steps(small) == pytest.approx(2 * voxels / (3 * pixels))
    assert labels.cost_in_steps(replace(small, multiplanar=False)) == pytest.approx(voxels / (3 * pixels))


def test_a_round_of_large_scans_costs_its_slabs_in_one_orientation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pseudo_labels.VOXELS_A_ROUND, "cpu", 160)
    small = plan(2, multiplanar=True)
    labels = PseudoLabels(unpainted(3), SURE, CLASSES, Events())
    assert labels.cost_in_steps(small) == pytest.approx(
        160 / (3 * small.batch * math.prod(small.patch_vox[1:]))
    )


@pytest.mark.parametrize(("steps", "fraction", "due"), [(8, 0.5, True), (8, 0.6, False), (7, 0.5, False)])
def test_a_round_needs_steps_before_it_and_as_many_in_the_rest(
    steps: int, fraction: float, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps in 60 % leave five, and the round costs eight: it would be made for nothing."""
    task = tuning("self_training", rounds=(0.35,))
    assert task.rounds is not None
    cost_steps(task, 8, monkeypatch)
    for _ in range(steps - 1):  # `tuning` remembers the first
        task.rounds.remember(torch.tensor(0.0))
    made = task.rounds.pseudo_labels_at(fraction, task.average, task.plan, seeded())
    assert (made is not None) == due


@pytest.mark.parametrize(("share", "due"), [(0.0, False), (1.0, True)])
def test_rounds_may_be_no_part_of_the_work_or_all_of_it(share: float, due: bool) -> None:
    task = tuning("self_training", rounds=(0.35,), max_round_share=share)
    assert task.rounds is not None
    assert (task.rounds.pseudo_labels_at(0.5, task.average, task.plan, seeded()) is not None) == due


def test_the_steps_that_are_left_are_counted_from_the_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tuning("self_training", rounds=(0.1, 0.5))
    assert task.rounds is not None
    cost_steps(task, 8, monkeypatch)
    made = []
    for fraction in (0.2, 0.6):
        for _ in range(8):
            task.rounds.remember(torch.tensor(0.0))
        task.rounds.pseudo_labels_at(fraction, task.average, task.plan, seeded())
        made.append(int(task.rounds.round))
    assert made == [1, 2], "eight steps in 40 % leave eight in the last 40 %"
