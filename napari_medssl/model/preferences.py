"""What a user has chosen for all projects, kept in a file of the user's configuration folder."""

from __future__ import annotations

import math
from contextlib import suppress

from medssl.core.errors import UserError
from medssl.core.files import make_folder
from medssl.core.json_files import read_json, write_json
from medssl.core.typed import convert
from platformdirs import user_config_path

FILE = user_config_path("medssl", appauthor=False) / "preferences.json"


def number(key: str) -> float:
    """A positive number; 0 where none was chosen, or the file is damaged."""
    value = _read().get(key)
    return value if isinstance(value, float) and 0 < value < math.inf else 0.0


def set_number(key: str, value: float) -> None:
    """Keep a number, unless it cannot be saved: no work is worth less for that."""
    _keep(key, value)


def text(key: str) -> str:
    """A text; empty where none was chosen, or the file is damaged."""
    value = _read().get(key)
    return value if isinstance(value, str) else ""


def set_text(key: str, value: str) -> None:
    """Keep a text, unless it cannot be saved."""
    _keep(key, value)


def _keep(key: str, value: float | str) -> None:
    kept = _read()
    if kept.get(key) != value:
        with suppress(UserError):
            make_folder(FILE.parent)
            write_json(FILE, {**kept, key: value})


def _read() -> dict[str, float | str]:
    try:
        return convert(dict[str, float | str], read_json(FILE), FILE.name)
    except UserError:
        return {}
