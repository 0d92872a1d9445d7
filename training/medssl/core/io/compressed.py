"""Checksums of compressed scan files, and whether files hold as much as their headers declare.

gzip and zlib store the checksum behind the data, so it counts only where somebody reads that far: nibabel
stops after the last voxel, and SimpleITK goes on where the decompression failed. SimpleITK also takes the
memory that a header declares before it reads anything: a damaged size would end the process.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 16
"""Compressed bytes that are read at a time."""
EITHER = zlib.MAX_WBITS | 32
"""Has zlib recognise gzip and zlib streams."""
GZIP = b"\x1f\x8b"
"""First bytes of a gzip stream."""
MAX_HEADER = 1 << 20
"""Bytes in which a text header must end."""
TRUE = ("T", "t", "1")
"""How a MetaImage begins to say yes."""
MAX_COMPRESSION = 1100
"""Upper bound of a compression ratio: deflate reaches at most 1032, what images have in DICOM is far less."""


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


def check_data(path: Path, declared: int) -> None:
    """Check the voxels of an NRRD or MetaImage file: checksums where it is compressed, and their size.

    Args:
        path: The file, or the header of a detached one.
        declared: Bytes of voxels that its header declares.

    Raises:
        ValueError: The data are damaged or cut short.
        OSError: They cannot be read.
    """
    parts = list(_parts(path))
    held = sum(_decompressed_bytes(part) if part.compressed else part.bytes for part in parts)
    if parts and held < declared:
        raise ValueError(f"its header declares {declared:,} bytes of voxels, and it has {held:,}")


@dataclass(frozen=True)
class _Part:
    """A file with voxels of an image, and where in it they begin."""

    file: Path
    offset: int
    compressed: bool

    @property
    def bytes(self) -> int:
        return self.file.stat().st_size - self.offset


def _decompressed_bytes(part: _Part) -> int:
    """Decompress a part piece by piece, which compares its checksums."""
    with part.file.open("rb") as file:
        file.seek(part.offset)
        stream, chunk, count = zlib.decompressobj(EITHER), file.read(CHUNK), 0
        try:
            while chunk:
                count += len(stream.decompress(chunk))
                chunk = stream.unused_data if stream.eof else file.read(CHUNK)
                if stream.eof:
                    if not chunk.startswith(GZIP):
                        return count
                    stream = zlib.decompressobj(EITHER)  # one gzip stream after the other
        except zlib.error as error:
            raise ValueError(f"its compressed data are damaged ({error})") from error
    raise ValueError("its compressed data are cut short")


def _parts(path: Path) -> Iterator[_Part]:
    """The files with the voxels of an image; none where they are text, or named by a pattern."""
    with path.open("rb") as file:
        start = file.read(MAX_HEADER)
    is_nrrd = start.startswith(b"NRRD")
    end = re.search(rb"\r?\n\r?\n|\Z" if is_nrrd else rb"(?m)^ElementDataFile\s*=\s*LOCAL.*\n|\Z", start)
    assert end is not None  # \Z
    header = start[: end.end()].decode("latin-1")
    if is_nrrd:
        encoding, name = _field(header, "encoding").lower(), _field(header, "data ?file")
        compressed, binary = encoding in ("gz", "gzip"), encoding in ("raw", "gz", "gzip")
    else:
        compressed = _field(header, "CompressedData")[:1] in TRUE
        binary = compressed or _field(header, "BinaryData")[:1] in TRUE
        name = _field(header, "ElementDataFile").replace("LOCAL", "")
    if not binary or "%" in name:
        return
    if not name:
        yield _Part(path, end.end(), compressed)
        return
    listed = header.splitlines() if name.upper().startswith("LIST") else [name]
    files = (path.parent / line for line in listed if line)
    yield from (_Part(file, 0, compressed) for file in files if file.is_file())


def _field(header: str, name: str) -> str:
    """The value of a field; empty if the header has none of that name."""
    value = re.search(rf"(?im)^{name}[ \t]*[:=][ \t]*(.*?)\s*$", header)
    return value[1] if value else ""
