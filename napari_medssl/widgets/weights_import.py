"""An entry in the menu of the project: weights of another project become a run of this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medssl.core.project.imported_weights import add_weights
from medssl.core.project.project import Run
from qtpy.QtWidgets import QFileDialog, QMenu, QWidget

from napari_medssl.error_handling import catch_errors
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow

TITLE = "Add weights of another project"


class WeightsImport:
    """Copies weights in a thread."""

    def __init__(self, session: Session, parent: QWidget) -> None:
        self.session, self._parent = session, parent
        self._worker = LatestOnlyWorker(session)

    def add_to(self, menu: QMenu) -> None:
        """Add the entry to a menu; nothing without a project."""
        if self.session.project is not None:
            allow(not_none(menu.addAction(f"{TITLE}…", self.ask)), job_blocked(self.session))

    def ask(self) -> None:
        """Choose a file of weights, and add it."""
        path, _ = QFileDialog.getOpenFileName(self._parent, TITLE, "", "Weights (*.safetensors)")
        if path:
            catch_errors(self.session, lambda: self.add(Path(path)))

    def add(self, path: Path) -> None:
        """Add weights in a thread.

        Raises:
            UserError: "no-project", "read-only".
        """
        project = self.session.need_project()
        project.need_writable()

        def copy() -> Iterator[Run]:
            yield add_weights(project, path)

        self._worker.submit(copy, self._on_added)

    def _on_added(self, run: Run) -> None:
        self.session.reload_runs()
        self.session.classes_changed.emit()
        where = "start from it in step 4" if run.kind == "pretrain" else "segment with it in step 5"
        self.session.notify("info", f"Added {run.id}; {where}.")
