"""Files written whole or not at all, arrays read without executing anything in them, and errors of both."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from medssl.core.errors import UserError
from medssl.core.temporary_files import temporary_file

if TYPE_CHECKING:
    import numpy as np


_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}
PROBE_BYTES = 4096
"""An empty file is created on a full disk, too."""
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def portable_name(name: str) -> bool:
    """Whether Windows takes a file or folder of that name, too.

    There names of devices are reserved, whatever their case and ending, and ends that are dots or spaces get
    lost: a folder that is copied there could not be opened.
    """
    stem = name.partition(".")[0].rstrip(" ").lower()
    return (
        stem not in _DEVICES and name == name.rstrip(". ") and not re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
    )


def usable_in_paths(text: str) -> bool:
    """Whether the system takes a text for a path, which need not exist; none has a zero in it."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises UserError ("missing", "not-readable")."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from error


# --- writing -----------------------------------------------------------------------------------------


_hashes: dict[tuple[Path, int, int], str] = {}
"""SHA-256 by path, time and size of a file."""


def cached_sha256(path: Path, if_known: bool = False) -> str:
    """SHA-256 of a file, computed once in a process, and again when the file's time or size has changed.

    Args:
        if_known: Return "" where it has not been computed yet, which takes a second for a gigabyte.
    """
    status = path.stat()
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _hashes and not if_known:
        _hashes[key] = sha256_of(path)
    return _hashes.get(key, "")


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: a crash, a kill or a full disk leaves the previous file unchanged.

    When it returns, content and name are on the disk.

    Args:
        path: The file. Its folder must exist: a project that was moved away must not come back as a folder
            with one file (see `make_folder` and `Project.make_folder`).
        write: Writes the content to a temporary binary file in the same folder, which replaces `path` once
            its content is on the disk.

    Raises:
        UserError: "disk-full", "no-folder", "not-writable".
    """
    path = Path(path)
    temporary = temporary_file(path)
    try:
        with temporary.open("xb") as file:  # with the permissions that the umask leaves
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have new, renamed and deleted names in a folder reach the disk, where the system offers that.

    Raises:
        OSError: The disk refuses.
    """
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # some network drives know no such thing
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path, below: Path | None = None) -> Path:
    """Create a folder, unless it exists.

    Args:
        folder: The folder.
        below: Create only what is below this folder, which must exist; None creates all folders above, too.

    Returns:
        The folder.

    Raises:
        UserError: "disk-full", "no-folder", "not-writable".
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        for each in reversed(missing):
            if below is not None and below not in each.parents:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with suppress(FileExistsError):
                each.mkdir()
            sync_folder(each.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def check_writable(path: Path) -> None:
    """Require that a file can be written, before minutes are spent on its content; creates its folder.

    Raises:
        UserError: "disk-full", "no-folder", "not-writable".
    """
    make_folder(path.parent)
    probe = temporary_file(path)
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> UserError:
    """UserError ("disk-full", "no-folder", "not-writable") for an error while a file was written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{path} was not written because the disk is full; free some space and save again "
            "(what was there before is unchanged).",
            code="disk-full",
        )
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return UserError(
            f"{path} was not written because the folder {path.parent} is no longer there; move it back, or "
            "choose another one.",
            code="no-folder",
        )
    what = "a shorter name" if error.errno == errno.ENAMETOOLONG else "a folder that you may write to"
    return UserError(
        f"{path} could not be written ({error.strerror or error}); choose {what}.",
        code="not-writable",
    )


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, atomically.

    Args:
        array: The array (any shape).
    """
    import numpy as np  # here and below: the command line starts without it

    write_whole(path, lambda file: np.save(file, array, allow_pickle=False))


# --- reading -----------------------------------------------------------------------------------------


def from_system(error: BaseException) -> bool:
    """Whether an error while a file was read came from drive, network or permissions, not from its content.

    Damaged content makes libraries raise OSErrors as well: without a number, or for an invalid position.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def cannot_read(path: Path, error: OSError) -> UserError:
    """UserError ("missing", "not-readable") for an error of the system while a file was read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} does not exist; check the path.", code="missing")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path} is a folder; give a file.", code="not-readable")
    return UserError(
        f"{path} could not be read ({error.strerror or error}); check the drive and your permissions, the "
        "file itself may be intact.",
        code="not-readable",
    )


def exists(path: Path) -> bool:
    """Whether a file or folder is there. Raises UserError ("not-readable") where that cannot be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise cannot_read(path, error) from error
    return True


def check_readable(path: Path, error: BaseException) -> None:
    """Tell a drive that cannot be read from a file that is damaged, after reading has failed.

    Args:
        path: The file, or a folder of files.
        error: What reading has raised. Some libraries hide the error of the system, so unless it is one, the
            file is read again, to its end.

    Raises:
        UserError: "missing", "not-readable".
    """
    if isinstance(error, OSError) and from_system(error):
        raise cannot_read(path, error) from error
    try:
        files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
    except OSError as failure:
        raise cannot_read(path, failure) from failure
    for file in files:
        sha256_of(file)


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises UserError ("missing", "not-readable")."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error


def read_array(path: Path, memory_map: bool = False) -> np.ndarray:
    """Read one .npy array without unpickling; with `memory_map` only the used pages are read.

    Raises:
        UserError: "missing", "not-readable", "unreadable".
    """
    import numpy as np

    path = Path(path)
    try:
        if memory_map:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy raise just about anything
        if isinstance(error, OSError) and from_system(error):
            raise cannot_read(path, error) from error
        raise UserError(
            f"{path} is damaged or not an array file ({error}); delete it and make it anew.",
            code="unreadable",
        ) from error
