"""What relay and agent exchange: frames of a JSON header and bytes.

A frame is the length of the header and that of the bytes (4 bytes each, big-endian), the header in UTF-8, and
the bytes, compressed by zlib where the header says so. `GREETING` precedes the first frame of the agent:
shells may print something before it.
"""

from __future__ import annotations

import json
import struct
import zlib
from threading import Lock
from typing import Any, BinaryIO

PROTOCOL = 1
"""Version of the messages; relay and agent must have the same."""
GREETING = b"\nmedssl agent\n"
CHUNK = 1 << 20
"""Bytes of a file in one frame."""
MAX_HEADER, MAX_BYTES = 1 << 24, 1 << 24
"""No frame is longer; a list of 100,000 files is shorter."""
MAX_NOISE = 1 << 16
"""Bytes that may precede the greeting."""
_LENGTHS = struct.Struct(">II")
_PACKED = "packed"
_WORTH, _PROBE = 0.9, 1 << 14
"""Bytes are sent as they are unless compression makes the first of them smaller than this share; that of
weights takes time and gains nothing."""

Message = dict[str, Any]


class Closed(Exception):
    """The other side has closed the connection, or what came is no frame."""


class Writer:
    """Writes frames; several threads may use it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._lock = stream, Lock()

    def write(self, message: Message, content: bytes = b"") -> None:
        """Write a frame.

        Args:
            message: The header.
            content: The bytes, `MAX_BYTES` at most.

        Raises:
            Closed: Nobody reads it any more.
        """
        probe = content[:_PROBE]
        if len(zlib.compress(probe, 1)) < _WORTH * len(probe):
            message, content = {**message, _PACKED: True}, zlib.compress(content, 1)
        header = json.dumps(message, separators=(",", ":")).encode()
        try:
            with self._lock:
                self._stream.write(_LENGTHS.pack(len(header), len(content)) + header)
                self._stream.write(content)
                self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            raise Closed(str(error)) from error


def read(stream: BinaryIO) -> tuple[Message, bytes]:
    """Read a frame.

    Returns:
        Header and bytes.

    Raises:
        Closed: The stream has ended, or holds no frame.
    """
    header_size, size = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if header_size > MAX_HEADER or size > MAX_BYTES:
        raise Closed("what came is not from medssl")
    header, content = _exactly(stream, header_size), _exactly(stream, size)
    try:
        message = json.loads(header)
        if not isinstance(message, dict):
            raise ValueError("no message")
        if message.pop(_PACKED, False):
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(content, MAX_BYTES)
    except (ValueError, RecursionError, zlib.error) as error:
        raise Closed(f"what came is damaged ({error})") from error
    return message, content


def skip_to_greeting(stream: BinaryIO) -> None:
    """Skip what a shell has printed.

    Raises:
        Closed: There is no greeting.
    """
    skipped = b""
    while not skipped.endswith(GREETING):
        if len(skipped) > MAX_NOISE:
            raise Closed("no greeting came")
        skipped += _exactly(stream, 1)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    parts, missing = [], size
    while missing:
        try:
            part = stream.read(missing)
        except (OSError, ValueError) as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("the connection has ended")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
