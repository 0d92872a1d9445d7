"""The lease of the window that writes a project: other windows only read it, and commands wait for its end.

A lease, because a window may be open for days on another machine; jobs need none (locks.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.core.errors import UserError
from medssl.core.files import cannot_write
from medssl.core.json_files import read_json

if TYPE_CHECKING:
    from filelock import SoftFileLease

LEASE_FILE, OWNER_FILE = "viewer.lock", "viewer.json"
LEASE_SECONDS = 30.0
"""A lock of another machine expires after this time; on this machine its process is checked."""


@dataclass(frozen=True)
class LockOwner:
    """The window that has a project open; `since` is an ISO 8601 time with time zone."""

    host: str
    process: int
    since: str

    def describe(self, now: datetime) -> str:
        """Text such as "process 4711 on ward-3, since 14:03", with the date if it is another day."""
        since = datetime.fromisoformat(self.since).astimezone(now.tzinfo)
        when = f"{since:%H:%M}" if since.date() == now.date() else f"{since:%d %B %Y, %H:%M}"
        return f"process {self.process} on {self.host}, since {when}"


def window_lease(root: Path) -> SoftFileLease:
    """The lease of a project folder, not acquired yet."""
    from filelock import SoftFileLease  # imported here: most commands only read

    return SoftFileLease(Path(root) / LEASE_FILE, lease_duration=LEASE_SECONDS, thread_local=False)


def owner_text(root: Path) -> str:
    """Which window holds the lease of a project folder."""
    try:
        return LockOwner(**read_json(Path(root) / OWNER_FILE)).describe(datetime.now().astimezone())
    except (UserError, TypeError, ValueError):
        return "unknown process"


@contextmanager
def no_window(root: Path) -> Iterator[None]:
    """Keep windows from writing a project: what they paint must not meet a scan or class that is removed.

    Args:
        root: The project folder.

    Raises:
        UserError: "locked" if a window has the project open, "disk-full", "not-writable".
    """
    from filelock import LeaseSettingsMismatch, Timeout

    lease = window_lease(root)
    try:
        lease.acquire(timeout=0)
    except (Timeout, LeaseSettingsMismatch):
        raise UserError(
            f"{root} is open in a window ({owner_text(root)}); do this there, or close the window first.",
            code="locked",
        ) from None
    except OSError as error:
        raise cannot_write(Path(root) / LEASE_FILE, error) from error
    try:
        yield
    finally:
        lease.release()
