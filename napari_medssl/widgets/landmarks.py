"""Landmarks: place one at the last click, list, delete and export them."""

from __future__ import annotations

from pathlib import Path

from medssl.core.features.landmarks import LandmarkMatch
from qtpy.QtWidgets import QFileDialog, QLineEdit, QWidget

from napari_medssl.error_handling import catch_errors
from napari_medssl.explore.landmarks import LandmarkEditor
from napari_medssl.widgets.components import allow, button, column, hint, row
from napari_medssl.widgets.navigation_table import NavigationTable

MOST_ROWS = 3
TIP = "Landmarks in this scan, propagated ones with a confidence from 0 to 1; click one to go there"

NOT_CLICKED = "Click a voxel of this scan first, with Follow clicks."
NOT_SELECTED = "Select a landmark in the table first."


class LandmarkBox(QWidget):
    """A name and a button; below them the landmarks of the scan on the screen."""

    def __init__(self, landmark_editor: LandmarkEditor) -> None:
        super().__init__()
        self.landmark_editor, self.session = landmark_editor, landmark_editor.session
        self.name = QLineEdit()
        self.name.setPlaceholderText("Name of the landmark")
        self.name.returnPressed.connect(self.set_here)
        self.set_button = button(
            "Set landmark", self.set_here, "Place it at the last click and propagate it to all other scans"
        )
        self.table = NavigationTable(self._go_to, MOST_ROWS, TIP)
        self.remove = button("Remove", self._remove, "Delete the selected landmark from all scans")
        self.export_button = button(
            "Export…", self._export, "Export all landmarks of all scans as a table (CSV)"
        )
        self.status = hint()
        layout = column(self, row(self.name, self.set_button, stretch=0), self.table,
                      row(self.remove, self.export_button, self.status, stretch=2))  # fmt: skip
        layout.setContentsMargins(0, 0, 0, 0)
        self.table.itemSelectionChanged.connect(self._on_chosen)
        landmark_editor.changed.connect(self.refresh)
        landmark_editor.similarity.changed.connect(self.refresh)
        self.session.lock_changed.connect(self.refresh)
        self.refresh()

    def set_here(self) -> None:
        """Place a landmark with the entered name at the last click."""
        catch_errors(self.session, self._set)

    def _set(self) -> None:
        self.landmark_editor.set_here(self.name.text() or self._free_name())
        self.name.clear()

    def _free_name(self) -> str:
        numbers = range(1, len(self.landmark_editor.landmarks.names) + 2)
        return next(
            name
            for name in map("Landmark {}".format, numbers)
            if name not in self.landmark_editor.landmarks.names
        )

    def _go_to(self, name: str) -> None:
        catch_errors(self.session, lambda: self.landmark_editor.go_to(name))

    def _remove(self) -> None:
        catch_errors(self.session, lambda: self.landmark_editor.remove(self.table.chosen))

    def _export(self) -> None:
        project = self.session.project
        start = str((project.root.parent if project else Path.cwd()) / "landmarks.csv")
        path, _ = QFileDialog.getSaveFileName(self, "Export landmarks", start, "Tables (*.csv)")
        if path:
            catch_errors(self.session, lambda: self.landmark_editor.export(Path(path).with_suffix(".csv")))

    def _on_chosen(self) -> None:
        allow(self.remove, self.session.read_only or ("" if self.table.chosen else NOT_SELECTED))

    def refresh(self) -> None:
        """Show the landmarks of the scan on the screen."""
        current, scan = self.landmark_editor.landmarks, self.session.scan
        clicked = [landmark for landmark in self.landmark_editor.similarity.points if landmark.like]
        is_here = bool(clicked) and clicked[-1].scan == scan
        allow(self.set_button, self.session.read_only or ("" if is_here else NOT_CLICKED))
        landmarks = current.in_scan(scan) if scan else []
        rows = [
            (landmark.name, f"{landmark.confidence:.2f}" if isinstance(landmark, LandmarkMatch) else "set")
            for landmark in landmarks
        ]
        self.table.show_rows(rows, self.table.chosen)
        self._on_chosen()
        self.remove.setVisible(bool(rows))
        self.export_button.setVisible(bool(current.names))
        fraction = self.landmark_editor.fraction
        self.status.setText(f"{fraction:.0%} of scans searched" if fraction < 1 else "")
        self.status.setVisible(bool(current.names))
        self.setVisible(bool(clicked) or bool(current.names))
