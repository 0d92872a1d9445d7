"""Journal of strokes, from which annotations are recovered after a crash of the viewer.

Writing a large annotation takes longer than a stroke. Each stroke is therefore appended here at once; the
annotation is written when the user pauses, and the strokes that it contains are dropped from the journal. A
record holds the changed voxels and their new labels.

A kill or a full disk can cut off the record that is being written, which nobody was told is saved: it is
removed before anything is appended. Any other damage costs the record that it is in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import cannot_read, cannot_write, exists, sync_folder, write_whole
from medssl.core.project.annotation import Annotation
from medssl.core.project.stroke_records import JournalContents, Stroke, parse, to_record


def journal_file(root: Path, scan_id: str) -> Path:
    """Path of the journal of a scan."""
    return Path(root) / "annotations" / f"{scan_id}.strokes"


def journal_length(path: Path) -> int:
    """Size of a journal in bytes; 0 if it does not exist. Raises UserError ("not-readable")."""
    return path.stat().st_size if exists(path) else 0


class StrokeLog:
    """The journal of one scan.

    One thread appends, drops and mends; any may call `sync`.

    Args:
        path: The journal, in a folder that exists when something is appended.
        shape_zyx: Shape of the scan.
    """

    def __init__(self, path: Path, shape_zyx: tuple[int, ...]) -> None:
        self.path, self._shape = path, shape_zyx
        self.size = 0
        """Size in bytes of what this object has read or appended."""
        self._new = True

    def read(self) -> JournalContents:
        """What the journal holds; nothing if it does not exist.

        Raises:
            UserError: "not-readable".
        """
        return parse(self._read(), self._shape)

    def append(self, stroke: Stroke) -> None:
        """Append a stroke. It survives a kill of the process; after `sync`, a power failure, too.

        Raises:
            UserError: "not-readable", "disk-full", "no-folder", "not-writable"; the strokes before it are
                unharmed then.
        """
        record = memoryview(to_record(stroke))
        if journal_length(self.path) != self.size:
            content = self._read()
            self.size = len(content) - parse(content, self._shape).torn
            self._cut()
        try:
            self._new = self._new or self.size == 0
            with self.path.open("ab", buffering=0) as file:
                written = 0
                while written < len(record):
                    written += file.write(record[written:])
        except OSError as error:
            with suppress(UserError):  # if this fails, too, the next call will do it
                self._cut()
            raise cannot_write(self.path, error) from error
        self.size += len(record)

    def _cut(self) -> None:
        """Remove a record that is cut off, before another one follows it."""
        if journal_length(self.path) > self.size:
            try:
                os.truncate(self.path, self.size)
            except OSError as error:
                raise cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Have all that was appended reach the disk; may run in another thread.

        Raises:
            UserError: "disk-full", "no-folder", "not-writable".
        """
        new, self._new = self._new, False
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self.path.parent.is_dir():
                return  # by now the annotation contains all of it
            self._new = new
            raise cannot_write(self.path, error) from error

    def drop(self, size: int) -> None:
        """Drop the first `size` bytes of the journal, whose strokes the annotation file now contains.

        Raises:
            UserError: "not-readable", "disk-full", "not-writable"; the journal is unharmed then.
        """
        if size:
            self._replace(self._read()[size : self.size])

    def mend(self) -> tuple[JournalContents, Path | None]:
        """Read the journal, and leave in it what could be read.

        A journal with damaged records is kept beside it, under a name that is not taken.

        Returns:
            What the journal holds, and where the damaged one is kept; None if it is not damaged.

        Raises:
            UserError: "not-readable", "disk-full", "not-writable"; the journal is unharmed then.
        """
        content = self._read()
        contents = parse(content, self._shape)
        kept = None
        if contents.damaged:
            kept = next(path for path in map(self._kept_file, count(1)) if not exists(path))
            write_whole(kept, lambda file: file.write(content))
            self._replace(b"".join(contents.records))
        self.size = sum(map(len, contents.records))
        self._cut()
        return contents, kept

    def _kept_file(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged-{number}")

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def _replace(self, content: bytes) -> None:
        if content:
            write_whole(self.path, lambda file: file.write(content))
        else:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(self.path, error) from error
        self.size = len(content)


def apply(annotation: Annotation, strokes: Sequence[Stroke]) -> Annotation:
    """Apply strokes of `StrokeLog.read` in order to a copy of an annotation."""
    labels = annotation.labels.copy()
    complete = annotation.complete
    for stroke in strokes:
        labels.reshape(-1)[stroke.voxels] = stroke.labels
        complete = stroke.complete
    return replace(annotation, labels=labels, complete=complete)
