"""There: runs the engine of one job in a session of its own, which no broken connection ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from medssl.core.events import Failed, to_line
from medssl.remote.job_folders import JobFolder

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
_LAST = (b'{"event":"done"', b'{"event":"failed"')
_TAIL_BYTES = 1 << 16


def supervise(folder: Path) -> int:
    """Run the job of a folder to its end.

    Args:
        folder: See `job_folders`.

    Returns:
        The exit code of the engine.
    """
    job = JobFolder(folder.parent, folder.name)
    with job.held():
        # Opened for both, so that neither end waits for the other, and no end of a writer ends the input.
        control = os.open(job.control, os.O_RDWR)
        with (folder / "log").open("ab") as log, job.events.open("ab") as events:
            code = subprocess.Popen(
                [sys.executable, "-u", "-m", "medssl", "run", str(folder / "job.json")],
                stdin=control,
                stdout=events,
                stderr=log,
            ).wait()
        if not _has_ended(job.events):
            with job.events.open("ab") as events:
                events.write(b"\n" + to_line(Failed("ended", _sentence(code))).encode() + b"\n")
    job.delete_forgotten()
    return code


def _has_ended(path: Path) -> bool:
    """Whether the last event is one that ends a job."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().splitlines()
    return bool(lines) and lines[-1].startswith(_LAST)


def _sentence(code: int) -> str:
    if code in KILLED:
        return (
            "The other computer ended the engine, most likely because its memory ran out; resume the run "
            "from its last checkpoint when there is more."
        )
    return (
        f"The engine on the other computer ended without reporting an error (exit code {code}); see its log."
    )
