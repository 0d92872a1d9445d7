"""Named places: set at the last click, found in all scans, exported."""

from __future__ import annotations

from pathlib import Path

from medssl.core.features.landmarks import Found
from qtpy.QtWidgets import QFileDialog, QLineEdit, QWidget

from napari_medssl.error_handling import guarded
from napari_medssl.explore.landmarks import Marks
from napari_medssl.widgets.parts import button, column, hint, row
from napari_medssl.widgets.places import PlaceTable

MOST_ROWS = 3
TIP = "The landmarks in this scan, with a confidence from 0 to 1 where they were found; click one to go there"


class LandmarkBox(QWidget):
    """A name and a button; below, what is set and found in the scan on the screen."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks, self.session = marks, marks.session
        self.name = QLineEdit()
        self.name.setPlaceholderText("Name of the place you clicked")
        self.name.returnPressed.connect(self.set_here)
        self.set_button = button(
            "Set landmark", self.set_here, "Keep the place under this name, and find it in all other scans"
        )
        self.table = PlaceTable(self._go_to, MOST_ROWS, TIP)
        self.remove = button("Remove", self._remove, "Forget the chosen landmark in all scans")
        self.out = button("Export…", self._export, "Write all landmarks of all scans as a table (CSV)")
        self.words = hint()
        made = column(self, row(self.name, self.set_button, stretch=0), self.table,
                      row(self.remove, self.out, self.words, stretch=2))  # fmt: skip
        made.setContentsMargins(0, 0, 0, 0)
        self.table.itemSelectionChanged.connect(self._on_chosen)
        marks.changed.connect(self.refresh)
        marks.similar.changed.connect(self.refresh)
        self.refresh()

    def set_here(self) -> None:
        """Set a landmark of the typed name at the last click."""
        guarded(self.session, self._set)

    def _set(self) -> None:
        self.marks.set_here(self.name.text() or self._free_name())
        self.name.clear()

    def _free_name(self) -> str:
        numbers = range(1, len(self.marks.known.names) + 2)
        return next(name for name in map("Landmark {}".format, numbers) if name not in self.marks.known.names)

    def _go_to(self, name: str) -> None:
        guarded(self.session, lambda: self.marks.go_to(name))

    def _remove(self) -> None:
        guarded(self.session, lambda: self.marks.remove(self.table.chosen))

    def _export(self) -> None:
        project = self.session.project
        start = str((project.root.parent if project else Path.cwd()) / "landmarks.csv")
        path, _ = QFileDialog.getSaveFileName(self, "Export landmarks", start, "Tables (*.csv)")
        if path:
            guarded(self.session, lambda: self.marks.export(Path(path).with_suffix(".csv")))

    def _on_chosen(self) -> None:
        self.remove.setEnabled(bool(self.table.chosen))

    def refresh(self) -> None:
        """Show the landmarks of the scan on the screen."""
        known, scan = self.marks.known, self.session.scan
        clicked = [each for each in self.marks.similar.points if each.like]
        self.set_button.setEnabled(bool(clicked) and clicked[-1].scan == scan)
        places = known.in_scan(scan) if scan else []
        rows = [
            (each.name, f"{each.confidence:.2f}" if isinstance(each, Found) else "set") for each in places
        ]
        self.table.show_rows(rows, self.table.chosen)
        self._on_chosen()
        self.remove.setVisible(bool(rows))
        self.out.setVisible(bool(known.names))
        share = self.marks.fraction
        self.words.setText(f"{share:.0%} of scans searched" if share < 1 else "")
        self.words.setVisible(bool(known.names))
        self.setVisible(bool(clicked) or bool(known.names))
