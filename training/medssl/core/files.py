"""Atomic writing of files, and reading of JSON and arrays without executing anything in them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from medssl.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}


def portable_name(name: str) -> bool:
    """Whether Windows takes a file or folder of that name, too.

    There names of devices are reserved, whatever their case and ending, and ends that are dots or spaces get
    lost: a folder that is copied there could not be opened.
    """
    stem = name.partition(".")[0].rstrip(" ").lower()
    return (
        stem not in _DEVICES and name == name.rstrip(". ") and not re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: a crash, a kill or a full disk leaves the previous file unchanged.

    Args:
        path: The file; its folder is created if necessary.
        write: Writes the content to a temporary binary file in the same folder, which replaces `path` once
            its content is on the disk.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes private files; a project may be shared
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete temporary files of killed writers in a folder to which no other process is writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> UserError:
    """UserError ("disk-full", "not-writable") for an error while a file was written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{path} was not written because the disk is full; free some space and save again "
            "(what was there before is unchanged).",
            code="disk-full",
        )
    return UserError(
        f"{path} could not be written ({error.strerror or error}); choose a folder that you may write to.",
        code="not-writable",
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError ("missing", "unreadable")."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path.", code="missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); restore it from a backup or make it anew.",
            code="unreadable",
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, atomically.

    Args:
        array: The array (any shape).
    """
    import numpy as np  # here and below: the command line starts without it

    write_whole(path, lambda file: np.save(file, array, allow_pickle=False))


def read_array(path: Path, memory_map: bool = False) -> np.ndarray:
    """Read one .npy array without unpickling; with `memory_map` only the used pages are read.

    Raises:
        UserError: "missing", "unreadable".
    """
    import numpy as np

    path = Path(path)
    try:
        if memory_map:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path.", code="missing") from None
    except Exception as error:  # a damaged header makes numpy raise just about anything
        raise UserError(
            f"{path} is damaged or not an array file ({error}); delete it and make it anew.",
            code="unreadable",
        ) from error
