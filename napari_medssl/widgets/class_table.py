"""The table of classes: colour, name, id and volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from medssl.core.project.project import LabelClass
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction, QColor, QIcon, QKeySequence, QPixmap
from qtpy.QtWidgets import (
    QColorDialog,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QPushButton,
    QTableWidgetItem,
    QWidget,
)

from napari_medssl.annotate.volumes import ClassVolumes
from napari_medssl.class_colors import PREDICTED as PREDICTED_SHADE
from napari_medssl.class_colors import shade
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.session import Session
from napari_medssl.qt import HEADER_HEIGHT, Table, cell, headers

SWATCH, NAME, NUMBER, PAINTED, PREDICTED, MENU = range(6)
HEADERS = {
    SWATCH: ("", "Colour where painted; click to change it"),
    NAME: ("Class", "Click a class to paint it"),
    NUMBER: ("Id", "Label value of this class in exported files"),
    PAINTED: ("Painted", "Volume in the annotation"),
    PREDICTED: ("Predicted", "Volume in the prediction of step 5"),
    MENU: ("", ""),
}
ROW = 30
MAX_ROWS = 6
ID = Qt.ItemDataRole.UserRole


class ClassTable(Table):
    """Click a class to paint it, its colour to change it; a menu in the row renames or removes it."""

    picked = Signal(int)
    """Id of the class that the user has selected."""
    removing = Signal(int)
    """Id of a class that the user wants to remove."""

    def __init__(self, session: Session, volumes: ClassVolumes) -> None:
        super().__init__(HEADERS.values(), ROW, NAME)
        self.session, self.volumes = session, volumes
        self.setToolTip("Click a class to paint it, right-click it to rename or remove it")
        self._set_up()
        self._entry("Rename class", QKeySequence("F2"), self.rename)
        delete = QKeySequence(QKeySequence.StandardKey.Delete)
        self._entry("Remove class…", delete, lambda: self.removing.emit(self.current()))
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
        self.itemChanged.connect(self._on_renamed)
        for signal in (self.itemSelectionChanged, self.cellClicked):
            signal.connect(lambda *of: self.picked.emit(self.current()))
        session.classes_changed.connect(self.refresh)
        volumes.changed.connect(self.show_volumes)
        self.refresh()

    def _set_up(self) -> None:
        header, trigger = headers(self)[0], self.EditTrigger
        self.setEditTriggers(trigger.DoubleClicked | trigger.EditKeyPressed | trigger.AnyKeyPressed)
        header.setMinimumSectionSize(20)
        for column in (NUMBER, PAINTED, PREDICTED):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        for column, width in ((SWATCH, 36), (MENU, 26)):
            self.setColumnWidth(column, width)

    def current(self) -> int:
        """Id of the selected class."""
        name = self.item(max(self.currentRow(), 0), NAME)
        return int(name.data(ID)) if name is not None else 1

    def choose(self, class_id: int) -> None:
        """Select a class as if it had been clicked."""
        self.show_current(class_id)
        self.picked.emit(class_id)

    def show_current(self, class_id: int) -> None:
        """Highlight the class that is in use."""
        self.blockSignals(True)
        for number in range(self.rowCount()):
            if cell(self, number, NAME).data(ID) == class_id != self.current():
                self.selectRow(number)
        self.blockSignals(False)

    def rename(self) -> None:
        """Edit the name of the selected class."""
        name = self.item(max(self.currentRow(), 0), NAME)
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
            self.setCellWidget(number, SWATCH, self._swatch(item))
            name = QTableWidgetItem(item.name)
            name.setData(ID, item.id)
            self.setItem(number, NAME, name)
            self.setItem(number, NUMBER, _fixed(str(item.id)))
            for column in (PAINTED, PREDICTED, MENU):
                self.setItem(number, column, _fixed(""))
            cell(self, number, PREDICTED).setIcon(_square(shade(item.color, PREDICTED_SHADE)))
            self.setCellWidget(number, MENU, self._menu_button(number))
        if classes:
            self.selectRow(min(selected, len(classes) - 1))
        self.blockSignals(False)
        self.show_volumes()

    def show_volumes(self) -> None:
        """Show the volumes of the classes."""
        volumes = self.volumes
        self._set_predicted(volumes.has_prediction)
        self.blockSignals(True)
        for number in range(self.rowCount() if self.session.scan is not None else 0):
            class_id = cell(self, number, NAME).data(ID)
            for column, ml in ((PAINTED, volumes.painted_ml), (PREDICTED, volumes.predicted_ml)):
                cell(self, number, column).setText(volume(ml(class_id)))
        self.blockSignals(False)

    def _set_predicted(self, predicted: bool) -> None:
        """With volumes of a prediction, columns need names."""
        self.setColumnHidden(PREDICTED, not predicted)
        headers(self)[0].setVisible(predicted)
        rows = min(max(self.rowCount(), 1), MAX_ROWS)
        self.setFixedHeight(HEADER_HEIGHT * predicted + ROW * rows + 8)

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

    def _menu_button(self, row: int) -> QPushButton:
        """Opens the menu of a right click on the row."""
        button = QPushButton("⋮")
        button.setProperty("reset", True)
        button.setToolTip("Rename or remove this class")
        button.clicked.connect(lambda: self._open_menu(row, button))
        return button

    def _open_menu(self, row: int, button: QPushButton) -> None:
        self.selectRow(row)
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addActions(self.actions())
        menu.popup(button.mapToGlobal(button.rect().bottomLeft()))

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


def _fixed(text: str) -> QTableWidgetItem:
    """A cell that is only read."""
    item = QTableWidgetItem(text)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


def _square(color: str) -> QIcon:
    """A filled square, in a selected row as well, where Qt would tint it."""
    pixmap, icon = QPixmap(14, 14), QIcon()
    pixmap.fill(QColor(color))
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected):
        icon.addPixmap(pixmap, mode)
    return icon


def volume(ml: float) -> str:
    """A volume in millilitres as text; empty for none."""
    if ml < 0.01:
        return "< 0.01 ml" if ml else ""
    return f"{ml:.0f} ml" if ml >= 10 else f"{ml:.2g} ml"
