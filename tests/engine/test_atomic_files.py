"""Files are whole or not there: on a full disk, after a kill, and when somebody damaged them."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faulty_disk import FaultyDisk
from medssl.core.errors import UserError
from medssl.core.files import make_folder, read_array, write_array, write_whole
from medssl.core.json_files import read_json, write_json
from medssl.core.project.project import Project
from medssl.core.temporary_files import remove_unfinished


def refusal(error: pytest.ExceptionInfo[UserError], path: Path) -> str:
    """The error's code; its text names the file."""
    assert str(path) in str(error.value)
    return error.value.code


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes bytes, but has no room for them in the end."""

    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "kept.json"
    write_json(path, {"version": 1})
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError) as error:
        write_json(path, {"version": 2})
    assert refusal(error, path) == "disk-full"
    assert read_json(path) == {"version": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        write_json(tmp_path / "file" / "below.json", {})
    assert refusal(error, tmp_path / "file" / "below.json") == "not-writable"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_says_who_may_read_what_is_written(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "shared.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "shared.json").stat().st_mode & 0o777 == mode


def test_content_and_name_are_on_the_disk_in_this_order(tmp_path: Path) -> None:
    with FaultyDisk() as disk:
        write_json(tmp_path / "kept.json", {})
    assert disk.operations == ["open", "write", "fsync", "replace", "fsync", "unlink"]


def test_no_folder_comes_back_from_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "moved" / "file.json"
    with pytest.raises(UserError) as error:
        write_json(path, {})
    assert refusal(error, path) == "no-folder" and list(tmp_path.iterdir()) == []


def test_folders_are_made_where_they_are_asked_for(tmp_path: Path) -> None:
    with FaultyDisk() as disk:
        assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir() and disk.operations == ["fsync", "fsync"]
    make_folder(tmp_path / "a" / "b" / "c", below=tmp_path / "a")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    with pytest.raises(UserError) as error:
        make_folder(tmp_path / "x" / "y", below=tmp_path / "x")
    assert error.value.code == "no-folder" and not (tmp_path / "x").exists()


WRITE_AND_HANG = """
import sys, time
from pathlib import Path
from medssl.core.files import write_whole
def write(file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
write_whole(Path(sys.argv[1]), write)
"""


def test_what_killed_processes_were_writing_is_swept_and_nothing_else(tmp_path: Path) -> None:
    def writer() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WRITE_AND_HANG, str(tmp_path / "image.npy")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        return process

    with writer() as killed, writer() as living:
        killed.kill()
        killed.wait()
        (other,) = [each for each in tmp_path.iterdir() if f"-{killed.pid}-" not in each.name]
        foreign = [tmp_path / ".image.npy.abcd1234.tmp", tmp_path / "notes.tmp"]
        days_old, just_now = (tmp_path / f".image.npy.00000000-7-0000000{each}.tmp" for each in "12")
        for path in (*foreign, days_old, just_now):
            path.touch()
        os.utime(days_old, (0, 0))
        remove_unfinished(tmp_path)
        assert set(tmp_path.iterdir()) == {other, *foreign, just_now}
        living.kill()


def test_json_without_numbers_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null garbage", b"[NaN]", b"[-Infinity]"],
    ids=["empty", "cut off", "no text", "deep", "more behind", "not a number", "infinite"],
)
def test_damaged_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert refusal(error, path) == "unreadable"


def test_arrays_come_back_and_can_stay_on_disk(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    write_array(tmp_path / "image.npy", array)
    assert np.array_equal(read_array(tmp_path / "image.npy"), array)
    mapped = read_array(tmp_path / "image.npy", memory_map=True)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable


def test_arrays_of_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    objects = np.array([{}], dtype=object)
    with pytest.raises(ValueError):
        write_array(tmp_path / "objects.npy", objects)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    with pytest.raises(UserError) as error:
        read_array(tmp_path / "objects.npy")
    assert refusal(error, tmp_path / "objects.npy") == "unreadable"


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize(
    "content",
    [b"", b"no array", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", None],
    ids=["empty", "text", "header", "archive", "cut off"],
)
def test_damaged_arrays_are_refused(tmp_path: Path, content: bytes | None, memory_map: bool) -> None:
    path = tmp_path / "damaged.npy"
    if content is None:
        write_array(path, np.arange(1000))
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_array(path, memory_map)
    assert refusal(error, path) == "unreadable"


@pytest.mark.parametrize("read", [read_json, read_array])
def test_a_missing_file_is_said(tmp_path: Path, read: object) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "nothing")  # type: ignore[operator]
    assert refusal(error, tmp_path / "nothing") == "missing"


SAVE_IN_A_LOOP = """
import itertools, sys
import numpy as np
from medssl.core.project.project import Annotation, Project
project = Project.open(sys.argv[1])
(scan,) = project.scans
shape = project.scans[scan].geometry.shape_zyx
for number in itertools.count(int(sys.argv[2])):
    value = 1 + number % 254
    slices = tuple((0, index) for index in range(value % shape[0]))
    project.save_annotation(scan, Annotation(np.full(shape, value, np.uint8), slices))
    print("saved", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_at_any_moment_leaves_a_whole_annotation(small_project: Project) -> None:
    chance = random.Random(0)
    (scan,) = small_project.scans
    for start in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_IN_A_LOOP, str(small_project.root), str(start)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == b"saved\n"
            time.sleep(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        annotation = small_project.annotation(scan)
        assert annotation is not None
        (value,) = np.unique(annotation.labels)
        assert len(annotation.complete) == value % annotation.labels.shape[0]
        assert small_project.annotated() == (scan,)


def test_names_that_are_not_utf8_are_kept_in_json(tmp_path: Path) -> None:
    name = b"k\xf6rper.nii".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "file.json", {"source": name})
    assert read_json(tmp_path / "file.json") == {"source": name}
