"""Names in a project: of its folder, of scans, channels and classes; most become parts of file names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import portable_name
from medssl.core.io.volume import stem_of

LONGEST_ID, LONGEST_CHANNEL_NAME = 80, 32
LONGEST_NAME = 64
"""Characters of a class's or a scan's name, as in a segment label of DICOM."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
"""Control characters, also those of lines and of writing directions, and halves of characters."""


def check_folder_name(root: Path) -> None:
    """Check that the folder of a project can also be opened on Windows.

    Raises:
        UserError: "bad-name" if it cannot.
    """
    name = Path(root).resolve().name
    if name and not portable_name(name):
        raise UserError(
            f"{name!r} is a folder name that Windows reserves or cannot open; choose another name for the "
            "project's folder.",
            code="bad-name",
        )


def free_id(path: Path, taken: Iterable[str], name: str = "") -> str:
    """A scan id: unique regardless of case, and a valid file name on every system.

    Args:
        path: File or folder of the scan.
        taken: Ids of other scans.
        name: Name under which the scan was found. Where it is taken, the folder's is put in front of it.
    """
    base, folder = _as_id(name or stem_of(path)) or "scan", _as_id(path.absolute().parent.name)
    known = {each.lower() for each in taken}
    use_folder = name and folder and not base.startswith(f"{folder}-")
    longer = [f"{folder}-{base}"[:LONGEST_ID]] if use_folder else []
    candidates = itertools.chain([base, *longer], (f"{base}-{number}" for number in itertools.count(2)))
    return next(each for each in candidates if each.lower() not in known and portable_name(each))


def as_channel_name(name: str) -> str:
    """A name as channels have it: lower case, part of a file name.

    Raises:
        UserError: "bad-channel" if nothing is left of it.
    """
    result = _as_id(name).lower()[:LONGEST_CHANNEL_NAME].strip("-")
    if not result or not portable_name(result):
        raise UserError(
            f"{name!r} is no name for a channel; use letters and digits, as in t1.", code="bad-channel"
        )
    return result


def _as_id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:LONGEST_ID]


def check_class_name(name: str) -> None:
    """Raise UserError ("bad-classes") for a name that a class cannot have."""
    if not name or name != valid_class_name(name):
        raise UserError(
            f"{name[:80]!r} is no name for a class; give it 1 to {LONGEST_NAME} characters, "
            "no control characters among them and no spaces around them.",
            code="bad-classes",
        )


def valid_class_name(name: str) -> str:
    """A name without what a class's name may not contain; it may be empty."""
    return _CONTROL.sub(" ", name).strip()[:LONGEST_NAME].strip()


def check_scan_name(name: str) -> None:
    """Raise UserError ("bad-name") for a name that a scan cannot have: its exports are named after it."""
    usable = bool(name) and name == valid_class_name(name) and not name.startswith((".", "-"))
    if not usable or not portable_name(name):
        raise UserError(
            f"{name[:80]!r} is no name for a scan, after which its exports are named; give it 1 to "
            f"{LONGEST_NAME} characters that a file name may have.",
            code="bad-name",
        )
