"""What a person painted: it comes back, and only what was said is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.errors import UserError
from medssl.project import IGNORE, Annotation, Project
from project_parts import SHAPE, code_of, painted


def test_an_annotation_comes_back(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted(), ((2, 3), (0, 1))))
    annotation = Project.open(small_project.root).annotation("scan")
    assert annotation is not None
    assert np.array_equal(annotation.labels, painted())
    assert annotation.complete == ((0, 1), (2, 3))


def test_there_is_no_annotation_before_the_first(small_project: Project) -> None:
    assert small_project.annotation("scan") is None


def test_a_target_is_background_only_where_somebody_said_so() -> None:
    labels = painted(2)
    labels[4, 0, 0] = 255
    target = Annotation(labels, ((0, 2),)).target()
    assert (target[2][labels[2] == 2] == 2).all()
    assert (target[2][labels[2] == 0] == 0).all()
    assert target[4, 0, 0] == 0
    assert np.count_nonzero(target != IGNORE) == labels[2].size + 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_complete_slices_lie_along_their_axis(axis: int) -> None:
    target = Annotation(np.zeros(SHAPE, np.uint8), ((axis, 3),)).target()
    known = np.moveaxis(target == 0, axis, 0)
    assert known[3].all()
    assert not np.delete(known, 3, axis=0).any()


def test_a_target_leaves_the_annotation_alone() -> None:
    annotation = Annotation(painted(255), ((0, 2),))
    annotation.target()
    assert np.array_equal(annotation.labels, painted(255))


@pytest.mark.parametrize(
    "annotation, code",
    [
        (Annotation(np.zeros((6, 10, 9), np.uint8)), "wrong-shape"),
        (Annotation(np.zeros(SHAPE[1:], np.uint8)), "wrong-shape"),
        (Annotation(painted(), ((0, 6),)), "wrong-shape"),
        (Annotation(painted(), ((3, 0),)), "wrong-shape"),
        (Annotation(painted().astype(np.int64) * 256), "not-labels"),
        (Annotation(painted().astype(np.float32)), "not-labels"),
    ],
)
def test_an_annotation_of_another_scan_is_refused(
    small_project: Project, annotation: Annotation, code: str
) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    with pytest.raises(UserError) as error:
        small_project.save_annotation("scan", annotation)
    assert code_of(error) == code
    assert np.array_equal(small_project.annotation("scan").labels, painted())  # type: ignore[union-attr]


def test_whole_numbers_of_another_type_are_taken(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted().astype(np.int64)))
    assert small_project.annotation("scan").labels.dtype == np.uint8  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "annotation, expected",
    [
        (Annotation(painted()), ("scan",)),
        (Annotation(painted(255)), ("scan",)),
        (Annotation(np.zeros(SHAPE, np.uint8), ((1, 2),)), ("scan",)),
        (Annotation(np.zeros(SHAPE, np.uint8)), ()),
    ],
    ids=["painted", "background", "complete", "empty"],
)
def test_annotated_are_scans_that_somebody_said_something_about(
    small_project: Project, annotation: Annotation, expected: tuple[str, ...]
) -> None:
    small_project.save_annotation("scan", annotation)
    assert small_project.annotated() == expected


def test_scans_held_out_do_not_count_as_annotated(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    small_project.hold_out("scan")
    assert small_project.annotated() == ()


@pytest.mark.parametrize(
    "content", ["cut", "text", "array", "pickle", "other arrays", "floats", "other scan"]
)
def test_a_damaged_annotation_is_said(small_project: Project, content: str) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    path = small_project.root / "annotations" / "scan.npz"
    before = path.read_bytes()
    none_complete = np.zeros((0, 2), np.int64)
    with path.open("wb") as file:
        match content:
            case "cut":
                file.write(before[:100])
            case "text":
                file.write(b"hello")
            case "array":
                np.save(file, painted())
            case "pickle":
                np.savez(file, labels=np.array([{}], object), complete=none_complete)
            case "other arrays":
                np.savez(file, something=painted())
            case "floats":
                np.savez(file, labels=painted().astype(float), complete=none_complete)
            case "other scan":
                np.savez(file, labels=np.zeros((2, 2, 2), np.uint8), complete=none_complete)
    with pytest.raises(UserError) as error:
        small_project.annotation("scan")
    assert code_of(error) == ("wrong-shape" if content == "other scan" else "unreadable")
