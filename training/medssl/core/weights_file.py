"""The file of a network's weights without its tensors: is it whole, what does its card say. No torch.

A safetensors file is the length of its header (8 bytes), the header (JSON) and the tensors. The card is in
the header, with the SHA-256 of the whole file, in which 64 zeros stand in its place: file and hash are
written at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from medssl.core.errors import UserError
from medssl.core.files import check_readable, write_whole
from medssl.core.project.cards import check_card

FORMAT = 1
KEY = "medssl"
"""Name of the card in the header."""
HASH = "content_sha256"
"""Field of the card inside a file."""
_STORED_HASH = re.compile(rb'\\"%s\\": \\"([0-9a-f]{64})' % HASH.encode())
_NO_HASH = "0" * 64
_MAX_HEADER = 100_000_000
"""Longest header that safetensors reads."""
_ALIGNMENT = 8


def metadata(card: dict[str, Any]) -> dict[str, str]:
    """What goes into the header of a file that is not hashed yet.

    Args:
        card: Model card.
    """
    return {KEY: json.dumps({"format": FORMAT, HASH: _NO_HASH, **card})}


def with_hash(body: bytes) -> bytes:
    """A whole file with its hash.

    Args:
        body: A safetensors file with `metadata` in its header.
    """
    return body.replace(_NO_HASH.encode(), hashlib.sha256(body).hexdigest().encode(), 1)


@contextmanager
def checked(path: Path) -> Iterator[None]:
    """Refuse weights that are missing or not as they were written, and turn errors in reading into one.

    Raises:
        UserError: "no-checkpoint" if the file does not exist, "not-readable" if the drive or the permissions
            prevent reading it, "foreign-checkpoint" if it is not one, "damaged-checkpoint" if it is not as it
            was written.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; the run stopped before its first checkpoint, so start it again.",
            code="no-checkpoint",
        )
    try:
        status = path.stat()
        if not _is_whole(path, status.st_mtime_ns, status.st_size):
            raise UserError(
                f"{path} is damaged: it is not as it was written; restore it from a backup, or train again.",
                code="damaged-checkpoint",
            )
        yield
    except (OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        check_readable(path, error)
        raise UserError(
            f"{path} is not a medssl checkpoint ({error}); choose a run that medssl made.",
            code="foreign-checkpoint",
        ) from error


def card_in(header: dict[str, str], path: Path) -> dict[str, Any]:
    """The card in the metadata of a header.

    Args:
        header: The metadata.
        path: The file, for errors.

    Raises:
        KeyError, ValueError, TypeError: It is none.
        UserError: "newer-version" if a newer version of medssl wrote it, "damaged-checkpoint" if it belongs
            to another run, and those of `check_card`.
    """
    card = json.loads(header[KEY])
    if isinstance(card["format"], int) and card["format"] > FORMAT:
        raise UserError(
            f"{path} was written by a newer version of medssl; update medssl to read it.",
            code="newer-version",
        )
    card = check_card(card, str(path))
    _check_place(path, card)
    card.pop(HASH, None)
    return card


def read_card(path: Path) -> dict[str, Any]:
    """The card inside a file of weights.

    Raises:
        UserError: Those of `checked` and `card_in`.
    """
    with checked(path), path.open("rb") as file:
        return card_in(_header(file)["__metadata__"], path)


def copy_with_card(source: Path, target: Path, card: dict[str, Any]) -> None:
    """Write a copy of a file of weights with another card.

    Args:
        source: The file.
        target: Where the copy goes.
        card: Its card.

    Raises:
        UserError: Those of `checked`; "disk-full", "not-writable".
    """
    with checked(source), source.open("rb") as file:
        header = {**_header(file), "__metadata__": metadata(card)}
        begin = file.tell()
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        start = len(text).to_bytes(8, "little") + text
        digest = hashlib.sha256(start)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        start = start.replace(_NO_HASH.encode(), digest.hexdigest().encode(), 1)

        def write(copy: BinaryIO) -> None:
            file.seek(begin)
            copy.write(start)
            shutil.copyfileobj(file, copy)

        write_whole(target, write)


def _header(file: BinaryIO) -> dict[str, Any]:
    """The header, from an open file that is then at its tensors."""
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise ValueError("its header is too long")
    header: dict[str, Any] = json.loads(file.read(length))
    return header


@lru_cache(maxsize=64)
def _is_whole(path: Path, modified_ns: int, size: int) -> bool:
    """Whether a file has the hash that its card says; former versions stored none."""
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER))
        stored = _STORED_HASH.search(start)
        if stored is None:
            return True
        digest = hashlib.sha256(start[: stored.start(1)] + _NO_HASH.encode() + start[stored.end(1) :])
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == stored[1].decode()


def _check_place(path: Path, card: dict[str, Any]) -> None:
    """Weights of one run in the folder of another one would predict under its name."""
    run, folder = card.get("run", path.parent.name), path.parent
    if folder.parent.name == "runs" and run != folder.name:
        raise UserError(
            f"{path} is the checkpoint of run {run}; put it back there, and restore that of {folder.name} "
            "from a backup.",
            code="damaged-checkpoint",
        )
