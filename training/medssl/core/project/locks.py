"""Locks that processes hold in a project folder while they change shared files, or train.

The operating system keeps them (`filelock.FileLock`): a process that dies holds none. The lock files stay,
because deleting one that another process is about to lock would let both go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import cannot_write

CHANGE_FILE, TRAINING_FILE = "project.lock", "training.lock"
WAIT_S = 20.0
"""How long a change waits for those of other processes, each of which takes milliseconds."""
POLL_S = 0.01


@contextmanager
def change_lock(root: Path) -> Iterator[None]:
    """Hold the lock under which files that several processes change are read, changed and written.

    Hold it no longer than that, and do not take it twice: it is not reentrant.

    Args:
        root: The project folder.

    Raises:
        UserError: "locked" if another process keeps it, "disk-full", "not-writable".
    """
    busy = (
        f"{root} has been locked by another process for {WAIT_S:.0f} s; end other programs that have this "
        "project open, and try again."
    )
    with _held(Path(root) / CHANGE_FILE, WAIT_S, busy):
        yield


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder for a whole training.

    Args:
        folder: The folder of the run.

    Raises:
        UserError: "locked" at once if another process is training there, "disk-full", "not-writable".
    """
    busy = f"{folder.name} is being trained by another process; wait until it ends, or stop it."
    with _held(folder / TRAINING_FILE, 0.0, busy):
        yield


@contextmanager
def _held(path: Path, wait_s: float, busy: str) -> Iterator[None]:
    from filelock import FileLock, Timeout  # imported here: most commands only read

    lock = FileLock(path, timeout=wait_s, mode=0o666)  # a project may be shared by several accounts
    try:
        lock.acquire(poll_interval=POLL_S)
    except Timeout:
        raise UserError(busy, code="locked") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()
