"""Strokes on their way to the annotation: what was appended is read again, whatever happened to the file."""

from __future__ import annotations

import errno
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from faulty_disk import FaultyDisk
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl.core.errors import UserError
from medssl.core.project import stroke_log
from medssl.core.project.annotation import Annotation
from medssl.core.project.stroke_log import StrokeLog, journal_length
from medssl.core.project.stroke_records import HEADER, MAGIC, Stroke, parse, to_record

SHAPE = (3, 4, 5)


def stroke(number: int, complete: tuple[tuple[int, int], ...] = ()) -> Stroke:
    return Stroke(np.array([number, number + 1]), np.array([1, 255], np.uint8), complete)


def numbers(log: StrokeLog) -> list[int]:
    """The strokes in a journal."""
    return [int(each.voxels[0]) for each in log.read().strokes]


def opened(folder: Path) -> StrokeLog:
    """The journal as the next process finds it."""
    return StrokeLog(folder / "scan.strokes", SHAPE)


def filled(folder: Path, count: int = 3) -> tuple[StrokeLog, list[int]]:
    """A journal of some strokes, and where each ends."""
    log, ends = opened(folder), []
    for number in range(count):
        log.append(stroke(number))
        ends.append(log.size)
    return log, ends


def savez(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def append_payload(log: StrokeLog, payload: bytes) -> None:
    """A whole record, whatever it holds."""
    with log.path.open("ab") as file:
        file.write(HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload)


def test_strokes_come_back_in_their_order(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for number in (3, 4):
        log.append(stroke(number, ((0, number - 2),)))
    empty = Annotation(np.zeros(SHAPE, np.uint8))
    now = stroke_log.apply(empty, opened(tmp_path).read().strokes)
    assert now.labels.reshape(-1)[:7].tolist() == [0, 0, 0, 1, 1, 255, 0] and now.complete == ((0, 2),)


def test_what_is_appended_after_a_torn_record_is_never_lost(tmp_path: Path) -> None:
    """The file ends at every byte of the last record, as after a kill; the next process goes on."""
    log, ends = filled(tmp_path)
    whole = log.path.read_bytes()
    for end in range(ends[1], ends[2]):
        log.path.write_bytes(whole[:end])
        again = opened(tmp_path)
        again.append(stroke(7))
        again.append(stroke(8))
        assert numbers(opened(tmp_path)) == [0, 1, 7, 8], f"cut at {end - ends[1]} of the record"
        found, kept = opened(tmp_path).mend()
        assert found.damaged == 0 and kept is None


def test_a_torn_record_is_cut_off_when_the_journal_is_opened(tmp_path: Path) -> None:
    log, ends = filled(tmp_path)
    log.path.write_bytes(log.path.read_bytes()[: ends[2] - 1])
    found, kept = opened(tmp_path).mend()
    assert len(found.strokes) == 2 and found.damaged == 0 and kept is None
    assert log.path.stat().st_size == ends[1]


def test_a_byte_that_flips_costs_its_own_record_only(tmp_path: Path) -> None:
    """In each byte of each record, lengths and checksums too."""
    log, ends = filled(tmp_path)
    whole = log.path.read_bytes()
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 0x41
        found = parse(bytes(content), SHAPE)
        hit = sum(end <= at for end in ends)
        assert [each.voxels[0] for each in found.strokes] == [each for each in range(3) if each != hit], at
        assert found.damaged == 1 and found.torn == 0, at


def test_a_record_with_a_damaged_header_is_damaged_not_torn_off(tmp_path: Path) -> None:
    """It is the last one alone that a kill can cut off."""
    log, ends = filled(tmp_path)
    content = bytearray(log.path.read_bytes())
    content[ends[0] + len(MAGIC) : ends[0] + HEADER.size] = b"\xff" * (HEADER.size - len(MAGIC))
    contents = parse(bytes(content), SHAPE)
    assert [int(each.voxels[0]) for each in contents.strokes] == [0, 2]
    assert (contents.damaged, contents.torn) == (1, 0)


def test_a_damaged_journal_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    damaged = []
    for round_number in (1, 2):
        log, ends = filled(tmp_path)
        content = bytearray(log.path.read_bytes())
        content[ends[0] + 20] ^= 255
        log.path.write_bytes(content)
        found, kept = opened(tmp_path).mend()
        assert kept == tmp_path / f"scan.strokes.damaged-{round_number}" and found.damaged == 1
        assert numbers(opened(tmp_path)) == [0, 2]
        assert opened(tmp_path).mend()[1] is None, "it is reported once"
        damaged.append(bytes(content))
        log.path.unlink()
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == damaged


def test_strokes_after_a_record_that_an_earlier_version_left_torn_are_read(tmp_path: Path) -> None:
    log, ends = filled(tmp_path)
    content = log.path.read_bytes()
    log.path.write_bytes(content[: ends[0] + 30] + content[ends[1] :])
    assert numbers(opened(tmp_path)) == [0, 2]


WRONG = {
    "beyond the scan": {"voxels": np.array([60])},
    "negative": {"voxels": np.array([-1])},
    "a slice beyond the scan": {"complete": np.array([[0, 3]])},
    "a negative slice": {"complete": np.array([[1, -1]])},
    "a fourth axis": {"complete": np.array([[3, 0]])},
    "slices of three numbers": {"complete": np.array([[0, 0, 0]])},
    "labels of another length": {"labels": np.array([1, 2], np.uint8)},
    "one label for all": {"labels": np.array(1, np.uint8)},
    "labels of another type": {"labels": np.array([300])},
    "indices that are no integers": {"voxels": np.array([1.5])},
    "indices in a table": {"voxels": np.array([[1]]), "labels": np.array([[1]], np.uint8)},
    "indices of objects": {"voxels": np.array([None])},
    "text": {"voxels": np.array(["a"])},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_record_that_is_no_stroke_of_the_scan_is_left_out(
    wrong: dict[str, np.ndarray], tmp_path: Path
) -> None:
    log = opened(tmp_path)
    log.append(stroke(1))
    right = {"voxels": np.array([5]), "labels": np.ones(1, np.uint8), "complete": np.zeros((0, 2), np.int64)}
    append_payload(log, savez(**{**right, **wrong}))
    found, kept = opened(tmp_path).mend()
    assert [each.voxels[0] for each in found.strokes] == [1] and found.damaged == 1 and kept is not None


@pytest.mark.parametrize("payload", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY"])
def test_foreign_content_is_damage(payload: bytes, tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(stroke(1))
    append_payload(log, payload)
    append_payload(log, savez(voxels=np.array([1])))
    found = opened(tmp_path).read()
    assert len(found.strokes) == 1 and found.damaged == 2


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3))
def test_no_bytes_between_records_cost_a_whole_one(garbage: bytes, where: int) -> None:
    records = [to_record(stroke(number)) for number in range(3)]
    content = b"".join((*records[:where], garbage, *records[where:]))
    assert [each.voxels[0] for each in parse(content, SHAPE).strokes] == [0, 1, 2]


def test_what_is_saved_is_dropped_and_what_came_since_stays(tmp_path: Path) -> None:
    log, _ = filled(tmp_path, 1)
    size = log.size
    log.append(stroke(7))
    log.drop(size)
    assert numbers(log) == [7]
    log.append(stroke(8))
    assert numbers(log) == [7, 8]
    log.drop(log.size)
    assert not log.path.exists()
    log.append(stroke(9))
    assert numbers(opened(tmp_path)) == [9]


@pytest.mark.parametrize("how", ["error", "short"])
@pytest.mark.parametrize(("error", "code"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "not-writable")])
def test_every_operation_of_the_journal_may_fail(tmp_path: Path, how: str, error: int, code: str) -> None:
    """Strokes that were acknowledged are there, those that were refused are not, or whole."""
    for fail_at in range(9):
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        log, acknowledged, refused = opened(folder), list[int](), 0
        with FaultyDisk(fail_at, error, how) as disk:
            for number in range(3):
                try:
                    log.append(stroke(number))
                    acknowledged.append(number)
                    log.sync()
                except UserError as failure:
                    assert failure.code == code
                    refused += 1
        assert refused == 1, disk.operations
        assert numbers(opened(folder)) == acknowledged
        log.append(stroke(3))
        assert numbers(opened(folder)) == [*acknowledged, 3]


def test_a_torn_record_that_cannot_be_removed_at_once_is_removed_later(tmp_path: Path) -> None:
    log, _ = filled(tmp_path, 1)
    with FaultyDisk(1, errno.ENOSPC, "short", lasting=True) as disk, pytest.raises(UserError):
        disk.count = lambda name, adds=True, count=disk.count: count(name, adds) or name == "truncate"  # type: ignore[method-assign]
        log.append(stroke(1))
    assert journal_length(log.path) > log.size
    size = log.size
    log.append(stroke(2))
    log.drop(size)
    assert numbers(opened(tmp_path)) == [2]


def test_a_journal_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = filled(tmp_path)

    def broken(self: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    whole = log.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        for use in (opened(tmp_path).mend, lambda: opened(tmp_path).append(stroke(9)), log.read):
            with pytest.raises(UserError, match="check the drive") as error:
                use()
            assert error.value.code == "not-readable"
    assert log.path.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_file_and_folder_reach_the_disk(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with FaultyDisk() as disk:
        log.append(stroke(0))
        assert disk.operations == ["open", "write"]
        log.sync()
        assert disk.operations[2:] == ["open", "fsync", "fsync"], "the journal and its folder"
        log.append(stroke(1))
        log.sync()
        assert disk.operations[5:] == ["open", "write", "open", "fsync"]


def test_a_journal_whose_folder_has_gone_says_so_and_makes_none(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    log, _ = filled(folder)
    folder.rename(tmp_path / "moved")
    for use in (lambda: log.append(stroke(7)), log.sync):
        with pytest.raises(UserError) as error:
            use()
        assert error.value.code == "no-folder"
    assert not folder.exists()
    (tmp_path / "moved").rename(folder)
    log.append(stroke(7))
    assert numbers(opened(folder)) == [0, 1, 2, 7]
