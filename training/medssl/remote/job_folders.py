"""There: the folders of jobs.

jobs/<id>/project/    a project folder of this job alone
          sent.json   hashes of the files that have come, by their names in the project
          job.json    the job for the engine
          events      what the engine has said
          log         its error output
          control     a fifo, the engine's standard input
          lock        held by the supervisor
          forgotten   when all results have been taken
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.files import cannot_write, make_folder, sha256_of
from medssl.core.json_files import read_json, write_json
from medssl.core.project.runs import CHECKPOINT
from medssl.core.temporary_files import temporary_file
from medssl.remote.store import Store

_NAME = re.compile(r"[0-9a-f]{16,64}")
FORGOTTEN = "forgotten"
RESULTS = "runs"
"""Folder of a project in which results lie."""
START_S = 60.0
LOG_TAIL_BYTES = 1 << 16


class JobFolder:
    """The folder of one job, which need not exist yet."""

    def __init__(self, jobs: Path, job_id: str) -> None:
        if not _NAME.fullmatch(job_id):
            raise UserError(f"{job_id[:80]!r} is no name of a job; update medssl.", code="bad-request")
        self.path = jobs / job_id
        self.project = self.path / "project"
        self.events = self.path / "events"
        self.control = self.path / "control"

    @property
    def running(self) -> bool:
        """Whether a supervisor holds the lock of the job."""
        if not self.events.exists():
            return False
        try:
            with self.held():
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:  # deleted meanwhile
            return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock of the job; raises BlockingIOError where another process does."""
        import fcntl

        with (self.path / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def make(self, store: Store, job: dict[str, Any], files: dict[str, str]) -> None:
        """Make the folder, unless it exists: whole or not at all.

        Args:
            store: Where the files of the project are.
            job: The job as in a job file; its project is this one.
            files: {name in the project: SHA-256}.

        Raises:
            UserError: "bad-request" for names outside the project; "missing", "disk-full", "not-writable".
        """
        if self.path.exists():
            return
        made = JobFolder(self.path.parent, self.path.name)
        made.path = temporary_file(self.path)
        try:
            for name, sha256 in files.items():
                store.link(sha256, made.path / "project" / checked(name))
            write_json(made.path / "sent.json", files)
            write_json(made.path / "job.json", {**job, "project": str(self.project)})
            try:
                os.mkfifo(made.path / "control")
                made.path.rename(self.path)
            except OSError as error:
                raise cannot_write(self.path, error) from error
        finally:
            shutil.rmtree(made.path, ignore_errors=True)
        store.discard(sha256 for name, sha256 in files.items() if not _is_shared(name))

    def start(self) -> None:
        """Start the supervisor, unless it was started; returns when it holds the lock.

        Raises:
            UserError: "not-started".
        """
        if self.events.exists():
            return
        supervisor = subprocess.Popen(
            [sys.executable, "-u", "-m", "medssl", "agent", "--job", str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        while not self.events.exists():
            if supervisor.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"The job could not be started in {self.path}.", code="not-started")
            time.sleep(0.02)

    def tell(self, line: str) -> None:
        """Write a line to the engine's standard input, unless it has ended."""
        with suppress(OSError):
            descriptor = os.open(self.control, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, line.encode("utf-8", "surrogateescape") + b"\n")
            finally:
                os.close(descriptor)

    def results(self, names: list[str] | None = None) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of files that the job has written, or of some of them.

        Args:
            names: Names to look at; None for all.
        """
        sent = read_json(self.path / "sent.json")
        found = []
        for path in sorted((self.project / RESULTS).rglob("*")):
            name = path.relative_to(self.project).as_posix()
            if path.is_file() and _is_result(path) and (names is None or name in names):
                sha256 = sha256_of(path)
                if sent.get(name) != sha256:
                    found.append({"name": name, "size": path.stat().st_size, "sha256": sha256})
        return found

    def file(self, name: str) -> Path:
        """Path of a file of the project; raises UserError ("bad-request") for a name outside it."""
        return self.project / checked(name)

    def log_tail(self) -> bytes:
        """The end of the engine's error output."""
        try:
            return (self.path / "log").read_bytes()[-LOG_TAIL_BYTES:]
        except OSError:
            return b""

    def forget(self, store: Store) -> None:
        """Delete the folder, when the job has ended; its weights stay in the store, for jobs that use them.

        Raises:
            UserError: "not-writable", "disk-full".
        """
        if not self.path.exists():
            return
        for path in (self.project / RESULTS).glob(f"*/{CHECKPOINT}"):
            store.keep(path)
        (self.path / FORGOTTEN).touch()
        self.delete_forgotten()

    def delete_forgotten(self) -> None:
        """Delete the folder if it is forgotten and its supervisor has ended, which does so itself."""
        if (self.path / FORGOTTEN).exists() and not self.running:
            shutil.rmtree(self.path, ignore_errors=True)


def checked(name: str) -> str:
    """A relative name that stays below its folder.

    Raises:
        UserError: "bad-request".
    """
    parts = name.split("/")
    if not all(re.fullmatch(r"[^\\:\x00]+", part) and part not in (".", "..") for part in parts):
        raise UserError(
            f"{name[:200]!r} is no name of a file in a project; update medssl.", code="bad-request"
        )
    return name


def _is_shared(name: str) -> bool:
    """Whether other jobs may need a file, too."""
    return name.startswith("scans/") or name.endswith(CHECKPOINT)


def _is_result(path: Path) -> bool:
    """Whether a file is more than a lock, a temporary file, or the job file, which differs here and there."""
    return not path.name.startswith(".") and path.suffix != ".lock" and path.name != "job.json"


def all_jobs(jobs: Path) -> list[JobFolder]:
    """The folders of all jobs."""
    make_folder(jobs)
    return [JobFolder(jobs, path.name) for path in sorted(jobs.iterdir()) if _NAME.fullmatch(path.name)]
