"""Here: results come back whole, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.files import cannot_write, sha256_of, sync_folder
from medssl.core.project.project import Project
from medssl.core.project.runs import CHECKPOINT
from medssl.core.temporary_files import temporary_file
from medssl.remote.connection import Connection
from medssl.remote.job_folders import RESULTS, checked

PREDICTIONS = "predictions"
ATTEMPTS = 3
"""How often a file is fetched that changes there, or was damaged on the way."""
Told = Callable[[float], object]
"""Called with the fraction of bytes that have come."""


class Incoming:
    """Fetches results into a project. What has come of a file is kept when the connection breaks."""

    def __init__(self, project: Project, run_id: str) -> None:
        """Args:
        project: Where the results go.
        run_id: The run that they belong to, which must still be there.
        """
        self._project, self._run_id = project, run_id
        self._parts: dict[str, Path] = {}

    def fetch(
        self,
        connection: Connection,
        job: str,
        names: list[str] | None = None,
        told: Told = lambda share: None,
    ) -> None:
        """Fetch the results of a job that differ from what is here, weights first: others refer to them.

        Args:
            connection: To the agent.
            job: Id of the job.
            names: Names to fetch; None for all.
            told: Called while bytes come.

        Raises:
            Broken: The connection has ended.
            UserError: "project-gone", "no-run" if the run was deleted here, "disk-full", "not-writable",
                "damaged" if a file does not come as it was sent.
        """
        files: list[dict[str, Any]] = connection.ask("results", id=job, names=names)[0]["files"]
        files.sort(key=lambda file: not str(file["name"]).endswith(CHECKPOINT))
        wanted = [file for file in files if self._is_wanted(str(file["name"]), str(file["sha256"]))]
        total, done = max(1, sum(int(file["size"]) for file in wanted)), 0
        for file in wanted:
            before = done
            self._fetch_file(connection, job, str(file["name"]), lambda size: told((before + size) / total))  # noqa: B023
            done += int(file["size"])

    def close(self) -> None:
        """Delete what is incomplete."""
        for part in self._parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _is_wanted(self, name: str, sha256: str) -> bool:
        """Whether a result is not here yet, and belongs to a run and a scan that are."""
        path = self._target(name)
        if path.parent.name == PREDICTIONS:
            self._project.refresh()
            if path.name.partition(".")[0] not in self._project.scans:
                return False
        return not path.exists() or sha256_of(path) != sha256

    def _target(self, name: str) -> Path:
        """Where a result goes: below the folder of the run, and nowhere else."""
        if not checked(name).startswith(f"{RESULTS}/{self._run_id}/"):
            raise UserError(f"{name!r} is no result of {self._run_id}; update medssl.", code="bad-request")
        return self._project.root / name

    def _fetch_file(self, connection: Connection, job: str, name: str, told: Callable[[int], object]) -> None:
        target = self._target(name)
        self._project.need_here()
        if not (self._project.root / RESULTS / self._run_id).is_dir():
            raise UserError(
                f"{self._run_id} was deleted here, so its training on {connection.host} is stopped.",
                code="no-run",
            )
        self._project.make_folder(*Path(name).parent.parts)
        part = self._parts.setdefault(name, temporary_file(target))
        for _ in range(ATTEMPTS):
            if self._receive(connection, job, name, part, told):
                try:
                    part.replace(target)
                    sync_folder(target.parent)
                except OSError as error:
                    raise cannot_write(target, error) from error
                del self._parts[name]
                return
            part.unlink(missing_ok=True)
        raise UserError(
            f"{name} did not come from {connection.host} as it is there; try again.", code="damaged"
        )

    def _receive(
        self, connection: Connection, job: str, name: str, part: Path, told: Callable[[int], object]
    ) -> bool:
        """Append what is missing of a file; returns whether it now has the hash that it has there."""
        digest = hashlib.sha256()
        try:
            with part.open("a+b") as file:
                file.seek(0)
                while content := file.read(1 << 20):
                    digest.update(content)
                connection.say("get", id=job, name=name, offset=file.tell())
                last = False
                while not last:
                    message, content = connection.answer()
                    last = bool(message["last"])
                    file.write(content)
                    digest.update(content)
                    told(file.tell())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(part, error) from error
        return digest.hexdigest() == message["sha256"]
