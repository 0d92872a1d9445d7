"""What a person painted: it comes back, and only what was said is learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from medssl.core.errors import UserError
from medssl.core.project.annotation_file import read_annotation, write_annotation
from medssl.core.project.project import IGNORE, SURE_BACKGROUND, Annotation, Project
from project_parts import SHAPE, code_of, painted

SMALL = (3, 4, 5)
SLICES = st.integers(0, 2).flatmap(lambda axis: st.tuples(st.just(axis), st.integers(0, SMALL[axis] - 1)))


def test_an_annotation_comes_back(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted(), ((2, 3), (0, 1))))
    annotation = Project.open(small_project.root).annotation("scan")
    assert annotation is not None
    assert np.array_equal(annotation.labels, painted())
    assert annotation.complete == ((0, 1), (2, 3))


@pytest.mark.parametrize("place", [(0, 0, 0), (5, 8, 9), (2, 0, 9)])
def test_a_single_voxel_comes_back_where_it_was(small_project: Project, place: tuple[int, int, int]) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[place] = 200
    small_project.save_annotation("scan", Annotation(labels))
    assert np.array_equal(small_project.annotation("scan").labels, labels)  # type: ignore[union-attr]


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
    "content", ["cut", "text", "array", "pickle", "other arrays", "floats", "outside", "other scan"]
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
                floats = painted().astype(float)
                np.savez(file, labels=floats, corner=[0] * 3, shape=SHAPE, complete=none_complete)
            case "outside":
                np.savez(file, labels=painted(), corner=[0, 0, 1], shape=SHAPE, complete=none_complete)
            case "other scan":
                np.savez(file, labels=painted(), corner=[0] * 3, shape=[99] * 3, complete=none_complete)
    with pytest.raises(UserError) as error:
        small_project.annotation("scan")
    assert code_of(error) == ("wrong-shape" if content == "other scan" else "unreadable")


@settings(max_examples=60, deadline=None)
@given(st_numpy.arrays(np.uint8, SMALL), st.lists(SLICES, max_size=4))
def test_every_voxel_gets_what_the_rules_say(labels: np.ndarray, complete: list[tuple[int, int]]) -> None:
    target = Annotation(labels, tuple(complete)).target()
    for place, value in np.ndenumerate(labels):
        inside = any(place[axis] == index for axis, index in complete)
        background = value == SURE_BACKGROUND or (value == 0 and inside)
        assert target[place] == (0 if background else IGNORE if value == 0 else value)


@settings(max_examples=30, deadline=None)
@given(st_numpy.arrays(np.uint8, SMALL), st.lists(SLICES, max_size=4, unique=True))
def test_any_annotation_comes_back(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, complete: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("annotation") / "scan.npz"
    write_annotation(path, Annotation(labels, tuple(complete)), SMALL)
    back = read_annotation(path, SMALL)
    assert np.array_equal(back.labels, labels)
    assert back.complete == tuple(sorted(complete))


def test_bytes_damaged_anywhere_give_a_sentence_or_an_annotation(tmp_path: Path) -> None:
    path, generator = tmp_path / "scan.npz", np.random.default_rng(1)
    labels = generator.integers(0, 256, SMALL, np.uint8)
    write_annotation(path, Annotation(labels, ((0, 1),)), SMALL)
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for at in generator.integers(len(whole), size=2):
            damaged[at] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            read_annotation(path, SMALL).target()
        except UserError as error:
            assert str(path) in str(error)


class Trap:
    """Leaves a mark if somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_nothing_in_the_file_is_unpickled(small_project: Project, tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    folder = small_project.root / "annotations"
    folder.mkdir()
    np.savez(folder / "scan.npz", labels=trap, corner=trap, shape=trap, complete=trap)
    with pytest.raises(UserError) as error:
        small_project.annotation("scan")
    assert code_of(error) == "unreadable"
    assert small_project.annotated() == ()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("slices", [[[0, 3]], [[7, 0]], [[0, -1]]])
def test_a_file_with_slices_outside_the_scan_is_refused(tmp_path: Path, slices: list[list[int]]) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, labels=np.zeros(SMALL, np.uint8), corner=[0] * 3, shape=SMALL, complete=slices)
    with pytest.raises(UserError) as error:
        read_annotation(path, SMALL)
    assert code_of(error) == "wrong-shape"
