"""Deleting a class: its strokes are never lost without being asked for."""

from __future__ import annotations

from medssl.core.errors import UserError
from medssl.core.labels.relabel import annotated_slices, describe, relabel
from qtpy.QtWidgets import QInputDialog, QWidget

from napari_medssl.error_handling import guarded
from napari_medssl.latest_only_worker import Background
from napari_medssl.workspace import Workspace

NOTHING = "not annotated (slices that lose strokes are then no longer complete)"


class Removal:
    """Looks where a class is painted, asks what its strokes become, and deletes it."""

    def __init__(self, workspace: Workspace, parent: QWidget) -> None:
        self.workspace, self.session, self.parent = workspace, workspace.session, parent
        self._thread = Background(self.session)

    def remove(self, class_id: int) -> None:
        """Delete a class, after a question where it has strokes in any scan."""
        guarded(self.session, lambda: self._look(class_id))

    def _look(self, class_id: int) -> None:
        project = self.session.need_project()
        project.need_writable()
        if len(project.classes) < 2:
            raise UserError("A project needs a class; rename this one instead.", code="last-class")
        if self.session.job.running:
            raise UserError("A job is running on these classes; stop it first.", code="busy")
        self.workspace.autosave.flush()
        self._thread.ask(
            lambda: iter([annotated_slices(project, class_id)]), lambda found: self._ask(class_id, found)
        )

    def _ask(self, class_id: int, found: dict[str, list[int]]) -> None:
        if not found:
            self._delete(class_id)
            return
        others = [item for item in self.session.need_project().classes if item.id != class_id]
        name = next(item.name for item in self.session.need_project().classes if item.id == class_id)
        choices = [*(f"{item.name} ({item.id})" for item in others), NOTHING]
        text = f"{name} is painted in {describe(found)}.\nDelete it, and turn these strokes into:"
        chosen, agreed = QInputDialog.getItem(self.parent, "Delete class", text, choices, 0, False)
        if agreed:
            into = 0 if chosen == NOTHING else others[choices.index(chosen)].id
            self.turn(class_id, into, list(found))

    def turn(self, class_id: int, into: int, scans: list[str]) -> None:
        """Turn a class's strokes into those of another (0: not annotated), then delete it."""
        project = self.session.need_project()
        self.workspace.autosave.flush()
        self._lock(True)
        self._thread.ask(
            lambda: iter([relabel(project, scans, class_id, into)]),
            lambda done: self._delete(class_id),
            lambda: self._lock(False),
        )

    def _lock(self, locked: bool) -> None:
        """Nobody paints on an annotation that is about to be read anew."""
        layer = self.workspace.annotation_layer
        if layer is not None:
            layer.editable = not locked

    def _delete(self, class_id: int) -> None:
        project = self.session.need_project()
        if self.session.scan is not None:
            self.session.select(self.session.scan)  # anew: undo must not bring a deleted class back
        project.set_classes([item for item in project.classes if item.id != class_id])
        self.session.annotated = set(project.annotated())
        self.session.classes_changed.emit()
