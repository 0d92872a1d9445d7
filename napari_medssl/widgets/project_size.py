"""A line in the menu of the project: what it weighs on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from medssl.core.project.disk_usage import DiskUsage, disk_usage, size_text
from medssl.core.project.project import Project
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QMenu

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none

LARGEST = 3
"""Number of scans and of runs that the tooltip names."""


class ProjectSize:
    """Measures the open project in a thread when the menu opens."""

    def __init__(self, session: Session) -> None:
        self.session, self._worker = session, LatestOnlyWorker(session)

    def add_to(self, menu: QMenu) -> None:
        """Add the line to a menu; nothing without a project."""
        project = self.session.project
        if project is None:
            return
        action = not_none(menu.addAction("Measuring its size on the disk…"))
        action.setEnabled(False)

        def measure() -> Iterator[DiskUsage]:
            yield disk_usage(project)

        self._worker.submit(measure, lambda usage: _show(action, project, usage))


def _show(action: QAction, project: Project, usage: DiskUsage) -> None:
    with suppress(RuntimeError):  # the menu was closed and opened again: Qt has deleted the line
        action.setText(f"{project.root.name} takes {size_text(usage.total)} on the disk")
        titles = project.titles
        scans = {titles[scan]: size for scan, size in usage.scans.items() if scan in titles}
        action.setToolTip("\n".join([*_largest(scans), *_largest(usage.runs)]))


def _largest(sizes: dict[str, int]) -> list[str]:
    named = sorted(sizes.items(), key=lambda item: -item[1])[:LARGEST]
    return [f"{name}: {size_text(size)}" for name, size in named]
