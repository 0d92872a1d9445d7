"""Sessions: an image that a client has opened itself, for predictions only, until the session expires."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from medssl.core.errors import UserError
from medssl.core.files import make_folder, write_whole
from medssl.core.project.modality import usual_modality
from medssl.core.project.project import Project, Run, Scan
from medssl.core.project.runs import copy_run
from medssl.server.errors import BUSY
from medssl.server.uploads import check_count, check_voxels, save_upload

EXPIRY_S, MAX_EXPIRY_S = 3600, 24 * 3600
"""Seconds after the last use in which a session ends, where a client does not say, and at most."""
MAX_SESSIONS = 16


@dataclass
class Session:
    """An image with a project of its own, which holds only this scan and its predictions."""

    id: str
    folder: Path
    image: Path
    """The file, or a folder with a DICOM series."""
    project: Project
    scan_id: str
    expiry_s: int
    created: float
    used: float

    @property
    def scan(self) -> Scan:
        """The scan."""
        return self.project.scan(self.scan_id)

    def copy_run(self, run: Run) -> None:
        """Copy a network into the session's project, unless it is there as it is now.

        Two requests may do so at once: each file is replaced as a whole, by the same content.
        """
        copy = replace(run, folder=self.project.root / "runs" / run.id)
        if copy.weights_sha256 != run.weights_sha256:
            copy_run(run, self.project.root)

    def to_json(self) -> dict[str, Any]:
        """The document of the session."""
        return {
            "image": self.image.name,
            "expiry": self.expiry_s,
            "create_ts": int(self.created),
            "last_access_ts": int(self.used),
        }


class Sessions:
    """The sessions of a server, in a folder that goes with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, Session] = {}
        self._threads = Lock()

    def check_free(self) -> None:
        """Raise UserError (BUSY) if there are as many sessions as there may be."""
        self._end_expired()
        if len(self._sessions) >= MAX_SESSIONS:
            raise UserError(
                f"There are {MAX_SESSIONS} sessions already; end one, or wait until one expires.", code=BUSY
            )

    def add(self, files: Sequence[tuple[str, BinaryIO]], project: Project, expiry_s: int) -> Session:
        """Begin a session.

        Args:
            files: Name and content of an image file, or of each file of a DICOM series.
            project: The project with the classes and networks.
            expiry_s: Seconds after the last use in which it ends; 0 for an hour.

        Raises:
            UserError: BUSY, and those of `save_upload`, `check_voxels` and `Project.add_scan`.
        """
        self.check_free()
        session_id = secrets.token_hex(16)
        folder = make_folder(self._folder / session_id)
        try:
            image = _received(files, folder)
            own = Project.create(folder / "project", project.classes)
            scan = own.add_scan(image, usual=usual_modality(project.scans.values()))
            now = time.time()
            expiry_s = min(expiry_s, MAX_EXPIRY_S) if expiry_s > 0 else EXPIRY_S
            session = Session(session_id, folder, image, own, scan.id, expiry_s, now, now)
            with self._threads:
                if len(self._sessions) < MAX_SESSIONS:
                    self._sessions[session_id] = session
                    return session
            self.check_free()  # others were faster, so that it raises
            raise UserError("Too many sessions begin at once; try again.", code=BUSY)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def get(self, session_id: str, use: bool = True) -> Session:
        """A session; with `use` its time begins anew.

        Raises:
            UserError: "no-session" for one that has expired, or never was.
        """
        self._end_expired()
        session = self._sessions.get(session_id)
        if session is None:
            raise UserError("There is no such session; it may have expired.", code="no-session")
        if use:
            session.used = time.time()
        return session

    def remove(self, session_id: str) -> Session:
        """End a session.

        Raises:
            UserError: "no-session".
        """
        session = self.get(session_id, use=False)
        with self._threads:
            self._sessions.pop(session_id, None)
        shutil.rmtree(session.folder, ignore_errors=True)
        return session

    def _end_expired(self) -> None:
        now = time.time()
        with self._threads:
            expired = [each for each in self._sessions.values() if each.used + each.expiry_s < now]
            for session in expired:
                del self._sessions[session.id]
        for session in expired:
            shutil.rmtree(session.folder, ignore_errors=True)


def _received(files: Sequence[tuple[str, BinaryIO]], folder: Path) -> Path:
    """Write the files of an image; returns the file, or the folder of a DICOM series."""
    if not files:
        raise UserError("No image was sent; send one as files.", code="bad-request")
    if len(files) == 1 and not files[0][0].lower().endswith(".dcm"):
        name, content = files[0]
        path = save_upload(content, name, folder, "image")
        check_voxels(path)
        return path
    series = make_folder(folder / "series")
    for number, (_, content) in enumerate(files):
        write_whole(series / f"{number:05d}.dcm", partial(shutil.copyfileobj, content))
    check_count("The series", sum(map(_pixels, series.iterdir())))
    return series


def _pixels(path: Path) -> int:
    """Pixels that a DICOM file has by its header; 0 for what the reader will refuse."""
    import pydicom

    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["Rows", "Columns", "NumberOfFrames"]
        )
        return int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames") or 1)
    except Exception:  # no DICOM file, or a damaged one
        return 0
