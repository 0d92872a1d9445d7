"""Strokes on their way to the annotation file: a journal that a killed viewer leaves behind.

Writing all of a large annotation takes longer than a stroke. So each stroke is appended here at once, and the
annotation is written when the hand rests; what came in until then is dropped from the journal. Each record
says which voxels changed to what. A record that was cut short by a kill or a full disk ends the journal.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.core.files import cannot_write, write_whole
from medssl.core.project.annotation import Annotation

HEAD = struct.Struct("<4sII")
"""Before each record: a mark, its length in bytes, its checksum."""
MARK = b"STRK"


@dataclass(frozen=True)
class Stroke:
    """voxels: (N,) flat indices into (Z, Y, X), C order; labels: (N,) uint8, what they became.

    complete: (canonical axis, index) of all slices that were complete after it.
    """

    voxels: np.ndarray
    labels: np.ndarray
    complete: tuple[tuple[int, int], ...] = ()


def journal_file(root: Path, scan_id: str) -> Path:
    """Where a project keeps a scan's journal."""
    return Path(root) / "annotations" / f"{scan_id}.strokes"


def length(path: Path) -> int:
    """Bytes in the journal, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def append(path: Path, stroke: Stroke) -> None:
    """Add a stroke; a kill right afterwards does not lose it (a power cut may).

    Raises UserError ("disk-full", "not-writable"); the journal is then as before.
    """
    content = io.BytesIO()
    complete = np.array(stroke.complete, np.int64).reshape(-1, 2)
    voxels, labels = stroke.voxels.astype(np.int64), stroke.labels.astype(np.uint8)
    np.savez(content, voxels=voxels, labels=labels, complete=complete)
    payload = content.getvalue()
    before = length(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(HEAD.pack(MARK, len(payload), zlib.crc32(payload)) + payload)
    except OSError as error:
        _cut(path, before)
        raise cannot_write(path, error) from error


def _cut(path: Path, size: int) -> None:
    """Take back what a full disk let through of a record: nothing after it could be read."""
    if length(path) > size:
        with path.open("rb+") as file:
            file.truncate(size)


def drop(path: Path, size: int) -> None:
    """Forget the first `size` bytes: they are in the annotation now."""
    if length(path) <= size:
        path.unlink(missing_ok=True)
        return
    rest = path.read_bytes()[size:]
    write_whole(path, lambda file: file.write(rest))


def read(path: Path) -> list[Stroke]:
    """The strokes up to the first record that is not whole; none where there is no journal."""
    content = path.read_bytes() if path.exists() else b""
    strokes, at = [], 0
    while at + HEAD.size <= len(content):
        mark, size, checksum = HEAD.unpack_from(content, at)
        payload = content[at + HEAD.size : at + HEAD.size + size]
        if mark != MARK or len(payload) < size or zlib.crc32(payload) != checksum:
            break
        strokes.append(_stroke(payload))
        at += HEAD.size + size
    return strokes


def _stroke(payload: bytes) -> Stroke:
    with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
        complete = tuple((int(axis), int(index)) for axis, index in stored["complete"])
        return Stroke(stored["voxels"], stored["labels"], complete)


def apply(annotation: Annotation, strokes: list[Stroke]) -> Annotation:
    """A copy of the annotation with the strokes on it, the last one on top.

    Strokes that reach out of the scan (of another one, by its file's name) are left out.
    """
    labels = annotation.labels.copy()
    complete = annotation.complete
    for stroke in strokes:
        if len(stroke.voxels) == 0 or stroke.voxels.max() < labels.size:
            labels.reshape(-1)[stroke.voxels] = stroke.labels
            complete = stroke.complete
    return replace(annotation, labels=labels, complete=complete)
