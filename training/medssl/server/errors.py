"""What goes wrong, as a status of HTTP and one sentence."""

from __future__ import annotations

import errno
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.project.folder import GONE

BUSY = "busy"
"""Code of the error that refuses what has to wait too long."""
ENGINE = "engine"
"""Code of the error of an engine that has ended without a result."""
STATUS = {
    **dict.fromkeys(
        ("no-scan", "no-run", "no-session", "no-strategy", "no-training", "nothing-yet", "missing"), 404
    ),
    **dict.fromkeys(("locked", "read-only", "training", "outdated", "same-name"), 409),
    "too-large": 413,
    "unsupported": 415,
    **dict.fromkeys(("defect", ENGINE), 502),
    **dict.fromkeys((BUSY, GONE, "memory", "not-writable", "no-folder", "not-readable"), 503),
    "disk-full": 507,
}
"""{code of a UserError: status}; of all others, 400."""


def status_of(error: UserError) -> int:
    """Status of HTTP for an error."""
    return STATUS.get(error.code, 400)


def as_user_error(error: OSError) -> UserError:
    """An error of this machine's disk, such as a full one while an upload is received."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("The server's disk is full; free some space there.", code="disk-full")
    return UserError(
        f"The server could not read or write its files ({error.strerror or error}); check its disk.",
        code="not-writable",
    )


def without_paths(text: str, *folders: Path) -> str:
    """A sentence without the folders of this machine, which are nobody else's business.

    Args:
        text: The sentence.
        folders: Folders whose files are called by their names alone; of a folder itself, its name stays.
    """
    for folder in folders:
        text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "").replace(str(folder), folder.name)
    return text
