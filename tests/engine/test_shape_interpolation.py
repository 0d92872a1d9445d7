"""What is filled in between complete slices is uncertain: kept apart, weighed less, never truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.labels.shape_interpolation import fill
from medssl.core.project.annotation_file import FORMAT_VERSION, read_annotation, write_annotation
from medssl.core.project.project import IGNORE, SURE_BACKGROUND, Annotation, Project

SHAPE = (9, 24, 20)


def balls(axis: int = 0) -> Annotation:
    """A square in slice 1, a smaller one in slice 7, both complete."""
    labels = np.zeros(SHAPE, np.uint8)
    rows = np.moveaxis(labels, axis, 0)
    rows[1, 4:16, 4:16] = 3
    rows[7, 7:13, 7:13] = 3
    return Annotation(labels, ((axis, 1), (axis, 7)))


@pytest.mark.parametrize("index", [1, 4, 7])
def test_a_fill_goes_from_one_outline_to_the_other(index: int) -> None:
    interpolated = fill(balls(), 0, index, (1, 1, 1))
    areas = [np.count_nonzero(plane == 3) for plane in interpolated]
    assert areas[1] == areas[7] == areas[0] == areas[8] == 0, "complete slices and those outside stay"
    assert areas[2] > areas[4] > areas[6] > 0
    assert set(np.unique(interpolated[2:7])) == {3, SURE_BACKGROUND}


def test_a_fill_in_another_orientation() -> None:
    turned = Annotation(np.moveaxis(balls().labels, 0, 2).copy(), ((2, 1), (2, 7)))
    assert np.array_equal(np.moveaxis(fill(turned, 2, 4, (1, 1, 1)), 2, 0), fill(balls(), 0, 4, (1, 1, 1)))


def test_strokes_are_never_guessed_over() -> None:
    annotation = balls()
    annotation.labels[4, 9, 9], annotation.labels[4, 9, 10] = 5, SURE_BACKGROUND
    interpolated = fill(annotation, 0, 4, (1, 1, 1))
    assert interpolated[4, 9, 9] == interpolated[4, 9, 10] == 0 and interpolated[4, 9, 11] == 3


@pytest.mark.parametrize("axis, index", [(0, 0), (0, 8), (1, 4)])
def test_where_there_is_no_gap_it_is_said(axis: int, index: int) -> None:
    with pytest.raises(UserError, match="between two complete"):
        fill(balls(), axis, index, (1, 1, 1))


def test_guesses_come_back_and_are_no_truth(small_project: Project) -> None:
    shape = small_project.scans["scan"].geometry.shape_zyx
    interpolated = np.zeros(shape, np.uint8)
    interpolated[2, 3, 4] = 7
    small_project.save_annotation("scan", Annotation(np.zeros(shape, np.uint8), (), interpolated))
    back = small_project.annotation("scan")
    assert back is not None and np.array_equal(back.interpolated, interpolated) and not back.labels.any()
    assert (back.target() == IGNORE).all()
    assert small_project.annotated() == ()
    assert not small_project.segmentation("scan").any()


def test_a_person_s_word_takes_the_place_of_a_guess() -> None:
    labels, interpolated = np.zeros((3, 4, 5), np.uint8), np.full((3, 4, 5), 2, np.uint8)
    labels[0, 0, 0] = 1
    target = Annotation(labels, ((0, 2),), interpolated).interpolated_target()
    assert target is not None
    assert target[0, 0, 0] == IGNORE and (target[2] == IGNORE).all() and (target[1] == 2).all()


def test_an_annotation_of_the_first_version_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    labels, complete = np.full((1, 1, 1), 4, np.uint8), np.array([[0, 1]])
    np.savez_compressed(path, labels=labels, corner=[1, 2, 3], shape=[3, 4, 5], complete=complete)
    annotation = read_annotation(path, (3, 4, 5))
    assert annotation.labels[1, 2, 3] == 4 and annotation.complete == ((0, 1),)
    assert annotation.interpolated is None


def test_an_annotation_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.npz"
    with monkeypatch.context() as patch:
        patch.setattr("medssl.core.project.annotation_file.FORMAT_VERSION", FORMAT_VERSION + 1)
        write_annotation(path, balls(), SHAPE)
    with pytest.raises(UserError) as error:
        read_annotation(path, SHAPE)
    assert error.value.code == "newer-version"
