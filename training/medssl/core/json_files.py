"""JSON files, written whole or not at all; numbers that JSON does not know are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from medssl.core.errors import UserError
from medssl.core.files import read_bytes, write_whole


def write_json(path: Path, value: Any) -> bytes:
    """Write `value` as indented JSON, atomically; returns the content. NaN and infinity are refused."""
    compact = json.dumps(value, allow_nan=False)  # with an indent, Python encodes ten times as slowly
    try:
        text = msgspec.json.format(compact, indent=2)
    except msgspec.DecodeError:  # a file name that is not UTF-8 becomes lone surrogates, which it refuses
        text = json.dumps(value, indent=2)
    content = f"{text}\n".encode()
    write_whole(path, lambda file: file.write(content))
    return content


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError ("missing", "not-readable", "unreadable")."""
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, path: Path) -> Any:
    """The value that the content of a JSON file stands for. Raises UserError ("unreadable")."""
    try:
        text = content.decode("utf-8-sig")  # editors on Windows put a mark at the beginning
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); restore it from a backup or make it anew.",
            code="unreadable",
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    """A number of JSON; one such as 1e999, which Python takes for infinity, is refused."""
    value = float(text)
    if not math.isfinite(value):
        _refuse_constant(text)
    return value
