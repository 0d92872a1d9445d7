"""There: files by their content, which jobs share and connections continue."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from io import BufferedRandom
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
        self._parts: dict[str, BufferedRandom] = {}
        """Incomplete files of this process, which holds their locks, by hash."""

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
        """Number of bytes of an incomplete file that have come, and that nobody else goes on with."""
        if sha256 not in self._parts and not self._part(sha256).exists():
            return 0
        return self._open(sha256).seek(0, os.SEEK_END)

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
        try:
            file = self._open(sha256)
            if not offset:
                file.truncate(0)
            is_next = file.seek(0, os.SEEK_END) == offset
            if is_next:
                file.write(content)
                file.flush()
                if offset + len(content) < size:
                    return None
            whole = is_next and self._finish(sha256, file)
        except OSError as error:
            self._drop(sha256, delete=True)
            raise cannot_write(self.path(sha256), error) from error
        self._drop(sha256, delete=not whole)
        return whole

    def _finish(self, sha256: str, file: BufferedRandom) -> bool:
        """Give a file its name if it has its hash; returns whether it has."""
        os.fsync(file.fileno())
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
        try:
            Path(file.name).replace(self.path(sha256))
        except FileNotFoundError:  # another agent has deleted it to make room
            return False
        sync_folder(self.folder)
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
                if path.name.partition(".")[0] not in needed and path.stat().st_nlink == 1:
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

    def _open(self, sha256: str) -> BufferedRandom:
        """The incomplete file, locked: that of an earlier agent, or its own while another agent has that."""
        import fcntl

        if sha256 in self._parts:
            return self._parts[sha256]
        first = self._part(sha256)
        own = first.with_name(f"{sha256}.{os.getpid()}{PART}")
        for path in (first, own, own):  # once more, should another agent delete it to make room
            file = path.open("a+b")
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it has just become whole
                    return self._parts.setdefault(sha256, file)
            file.close()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _drop(self, sha256: str, delete: bool) -> None:
        """Go on with an incomplete file no longer."""
        if sha256 in self._parts:
            with self._parts.pop(sha256) as file, suppress(OSError):
                if delete:
                    Path(file.name).unlink(missing_ok=True)


def sha256_of_bytes(content: bytes) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()
