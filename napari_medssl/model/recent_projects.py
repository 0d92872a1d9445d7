"""The projects that were opened last, kept in a file of the user's configuration folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import make_folder
from medssl.core.json_files import read_json, write_json
from medssl.core.project.project import is_project
from medssl.core.typed import convert
from platformdirs import user_config_path
from psygnal import Signal

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.session import Session

MOST = 10
FILE = user_config_path("medssl", appauthor=False) / "recent-projects.json"


@dataclass(frozen=True)
class RecentProject:
    """A project that was opened."""

    folder: Path
    exists: bool
    """Whether it is still there; False, too, where it cannot be read."""


class RecentProjects:
    """The last ten projects, newest first; looked up in a thread, as one may be on a drive that is slow."""

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker = LatestOnlyWorker(session)
        self.projects: tuple[RecentProject, ...] = ()
        session.project_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Put the open project first, and look which of the others are still there."""
        project = self._session.project

        def list_projects() -> Iterator[tuple[RecentProject, ...]]:
            folders = read() if project is None else remember(project.root)
            yield tuple(RecentProject(folder, _is_there(folder)) for folder in folders)

        self._worker.submit(list_projects, self._take)

    def _take(self, projects: tuple[RecentProject, ...]) -> None:
        if projects != self.projects:
            self.projects = projects
            self.changed.emit()


def read() -> list[Path]:
    """Folders of the last projects, newest first; none if the list is missing or damaged."""
    try:
        return [Path(folder) for folder in convert(list[str], read_json(FILE), FILE.name)][:MOST]
    except UserError:
        return []


def remember(folder: Path) -> list[Path]:
    """Put a project first in the list.

    Args:
        folder: The project.

    Returns:
        The new list. It is returned, too, where it cannot be saved: no project is worth less for that.
    """
    first = folder.absolute()
    folders = [first, *(other for other in read() if other != first)][:MOST]
    with suppress(UserError):
        make_folder(FILE.parent)
        write_json(FILE, [str(each) for each in folders])
    return folders


def _is_there(folder: Path) -> bool:
    try:
        return is_project(folder)
    except OSError:
        return False
