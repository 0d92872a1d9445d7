"""Temporary files and folders: named after their process, so that those of killed ones can be told."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import time
import zlib
from contextlib import suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
"""Name of a temporary file, with machine and process."""
_ABANDONED_S = 24 * 3600.0
"""Age at which the temporary file of another machine counts as abandoned."""


def temporary_file(path: Path) -> Path:
    """A new name in the folder of `path` for what will replace it, or for what is deleted there."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_unfinished(folder: Path) -> None:
    """Delete temporary files and folders of writers that were killed; those of writers at work stay.

    A writer on another machine cannot be asked: its files are deleted when they are a day old.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            written_by = _TEMPORARY.fullmatch(path.name)
            if written_by and _abandoned(path, written_by[1], int(written_by[2])):
                with suppress(OSError):  # Windows keeps what another process has open
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _abandoned(path: Path, machine: str, process: int) -> bool:
    if machine != _machine():
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    if process == os.getpid():
        return False
    if os.name == "nt":
        return True  # os.kill would end the process; an open file cannot be deleted anyway
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # it runs under another user
    return False


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def private_folder(path: Path) -> Path:
    """Create a folder that only this account may read, unless it exists; returns it."""
    path.mkdir(mode=0o700, exist_ok=True)
    return path
