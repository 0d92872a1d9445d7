"""Tables of places that one can go to: the best match of each scan, the landmarks of this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

ROW = 26


class PlaceTable(QTableWidget):
    """A name and a number a row; a click goes there."""

    def __init__(self, go: Callable[[str], object], most_rows: int, tip: str) -> None:
        super().__init__(0, 2)
        self._go, self._most_rows = go, most_rows
        self.setToolTip(tip)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(ROW)
        self.setShowGrid(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        header = self.horizontalHeader()
        header.hide()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.cellClicked.connect(lambda row, column: self._go(self.item(row, 0).text()))
        self.show_rows([], "")

    @property
    def chosen(self) -> str:
        """Name in the row that was clicked last, or ""."""
        item = self.item(self.currentRow(), 0) if self.selectedItems() else None
        return item.text() if item is not None else ""

    def show_rows(self, rows: Sequence[tuple[str, str]], here: str) -> None:
        """Show these names and numbers; the row of the name `here` is chosen. Without rows, be hidden."""
        self.setRowCount(len(rows))
        for number, texts in enumerate(rows):
            for column, text in enumerate(texts):
                item = self.item(number, column)
                if item is None:
                    item = QTableWidgetItem()
                    if column:
                        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                    self.setItem(number, column, item)
                item.setText(text)
        names = [name for name, _ in rows]
        if here in names:
            self.selectRow(names.index(here))
        else:
            self.clearSelection()
        self.setFixedHeight(ROW * min(len(rows), self._most_rows) + 10)
        self.setVisible(bool(rows))
