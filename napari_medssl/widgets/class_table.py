"""The table of classes: colour, name, id and volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from medssl.core.project.project import LabelClass
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction, QColor, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_medssl.annotate.volumes import ClassVolumes
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.session import Session
from napari_medssl.qt import cell, headers

ROW = 30
MAX_ROWS = 6
ID = Qt.ItemDataRole.UserRole


class ClassTable(QTableWidget):
    """Click a class to paint it, its colour to change it; a right click renames or removes the class."""

    picked = Signal(int)
    """Id of the class that the user has selected."""
    removing = Signal(int)
    """Id of a class that the user wants to remove."""

    def __init__(self, session: Session, volumes: ClassVolumes) -> None:
        super().__init__(0, 4)
        self.session, self.volumes = session, volumes
        self.setToolTip("Click a class to paint it, right-click it to rename or remove it")
        header, row_header = headers(self)
        row_header.hide()
        row_header.setDefaultSectionSize(ROW)
        self.setShowGrid(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header.hide()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.setColumnWidth(0, 42)
        for narrow in (2, 3):
            header.setSectionResizeMode(narrow, QHeaderView.ResizeMode.ResizeToContents)
        self._entry("Rename class", QKeySequence("F2"), self.rename)
        delete = QKeySequence(QKeySequence.StandardKey.Delete)
        self._entry("Remove class…", delete, lambda: self.removing.emit(self.current()))
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
        self.itemChanged.connect(self._on_renamed)
        self.cellClicked.connect(lambda row, column: self.picked.emit(self.current()))
        session.classes_changed.connect(self.refresh)
        volumes.changed.connect(self.show_volumes)
        self.refresh()

    def current(self) -> int:
        """Id of the selected class."""
        name = self.item(max(self.currentRow(), 0), 1)
        return int(name.data(ID)) if name is not None else 1

    def choose(self, class_id: int) -> None:
        """Select a class as if it had been clicked."""
        for number in range(self.rowCount()):
            if cell(self, number, 1).data(ID) == class_id:
                self.selectRow(number)
                self.picked.emit(class_id)

    def rename(self) -> None:
        """Edit the name of the selected class."""
        name = self.item(max(self.currentRow(), 0), 1)
        if name is not None:
            self.editItem(name)

    def _entry(self, text: str, shortcut: QKeySequence, action: Callable[[], object]) -> None:
        """An entry of the context menu."""
        entry = QAction(text, self)
        entry.setShortcut(shortcut)
        entry.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        entry.triggered.connect(lambda: action())
        self.addAction(entry)

    def refresh(self) -> None:
        """Show the project's classes."""
        classes = self.session.project.classes if self.session.project else ()
        selected = max(self.currentRow(), 0)
        self.blockSignals(True)
        self.setRowCount(len(classes))
        for number, item in enumerate(classes):
            self.setCellWidget(number, 0, self._swatch(item))
            name = QTableWidgetItem(item.name)
            name.setData(ID, item.id)
            self.setItem(number, 1, name)
            self.setItem(number, 2, _fixed(str(item.id), "Label value of this class in exported files"))
            self.setItem(number, 3, _fixed("", ""))
        if classes:
            self.selectRow(min(selected, len(classes) - 1))
        self.blockSignals(False)
        self.setFixedHeight(ROW * min(max(len(classes), 1), MAX_ROWS) + 6)
        self.show_volumes()

    def show_volumes(self) -> None:
        """Show the volumes of the classes."""
        source = "the prediction on the screen" if self.volumes.predicted else "the annotation"
        self.blockSignals(True)
        for number in range(self.rowCount() if self.session.scan is not None else 0):
            item, volume = cell(self, number, 3), self.volumes.ml(cell(self, number, 1).data(ID))
            item.setText(f"{volume:.0f} ml" if volume >= 100 else f"{volume:.2g} ml" if volume else "")
            item.setToolTip(f"Volume of {source}")
        self.blockSignals(False)

    def _swatch(self, item: LabelClass) -> QWidget:
        button = QPushButton()
        button.setProperty("swatch", True)
        button.setStyleSheet(f"background-color: {item.color};")
        button.setToolTip("Choose another colour")
        button.clicked.connect(partial(self._pick_color, item))
        holder = QWidget()
        holder.setStyleSheet("background: transparent;")
        layout = QHBoxLayout(holder)
        layout.setContentsMargins(6, 0, 8, 0)
        layout.addWidget(button)
        return holder

    def _on_renamed(self, edited: QTableWidgetItem) -> None:
        item, name = self._class_with(edited.data(ID)), edited.text().strip()
        if item is not None and name and name != item.name:
            catch_errors(self.session, lambda: self.session.rename_class(item, name))
            self.refresh()  # a refused name gives way to the one before

    def _pick_color(self, item: LabelClass, checked: bool = False) -> None:
        color = QColorDialog.getColor(QColor(item.color), self, f"Colour of {item.name}")
        if color.isValid():
            changed = replace(item, color=color.name())
            catch_errors(self.session, lambda: self.session.set_class(changed))

    def _class_with(self, class_id: int | None) -> LabelClass | None:
        classes = self.session.project.classes if self.session.project else ()
        return next((item for item in classes if item.id == class_id), None)


def _fixed(text: str, tip: str) -> QTableWidgetItem:
    """A cell that is only read."""
    item = QTableWidgetItem(text)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    item.setToolTip(tip)
    return item
