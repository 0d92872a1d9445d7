"""The simulated annotator: which slices, and what is known afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.errors import UserError


def block(first: int, last: int, length: int = 40) -> np.ndarray:
    """Labels (Z, Y, X) with class 1 in the slices first..last."""
    labels = np.zeros((length, 8, 6), dtype=np.uint8)
    labels[first : last + 1, 2:5, 1:4] = 1
    return labels


def test_slices_go_from_two_before_to_two_after_evenly() -> None:
    assert choose_slices(block(10, 26), 5) == (8, 13, 18, 23, 28)


def test_slices_stay_inside_the_scan() -> None:
    assert choose_slices(block(1, 38), 3) == (0, 20, 39)


def test_slices_are_distinct_where_the_structure_is_thin() -> None:
    assert choose_slices(block(10, 10), 9) == (8, 9, 10, 11, 12)


def test_a_structure_that_runs_out_of_the_scan_does_not_draw_slices_away_from_the_others() -> None:
    labels = block(10, 26)
    labels[:, 6, :] = 2  # like a spine
    assert choose_slices(labels, 5) == choose_slices(block(10, 26), 5)


def test_a_structure_that_fills_the_scan_is_annotated_from_end_to_end() -> None:
    assert choose_slices(block(0, 39), 3) == (0, 20, 39)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_slices_lie_inside_the_structure(count: int) -> None:
    chosen = choose_slices(block(10, 26), count)
    assert len(chosen) == count
    assert all(10 < index < 26 for index in chosen)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_follow_the_axis(axis: int) -> None:
    labels = np.moveaxis(block(10, 26), 0, axis)
    assert choose_slices(labels, 5, axis) == (8, 13, 18, 23, 28)


@pytest.mark.data
def test_hippocampus_lies_inside_its_scans_so_the_whole_structure_counts(data: Path) -> None:
    from medssl.core.io.labels import read_labels

    for path in sorted((data / "Task04_Hippocampus" / "labelsTr").iterdir())[::20]:
        labels = read_labels(path).array
        assert choose_slices(labels, 5) == choose_slices((labels > 0).astype(np.uint8), 5)


def test_labels_without_a_structure_are_refused() -> None:
    with pytest.raises(UserError, match="no structure"):
        choose_slices(np.zeros((4, 4, 4), dtype=np.uint8), 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_annotation_knows_its_slices_and_nothing_else(axis: int) -> None:
    labels = np.moveaxis(block(10, 26), 0, axis)
    target = np.moveaxis(annotate(labels, (8, 18), axis).target(), axis, 0)
    assert np.array_equal(target[[8, 18]], block(10, 26)[[8, 18]])
    assert np.all(np.delete(target, [8, 18], axis=0) == 255)


@pytest.mark.data
def test_hippocampus_slices_are_axial_and_reach_past_both_ends(data: Path) -> None:
    from medssl.core.io.labels import read_labels

    labels = read_labels(data / "Task04_Hippocampus" / "labelsTr" / "hippocampus_001.nii.gz").array
    chosen = choose_slices(labels, 5)
    assert chosen == (3, 10, 17, 24, 31)  # the structure fills slices 5..29 of the file's axis 2
    assert [bool(labels[index].any()) for index in chosen] == [False, True, True, True, False]
