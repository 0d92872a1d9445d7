"""A lock that lets one window write a project; other windows open it read-only.

Only viewers take it: jobs and the command line write files of their own, or take the lock of the project
for a moment (medssl.core.project.locks).
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout
from medssl.core.errors import UserError
from medssl.core.json_files import write_json
from medssl.core.project.project import Project
from medssl.core.project.window_lock import OWNER_FILE, LockOwner, owner_text, window_lease

from napari_medssl.error_handling import catch_errors
from napari_medssl.model.session import Session
from napari_medssl.qt import timer

POLL_MS = 3_000


class ProjectLock:
    """Locks the session's project for this window, or waits until it is free.

    Create it before other listeners of the session: they ask `session.read_only`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lease: SoftFileLease | None = None
        self._folder: Path | None = None
        self._here = True
        self._gone = ""
        """What was said when the project vanished; also whatever else needs it says so."""
        self._timer = timer(POLL_MS, lambda: catch_errors(session, self.poll, self), single_shot=False)
        session.project_changed.connect(self._on_project)

    def release(self) -> None:
        """Release the lock."""
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
            self._timer.stop()
        if self._lease is not None and self._lease.is_locked:
            if self._lease.compromise is None and self._folder is not None:
                (self._folder / OWNER_FILE).unlink(missing_ok=True)
            self._lease.release()
        self._lease = self._folder = None

    def poll(self) -> None:
        """Open a project again that has become free; make one read-only whose lock was lost."""
        project = self._session.project
        if project is None or self._lease is None or not self._is_here(project):
            return
        if project.read_only:
            if self._acquire() == "":
                text = f"{project.root.name} is no longer open elsewhere; this window can edit it."
                self._session.notify("info", text)
                self._session.open(project.root)
        elif self._lease.compromise is not None:
            # Strokes painted since then stay on the screen, shown as not saved.
            project.read_only = _locked_message(project.root)
            self._session.notify("warning", project.read_only)
            self._session.lock_changed.emit()

    def _is_here(self, project: Project) -> bool:
        """Whether the project's folder is there; says so when it vanishes and when it is back.

        Taking the lock would create the folder.
        """
        was_here = self._here
        try:
            project.need_here()
            self._here = True
        except UserError as error:
            self._here = False
            if was_here:
                self._gone = str(error)
                self._session.notify("error", self._gone)
        if self._here and not was_here:
            self._session.messages.end(self._gone)
            self._session.notify("info", f"{project.root} is there again.")
        return self._here

    def _on_project(self) -> None:
        self._here = True
        project = self._session.need_project()
        if self._folder != project.root.resolve():
            self.release()
            self._folder = project.root.resolve()
            self._lease = window_lease(self._folder)
        project.read_only = self._acquire()
        self._timer.start()
        if project.read_only:
            self._session.notify("warning", project.read_only)
        self._session.lock_changed.emit()

    def _acquire(self) -> str:
        """Take the lock; returns why that is not possible, or an empty string."""
        assert self._lease is not None and self._folder is not None
        if self._lease.is_locked and self._lease.compromise is None:
            return ""
        try:
            self._lease.acquire(timeout=0)
            since = datetime.now().astimezone().isoformat()
            owner = LockOwner(platform.node() or "this computer", os.getpid(), since)
            write_json(self._folder / OWNER_FILE, asdict(owner))
        except (Timeout, LeaseSettingsMismatch):
            return _locked_message(self._folder)
        except (OSError, UserError) as error:
            return (
                f"{self._folder} cannot be written to ({error}), so the project is read-only; copy it to "
                "a folder that you can write to."
            )
        return ""


def _locked_message(folder: Path) -> str:
    return (
        f"{folder.name} is open in another window ({owner_text(folder)}), so it is read-only here; close the "
        "other window to edit it here."
    )
