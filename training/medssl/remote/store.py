"""There: files by their content, which jobs share and connections continue."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import cannot_write, make_folder, sha256_of, sync_folder

PART = ".part"
MARGIN_BYTES = 16 << 20
"""Room that is left for what a job writes."""
_NAME = re.compile(r"[0-9a-f]{64}")


class Store:
    """A folder of files that are called after their SHA-256; incomplete ones end in `.part`."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)

    def path(self, sha256: str) -> Path:
        """Where the file with a hash is, or would be."""
        if not _NAME.fullmatch(sha256):
            raise UserError(f"{sha256[:80]!r} is no SHA-256; update medssl.", code="bad-request")
        return self.folder / sha256

    def has(self, sha256: str) -> bool:
        """Whether a file is here and undamaged; a damaged one is deleted."""
        path = self.path(sha256)
        if not path.exists():
            return False
        if sha256_of(path) == sha256:
            return True
        path.unlink(missing_ok=True)
        return False

    def received(self, sha256: str) -> int:
        """Number of bytes of an incomplete file that have come."""
        path = self._part(sha256)
        return path.stat().st_size if path.exists() else 0

    def add(self, sha256: str, offset: int, size: int, content: bytes) -> bool | None:
        """Write bytes of a file.

        Args:
            sha256: Hash of the whole file.
            offset: Where the bytes belong: at the end of what has come.
            size: Number of bytes of the whole file.
            content: The bytes.

        Returns:
            None while it is incomplete; at the end, whether it has its hash. One that has not is deleted.

        Raises:
            UserError: "disk-full", "not-writable"; then what has come is deleted, which frees the disk.
        """
        part = self._part(sha256)
        try:
            with part.open("ab" if offset else "wb") as file:
                if file.tell() != offset:
                    part.unlink()
                    return False
                file.write(content)
                if offset + len(content) < size:
                    return None
                file.flush()
                os.fsync(file.fileno())
            if sha256_of(part) != sha256:
                part.unlink()
                return False
            part.replace(self.path(sha256))
            sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise cannot_write(self.path(sha256), error) from error
        return True

    def link(self, sha256: str, target: Path) -> None:
        """Give a file a second name.

        Args:
            sha256: Its hash.
            target: The name; its folder is created.

        Raises:
            UserError: "missing" if it is no longer here; "disk-full", "not-writable".
        """
        path = self.path(sha256)
        make_folder(target.parent)
        try:
            os.utime(path)  # it is needed: others give way before it
            try:
                os.link(path, target)
            except OSError:  # some drives know no links
                shutil.copyfile(path, target)
        except FileNotFoundError:
            raise UserError(f"{path} is no longer there; start the job again.", code="missing") from None
        except OSError as error:
            raise cannot_write(target, error) from error

    def discard(self, hashes: Iterable[str]) -> None:
        """Delete files, but not under their other names."""
        for sha256 in hashes:
            self.path(sha256).unlink(missing_ok=True)

    def keep(self, path: Path) -> None:
        """Keep a file under its hash, too, where drives know links."""
        with suppress(OSError):
            os.link(path, self.path(sha256_of(path)))

    def make_room(self, size: int, needed: Collection[str]) -> int:
        """Delete files that no job uses, the oldest first, until there is room for some bytes.

        Args:
            size: Number of bytes.
            needed: Hashes of files that stay.

        Returns:
            Number of free bytes.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size + MARGIN_BYTES:
            for path in sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime):
                if path.stem not in needed and path.stat().st_nlink == 1:
                    path.unlink()
                    free = shutil.disk_usage(self.folder).free
                    if free >= size + MARGIN_BYTES:
                        break
        return free

    def clear(self) -> int:
        """Delete all files; jobs keep those that they use. Returns the number of bytes."""
        paths = list(self.folder.iterdir())
        size = sum(path.stat().st_size for path in paths)
        for path in paths:
            path.unlink(missing_ok=True)
        return size

    def _part(self, sha256: str) -> Path:
        path = self.path(sha256)
        return path.with_name(path.name + PART)


def sha256_of_bytes(content: bytes) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()
