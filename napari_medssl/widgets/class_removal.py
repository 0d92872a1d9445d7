"""Removes a class, after a question that says where it is painted."""

from __future__ import annotations

from collections.abc import Iterator

from medssl.core.errors import UserError
from medssl.core.labels.classes import check_removable, remove_class
from medssl.core.labels.relabel import annotated_slices, describe
from medssl.core.project.project import Project
from qtpy.QtWidgets import QInputDialog, QMessageBox, QWidget

from napari_medssl.error_handling import catch_errors
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace

NOT_ANNOTATED = "not annotated (slices that lose strokes are then no longer complete)"


class ClassRemoval:
    """Finds the strokes of a class, asks what to do with them, and removes the class."""

    def __init__(self, workspace: Workspace, parent: QWidget) -> None:
        self.workspace, self.session, self.parent = workspace, workspace.session, parent
        self._worker = LatestOnlyWorker(self.session)

    def remove(self, class_id: int) -> None:
        """Remove a class, after a question."""
        catch_errors(self.session, lambda: self._search(class_id))

    def _search(self, class_id: int) -> None:
        project = self.session.need_project()
        project.need_writable()
        check_removable(project)
        if self.session.job.running:
            raise UserError("A job is running on these classes; stop it first.", code="busy")
        self.workspace.autosave.flush()
        self._worker.submit(
            lambda: iter([annotated_slices(project, class_id)]),
            lambda slices_by_scan: self._ask(class_id, slices_by_scan),
        )

    def _ask(self, class_id: int, slices_by_scan: dict[str, list[int]]) -> None:
        classes = self.session.need_project().classes
        others = [item for item in classes if item.id != class_id]
        name = next(item.name for item in classes if item.id == class_id)
        if not slices_by_scan:
            text = f"{name} is painted nowhere.\nRemove it? Earlier predictions keep its id {class_id}."
            if QMessageBox.question(self.parent, "Remove class", text) == QMessageBox.StandardButton.Yes:
                self.relabel(class_id, 0, [])
            return
        where = describe(self.session.need_project(), slices_by_scan)
        choices = [*(f"{item.name} ({item.id})" for item in others), NOT_ANNOTATED]
        text = f"{name} is painted in {where}.\nRemove it and relabel these strokes as:"
        chosen, agreed = QInputDialog.getItem(self.parent, "Remove class", text, choices, 0, False)
        if agreed:
            into = 0 if chosen == NOT_ANNOTATED else others[choices.index(chosen)].id
            self.relabel(class_id, into, list(slices_by_scan))

    def relabel(self, class_id: int, into: int, scans: list[str]) -> None:
        """Relabel the strokes of a class, then remove it.

        Args:
            class_id: The class to remove.
            into: Class id that its strokes get; 0 for not annotated.
            scans: Ids of the scans with such strokes.
        """
        project = self.session.need_project()
        self.workspace.autosave.flush()
        self._lock(True)
        self._worker.submit(
            lambda: _removed(project, scans, class_id, into),
            lambda _result: self._show_removed(),
            lambda: self._lock(False),
        )

    def _lock(self, locked: bool) -> None:
        """Lock the annotation while its file is rewritten."""
        layer = self.workspace.annotation_layer
        if layer is not None:
            layer.editable = not locked

    def _show_removed(self) -> None:
        if self.session.scan is not None:
            self.session.select(self.session.scan)  # read again: undo must not restore a removed class
        self.session.refresh_annotated()
        self.session.classes_changed.emit()


def _removed(project: Project, scans: list[str], class_id: int, into: int) -> Iterator[None]:
    """In a thread."""
    remove_class(project, class_id, into, scans)
    yield
