"""There: runs the engine of one job in a session of its own, which no broken connection ends."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.events import Failed, to_line
from medssl.core.files import write_whole
from medssl.remote.job_folders import JobFolder

MEASURED = "step-times.json"
"""What a project remembers of its machine's speed (tasks/plan/step_times.py): the next job has it, too."""
KILLED = (-9, 137)
"""Exit codes of a killed process: the signal itself, and as a shell reports it."""
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
    measured = folder.parents[1] / MEASURED
    with job.held():
        _copy(measured, job.project / MEASURED)
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
        _copy(job.project / MEASURED, measured)
    job.delete_forgotten()
    return code


def _copy(source: Path, target: Path) -> None:
    """Copy a small file, if there is one and it can be copied."""
    with suppress(OSError, UserError):
        content = source.read_bytes()
        write_whole(target, lambda file: file.write(content))


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
