"""Records of a journal of strokes, and what is left of them in a damaged one."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class JournalContents:
    """What a journal holds.

    Attributes:
        strokes: The strokes that could be read, oldest first.
        records: Their records.
        damaged: Number of records that could not be read, or are no strokes of this scan.
        torn: Size in bytes of a record at the end that was cut off while it was written; 0 for none.
    """

    strokes: tuple[Stroke, ...]
    records: tuple[bytes, ...]
    damaged: int
    torn: int


def parse(content: bytes, shape_zyx: tuple[int, ...]) -> JournalContents:
    """What a journal holds.

    Args:
        content: Its bytes.
        shape_zyx: Shape of the scan.
    """
    strokes, records, damaged, torn, end = [], [], 0, 0, 0
    for record, whole in _records(content):
        end += len(record)
        stroke = _stroke(record, shape_zyx) if whole else None
        if stroke is not None:
            strokes.append(stroke)
            records.append(record)
        elif not whole and end == len(content) and _is_torn(record):
            torn = len(record)
        else:
            damaged += max(1, record.count(MAGIC))
    return JournalContents(tuple(strokes), tuple(records), damaged, torn)


def _records(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """The parts of a journal: whole records, and what is between them or after the last one."""
    begin = 0
    while begin < len(content):
        end, after = _end(content, begin), begin
        whole = end is not None
        while end is None:  # its length may be damaged: the next record is where one begins that is whole
            after = content.find(MAGIC, after + 1)
            if after < 0:
                end = len(content)
            elif _end(content, after) is not None:
                end = after
        yield content[begin:end], whole
        begin = end


def _end(content: bytes, begin: int) -> int | None:
    """Where the whole record ends that begins there; None if there is none."""
    if len(content) - begin < HEADER.size:
        return None
    magic, size, checksum = HEADER.unpack_from(content, begin)
    end = begin + HEADER.size + size
    whole = magic == MAGIC and end <= len(content)
    return end if whole and zlib.crc32(content[begin + HEADER.size : end]) == checksum else None


def _is_torn(rest: bytes) -> bool:
    """Whether the end of a journal is a record that was being written, and not a damaged one."""
    if len(rest) < HEADER.size:
        return MAGIC.startswith(rest[: len(MAGIC)])
    magic, size, checksum = HEADER.unpack_from(rest)
    payload = rest[HEADER.size :]
    return magic == MAGIC and size > len(payload) and zlib.crc32(payload) != checksum


def to_record(stroke: Stroke) -> bytes:
    """The record of a stroke, header and content."""
    content = io.BytesIO()
    complete = np.array(stroke.complete, np.int64).reshape(-1, 2)
    voxels, labels = stroke.voxels.astype(np.int64), stroke.labels.astype(np.uint8)
    np.savez(content, voxels=voxels, labels=labels, complete=complete)
    payload = content.getvalue()
    return HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def _stroke(record: bytes, shape_zyx: tuple[int, ...]) -> Stroke | None:
    """The stroke of a whole record; None if it is not one of this scan."""
    try:
        with np.load(io.BytesIO(record[HEADER.size :]), allow_pickle=False) as stored:
            voxels, labels, complete = stored["voxels"], stored["labels"], stored["complete"]
    except Exception:  # foreign content makes zipfile and numpy raise just about anything
        return None
    if voxels.dtype != np.int64 or labels.dtype != np.uint8 or complete.dtype != np.int64:
        return None
    if voxels.ndim != 1 or voxels.shape != labels.shape or complete.shape[1:] != (2,):
        return None
    lengths = np.array(shape_zyx)
    if not _inside(voxels, np.prod(lengths)) or not _inside(complete[:, 0], 3):
        return None
    if not _inside(complete[:, 1], lengths[complete[:, 0]]):
        return None
    return Stroke(voxels, labels, tuple((int(axis), int(index)) for axis, index in complete))


def _inside(indices: np.ndarray, length: np.ndarray | int) -> bool:
    return bool(((indices >= 0) & (indices < length)).all())
