"""Checksums of compressed scan files.

gzip and zlib store the checksum behind the data, so it counts only where somebody reads that far: nibabel
stops after the last voxel, and SimpleITK goes on where the decompression failed.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 16
"""Compressed bytes that are read at a time."""
EITHER = zlib.MAX_WBITS | 32
"""Has zlib recognise gzip and zlib streams."""
GZIP = b"\x1f\x8b"
"""First bytes of a gzip stream."""
MAX_HEADER = 1 << 20
"""Bytes in which a text header must end."""


def read_to_end(file: gzip.GzipFile) -> None:
    """Read the rest of a gzip file, which compares its checksum and length.

    Like gzip, ignores what follows and is not gzip.

    Raises:
        OSError: The checksum or the length differs.
        EOFError: The file is cut short.
        zlib.error: The stream is damaged.
    """
    try:
        while file.read(1 << 20):
            pass
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):
            raise


def check_compressed(path: Path) -> None:
    """Compare the checksums of the compressed data of an NRRD or MetaImage file, if it has any.

    Raises:
        ValueError: The data are damaged or cut short.
        OSError: They cannot be read.
    """
    for data, offset in _compressed_parts(path):
        with data.open("rb") as file:
            file.seek(offset)
            _check_stream(file)


def _check_stream(file: BinaryIO) -> None:
    stream, chunk = zlib.decompressobj(EITHER), file.read(CHUNK)
    try:
        while chunk:
            stream.decompress(chunk)
            chunk = stream.unused_data if stream.eof else file.read(CHUNK)
            if stream.eof:
                if not chunk.startswith(GZIP):
                    return
                stream = zlib.decompressobj(EITHER)  # one gzip stream after the other
    except zlib.error as error:
        raise ValueError(f"its compressed data are damaged ({error})") from error
    raise ValueError("its compressed data are cut short")


def _compressed_parts(path: Path) -> Iterator[tuple[Path, int]]:
    """The files that hold the compressed data of an image, and where in them the data begin."""
    with path.open("rb") as file:
        start = file.read(MAX_HEADER)
    is_nrrd = start.startswith(b"NRRD")
    end = re.search(rb"\r?\n\r?\n|\Z" if is_nrrd else rb"(?m)^ElementDataFile\s*=\s*LOCAL.*\n|\Z", start)
    assert end is not None  # \Z
    header = start[: end.end()].decode("latin-1")
    if is_nrrd:
        compressed, name = _field(header, "encoding").lower() in ("gz", "gzip"), _field(header, "data ?file")
    else:
        compressed, name = _field(header, "CompressedData")[:1] in ("T", "t", "1"), ""
        name = _field(header, "ElementDataFile").replace("LOCAL", "")
    if compressed and not name:
        yield path, end.end()
    elif compressed:
        listed = header.splitlines() if name.upper().startswith("LIST") else [name]
        files = (path.parent / line for line in listed if line)
        yield from ((file, 0) for file in files if file.is_file())


def _field(header: str, name: str) -> str:
    """The value of a field; empty if the header has none of that name."""
    value = re.search(rf"(?im)^{name}[ \t]*[:=][ \t]*(.*?)\s*$", header)
    return value[1] if value else ""
