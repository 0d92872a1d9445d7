"""One window writes into a project, the first one; others show it and say who has it.

Only viewers ask here: the engine's jobs and the command line write files of their own, or change
project.json by what is on disk at that moment, and go on beside any window.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout
from medssl.core.errors import UserError
from medssl.core.files import read_json, write_json
from qtpy.QtCore import QTimer

from napari_medssl.error_handling import guarded
from napari_medssl.model.session import Session

LEASE, CARD = "viewer.lock", "viewer.json"
LEASE_S = 30.0
"""A holder on another machine that gave no sign for so long is gone; one on this machine is looked up."""
LOOK_MS = 3_000


@dataclass(frozen=True)
class Holder:
    """Who has a project open; `since` is ISO 8601 with the zone."""

    host: str
    process: int
    since: str

    def words(self, now: datetime) -> str:
        """ "process 4711 on ward-3, since 14:03"; another day is named."""
        since = datetime.fromisoformat(self.since).astimezone(now.tzinfo)
        when = f"{since:%H:%M}" if since.date() == now.date() else f"{since:%d %B %Y, %H:%M}"
        return f"process {self.process} on {self.host}, since {when}"


class Holding:
    """Holds the session's project for this window, or waits until it is free.

    Make it before whatever else listens to the session: the others ask `session.read_only`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lease: SoftFileLease | None = None
        self._folder: Path | None = None
        self._timer = QTimer(interval=LOOK_MS)
        self._timer.timeout.connect(lambda: guarded(session, self.look))
        session.project_changed.connect(self._on_project)

    def release(self) -> None:
        """Let the project go."""
        with suppress(RuntimeError):  # at the end of the program Qt may have taken it down already
            self._timer.stop()
        if self._lease is not None and self._lease.is_locked:
            if self._lease.compromise is None and self._folder is not None:
                (self._folder / CARD).unlink(missing_ok=True)
            self._lease.release()
        self._lease = self._folder = None

    def look(self) -> None:
        """What time brings: a project that has become free is opened anew, a lost one is only shown."""
        project = self._session.project
        if project is None or self._lease is None:
            return
        if project.read_only:
            if self._take() == "":
                self._session.tell("info", f"{project.root.name} is free; this window may write again.")
                self._session.open(project.root)
        elif self._lease.compromise is not None:
            # Strokes may have been painted since; they stay on the screen, and say that they are not saved.
            project.read_only = _taken(project.root)
            self._session.tell("warning", project.read_only)
            self._session.project_held.emit()

    def _on_project(self) -> None:
        project = self._session.need_project()
        if self._folder != project.root.resolve():
            self.release()
            self._folder = project.root.resolve()
            self._lease = SoftFileLease(self._folder / LEASE, lease_duration=LEASE_S, thread_local=False)
        project.read_only = self._take()
        self._timer.start()
        if project.read_only:
            self._session.tell("warning", project.read_only)
        self._session.project_held.emit()

    def _take(self) -> str:
        """Hold the project; why that is not possible, in a sentence, or nothing."""
        assert self._lease is not None and self._folder is not None
        if self._lease.is_locked and self._lease.compromise is None:
            return ""
        try:
            self._lease.acquire(timeout=0)
            since = datetime.now().astimezone().isoformat()
            me = Holder(platform.node() or "this computer", os.getpid(), since)
            write_json(self._folder / CARD, asdict(me))
        except (Timeout, LeaseSettingsMismatch):
            return _taken(self._folder)
        except (OSError, UserError) as error:
            return (
                f"{self._folder} cannot be written to ({error}), so the project is only shown; copy the "
                "folder to a place where you may write."
            )
        return ""


def _taken(folder: Path) -> str:
    try:
        holder = Holder(**read_json(folder / CARD)).words(datetime.now().astimezone())
    except (UserError, TypeError, ValueError):
        holder = "it does not say which"
    return (
        f"{folder.name} is open in another window ({holder}), so this one only shows it; close the other "
        "window and this one may write."
    )
