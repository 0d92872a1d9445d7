"""Strokes on their way to the annotation: a kill or a full disk costs the last one at most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl.core.errors import UserError
from medssl.core.project import stroke_log
from medssl.core.project.annotation import Annotation
from medssl.core.project.stroke_log import Stroke


def stroke(number: int, complete: tuple[tuple[int, int], ...] = ()) -> Stroke:
    return Stroke(np.array([number, number + 1]), np.array([1, 255], np.uint8), complete)


def empty() -> Annotation:
    return Annotation(np.zeros((3, 4, 5), np.uint8))


def test_strokes_come_back_in_their_order(tmp_path: Path) -> None:
    for number in (3, 4):
        stroke_log.append(tmp_path / "scan.strokes", stroke(number, ((0, number - 2),)))
    now = stroke_log.apply(empty(), stroke_log.read(tmp_path / "scan.strokes"))
    assert now.labels.reshape(-1)[:7].tolist() == [0, 0, 0, 1, 1, 255, 0] and now.complete == ((0, 2),)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2000))
def test_a_journal_cut_anywhere_keeps_all_whole_strokes(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "scan.strokes"
    ends = []
    for number in range(3):
        stroke_log.append(path, stroke(number))
        ends.append(stroke_log.length(path))
    path.write_bytes(path.read_bytes()[:at])
    assert len(stroke_log.read(path)) == sum(end <= at for end in ends)


def test_a_damaged_record_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "scan.strokes"
    for number in range(3):
        stroke_log.append(path, stroke(number))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert len(stroke_log.read(path)) == 1


def test_what_is_saved_is_dropped_and_what_came_since_stays(tmp_path: Path) -> None:
    path = tmp_path / "scan.strokes"
    stroke_log.append(path, stroke(0))
    size = stroke_log.length(path)
    stroke_log.append(path, stroke(7))
    stroke_log.drop(path, size)
    assert [each.voxels[0] for each in stroke_log.read(path)] == [7]
    stroke_log.drop(path, stroke_log.length(path))
    assert not path.exists()


def test_a_full_disk_leaves_the_journal_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.strokes"
    stroke_log.append(path, stroke(0))
    whole = path.read_bytes()

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *of: object) -> None:
            with path.open("rb+") as file:  # some of it got through
                file.seek(0, 2)
                file.write(b"STRK half")

        def write(self, content: bytes) -> int:
            raise OSError(28, "No space left on device")

    real = Path.open

    def opened(self: Path, mode: str = "r") -> object:
        return Full() if mode == "ab" else real(self, mode)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(UserError) as error:
        stroke_log.append(path, stroke(1))
    assert error.value.code == "disk-full" and path.read_bytes() == whole


def test_strokes_of_another_scan_are_left_out() -> None:
    far = Stroke(np.array([1000]), np.array([1], np.uint8))
    assert not stroke_log.apply(empty(), [far]).labels.any()
