"""CSV tables that spreadsheets show and never execute."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

STARTS_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""First characters of a formula in a spreadsheet, also in full width (owasp.org, "CSV Injection")."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def safe_cell(value: object) -> str:
    """A value as a cell that no spreadsheet executes.

    An apostrophe precedes what would be a formula; control characters, which may end a cell, become spaces.

    Args:
        value: Numbers, also those written as text, stay numbers.
    """
    text = _CONTROL.sub(" ", str(value))
    is_formula = text.lstrip().startswith(STARTS_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Encode a CSV table (UTF-8, lines end with a newline)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[safe_cell(value) for value in row] for row in rows])
    return text.getvalue().encode("utf-8", "backslashreplace")
