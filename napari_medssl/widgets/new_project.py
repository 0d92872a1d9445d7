"""Where a new project will be made: shown before, and changed if it should be elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medssl.core.project.project import is_project
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QWidget
from superqt import QElidingLabel

from napari_medssl.error_handling import catch_errors
from napari_medssl.model.project_place import place_in
from napari_medssl.model.session import Session
from napari_medssl.widgets.components import button, column, hint, row


class NewProject(QWidget):
    """Asks for the place of a project that does not exist yet; hidden while there is nothing to ask."""

    changed = Signal()
    """It asks, or does not ask any more."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.place: Path | None = None
        """The folder that is proposed; None if nothing is asked."""
        self._then: Callable[[Path], object] = lambda place: None
        self._what = ""
        self._heading, self._folder = hint(), QElidingLabel()
        self._folder.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.agree = button("Create project", self._on_create, "Strokes and results are saved there", True)
        self.elsewhere = button("Elsewhere…", self._choose, "Choose another folder, or an existing project")
        self.cancel = button("Cancel", self.dismiss, "Make no project")
        layout = column(
            self, self._heading, self._folder, row(self.agree, self.elsewhere, self.cancel, stretch=0)
        )
        layout.setContentsMargins(0, 0, 0, 0)
        session.project_changed.connect(self.dismiss)
        self.dismiss()

    def ask(self, place: Path, what: str, then: Callable[[Path], object]) -> None:
        """Propose a place.

        Args:
            place: The folder to propose.
            what: What is added to it, such as "3 scans"; empty for nothing.
            then: Called with the folder that was agreed to.
        """
        self._what, self._then = what, then
        self._propose(place)
        self.agree.setFocus()

    def dismiss(self) -> None:
        """Ask no more."""
        self.place = None
        self.setVisible(False)
        self.changed.emit()

    def _propose(self, place: Path) -> None:
        self.place = place
        self._folder.setText(str(place))
        self._folder.setToolTip(str(place))
        if is_project(place):
            self._heading.setText(f"Add {self._what} to the project" if self._what else "Open the project")
            self.agree.setText("Add to project" if self._what else "Open project")
        else:
            self._heading.setText(f"New project for {self._what}, in" if self._what else "New project in")
            self.agree.setText("Create project")
        self.setVisible(True)
        self.changed.emit()

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Make the project in", str(Path.home()))
        if folder:
            catch_errors(self._session, lambda: self._propose(place_in(Path(folder))))

    def _on_create(self) -> None:
        place = self.place
        if place is not None:
            catch_errors(self._session, lambda: self._then(place))
