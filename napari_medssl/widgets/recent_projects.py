"""The projects that were opened last: a list on the empty dock, and entries of a menu."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QMenu

from napari_medssl.model.recent_projects import RecentProject, RecentProjects
from napari_medssl.qt import not_none

ROW = 24
FOLDER = Qt.ItemDataRole.UserRole


class RecentProjectList(QListWidget):
    """One row for each project; a click opens it, and what is gone is grey."""

    def __init__(self, recent: RecentProjects, open_project: Callable[[Path], object]) -> None:
        super().__init__()
        self._recent = recent
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemClicked.connect(lambda item: open_project(Path(item.data(FOLDER))))
        recent.changed.connect(self._refresh)
        self._refresh()

    def _refresh(self) -> None:
        self.clear()
        for project in self._recent.projects:
            item = QListWidgetItem(_name(project))
            item.setData(FOLDER, str(project.folder))
            item.setToolTip(_tip(project))
            if not project.exists:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
            self.addItem(item)
        self.setFixedHeight(ROW * self.count() + 10)


def add_to_menu(menu: QMenu, recent: RecentProjects, open_project: Callable[[Path], object]) -> None:
    """Add an entry for each recent project.

    Args:
        menu: The menu.
        recent: The projects.
        open_project: Called with the folder of the chosen one.
    """
    for project in recent.projects:
        action = not_none(menu.addAction(_name(project), partial(open_project, project.folder)))
        action.setToolTip(_tip(project))
        action.setEnabled(project.exists)


def _name(project: RecentProject) -> str:
    """Projects are often called alike, so the folder around them is named, too."""
    return f"{project.folder.parent.name}/{project.folder.name}"


def _tip(project: RecentProject) -> str:
    return str(project.folder) if project.exists else f"{project.folder} is no longer there."
