"""Journal of strokes, from which annotations are recovered after a crash of the viewer.

Writing a large annotation takes longer than a stroke. Each stroke is therefore appended here at once; the
annotation is written when the user pauses, and the strokes that it contains are dropped from the journal. A
record holds the changed voxels and their new labels. A record that is incomplete after a kill or on a full
disk ends the journal.
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

HEADER = struct.Struct("<4sII")
"""Before each record: magic number, length in bytes, checksum."""
MAGIC = b"STRK"


@dataclass(frozen=True)
class Stroke:
    """A change of an annotation.

    Attributes:
        voxels: (N,) flat indices into (Z, Y, X), C order, of the changed voxels.
        labels: (N,) uint8, their new labels.
        complete: (canonical axis, index) of all slices that were complete after the stroke.
    """

    voxels: np.ndarray
    labels: np.ndarray
    complete: tuple[tuple[int, int], ...] = ()


def journal_file(root: Path, scan_id: str) -> Path:
    """Path of the journal of a scan."""
    return Path(root) / "annotations" / f"{scan_id}.strokes"


def length(path: Path) -> int:
    """Size of the journal in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def append(path: Path, stroke: Stroke) -> None:
    """Append a stroke. It survives a kill of the process, but not necessarily a power failure.

    Raises:
        UserError: "disk-full", "not-writable"; the journal is then unchanged.
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
            file.write(HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload)
    except OSError as error:
        _truncate(path, before)
        raise cannot_write(path, error) from error


def _truncate(path: Path, size: int) -> None:
    """Remove an incomplete record, after which no other record could be read."""
    if length(path) > size:
        with path.open("rb+") as file:
            file.truncate(size)


def drop(path: Path, size: int) -> None:
    """Drop the first `size` bytes of the journal, whose strokes the annotation file now contains.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    if length(path) <= size:
        path.unlink(missing_ok=True)
        return
    rest = path.read_bytes()[size:]
    write_whole(path, lambda file: file.write(rest))


def read(path: Path) -> list[Stroke]:
    """The strokes before the first incomplete record; none if the journal does not exist."""
    content = path.read_bytes() if path.exists() else b""
    strokes, offset = [], 0
    while offset + HEADER.size <= len(content):
        magic, size, checksum = HEADER.unpack_from(content, offset)
        payload = content[offset + HEADER.size : offset + HEADER.size + size]
        if magic != MAGIC or len(payload) < size or zlib.crc32(payload) != checksum:
            break
        strokes.append(_stroke(payload))
        offset += HEADER.size + size
    return strokes


def _stroke(payload: bytes) -> Stroke:
    with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
        complete = tuple((int(axis), int(index)) for axis, index in stored["complete"])
        return Stroke(stored["voxels"], stored["labels"], complete)


def apply(annotation: Annotation, strokes: list[Stroke]) -> Annotation:
    """Apply strokes in order to a copy of an annotation.

    Strokes beyond the bounds of the scan, from another scan with the same file name, are skipped.
    """
    labels = annotation.labels.copy()
    complete = annotation.complete
    for stroke in strokes:
        if len(stroke.voxels) == 0 or stroke.voxels.max() < labels.size:
            labels.reshape(-1)[stroke.voxels] = stroke.labels
            complete = stroke.complete
    return replace(annotation, labels=labels, complete=complete)
