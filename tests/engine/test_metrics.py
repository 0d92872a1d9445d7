"""Surface distance and volume error by hand; Dice is in test_evaluate.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from medssl.benchmarking.metrics import hausdorff95_mm, measure
from medssl.core.labels.metrics import dice, volume_error

SPACING = (2.0, 1.0, 1.0)


def box(first: int, last: int, class_id: int = 1) -> np.ndarray:
    """Labels (12, 10, 10) with a block in the slices first..last - 1."""
    labels = np.zeros((12, 10, 10), dtype=np.uint8)
    labels[first:last, 3:7, 3:7] = class_id
    return labels


def test_dice_is_that_of_monai() -> None:
    from monai.metrics import compute_dice

    random = np.random.default_rng(0)
    labels, other = random.integers(0, 4, (2, 9, 8, 7))
    for class_id, ours in dice(labels, other, [1, 2, 3]).items():
        one, two = (torch.from_numpy(each == class_id)[None, None].float() for each in (labels, other))
        assert ours == pytest.approx(float(compute_dice(one, two, include_background=True)))


def test_a_block_that_is_moved_is_as_far_off_as_it_was_moved_in_mm() -> None:
    assert hausdorff95_mm(box(4, 8), box(5, 9), [1], SPACING)[1] == pytest.approx(2.0)


def test_the_distance_is_the_larger_of_both_directions() -> None:
    small, large = box(2, 4), box(2, 8)
    assert (
        hausdorff95_mm(small, large, [1], SPACING)[1] == hausdorff95_mm(large, small, [1], SPACING)[1] == 8.0
    )


def test_a_class_that_only_one_has_is_as_far_off_as_the_scan_is_large() -> None:
    diagonal = math.hypot(24, 10, 10)
    missed = hausdorff95_mm(np.zeros_like(box(2, 4)), box(2, 4), [1], SPACING)
    invented = hausdorff95_mm(box(2, 4), np.zeros_like(box(2, 4)), [1], SPACING)
    assert missed[1] == invented[1] == pytest.approx(diagonal)


def test_a_class_in_neither_has_no_distance() -> None:
    assert math.isnan(hausdorff95_mm(box(2, 4), box(2, 4), [2], SPACING)[2])


def test_volume_error_is_relative_to_the_true_volume_either_way() -> None:
    assert volume_error(box(2, 8), box(2, 6), [1])[1] == pytest.approx(0.5)
    assert volume_error(box(2, 4), box(2, 6), [1])[1] == pytest.approx(0.5)
    assert math.isnan(volume_error(box(2, 4), box(2, 4), [2])[2])


def test_all_measures_come_by_name_and_class() -> None:
    result = measure(box(2, 6), box(2, 6), [1], SPACING)
    assert result == {"dice": {1: 1.0}, "hausdorff95_mm": {1: 0.0}, "volume_error": {1: 0.0}}
