"""Where a new project will be made: shown before, and changed if it should be elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medssl.core.project.project import is_project
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QWidget
from superqt import QElidingLabel

from napari_medssl.error_handling import catch_errors
from napari_medssl.model.project_place import place_in
from napari_medssl.model.session import Session
from napari_medssl.widgets.components import button, column, hint, row


class NewProject(QWidget):
    """Asks for the place of a project that does not exist yet; hidden while there is nothing to ask."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.place: Path | None = None
        """The folder that is proposed; None if nothing is asked."""
        self._then: Callable[[Path], object] = lambda place: None
        self._what, self._folder = hint(), QElidingLabel()
        self._folder.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.create = button("Create project", self._on_create, "Strokes and results are saved there", True)
        self.elsewhere = button("Elsewhere…", self._choose, "Choose another folder, or an existing project")
        self.cancel = button("Cancel", self.close, "Make no project")
        layout = column(
            self, self._what, self._folder, row(self.create, self.elsewhere, self.cancel, stretch=0)
        )
        layout.setContentsMargins(0, 0, 0, 0)
        session.project_changed.connect(self.close)
        self.close()

    def ask(self, place: Path, what: str, then: Callable[[Path], object]) -> None:
        """Propose a place.

        Args:
            place: The folder to propose.
            what: What the project is made of, such as "3 scans".
            then: Called with the folder that was agreed to.
        """
        self._then = then
        self._what.setText(what)
        self._propose(place)
        self.create.setFocus()

    def close(self) -> bool:
        """Ask no more."""
        self.place = None
        self.setVisible(False)
        return True

    def _propose(self, place: Path) -> None:
        self.place = place
        self._folder.setText(str(place))
        self._folder.setToolTip(str(place))
        self.create.setText("Add to project" if is_project(place) else "Create project")
        self.setVisible(True)

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Make the project in", str(Path.home()))
        if folder:
            catch_errors(self._session, lambda: self._propose(place_in(Path(folder))))

    def _on_create(self) -> None:
        place = self.place
        if place is not None:
            catch_errors(self._session, lambda: self._then(place))
