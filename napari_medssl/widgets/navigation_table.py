"""A table of targets to go to: the best match of each scan, the landmarks of a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTableWidgetItem

from napari_medssl.qt import Table, cell, headers

ROW = 26


class NavigationTable(Table):
    """A name and a number per row; a click on a row goes there."""

    def __init__(self, go_to: Callable[[str], object], max_rows: int, tip: str) -> None:
        super().__init__([("", ""), ("", "")], ROW, 0)
        self._go_to, self._max_rows = go_to, max_rows
        self.setToolTip(tip)
        headers(self)[0].hide()
        self.cellClicked.connect(lambda row, column: self._go_to(cell(self, row, 0).text()))
        self.show_rows([], "")

    @property
    def chosen(self) -> str:
        """Name in the selected row; empty for none."""
        item = self.item(self.currentRow(), 0) if self.selectedItems() else None
        return item.text() if item is not None else ""

    def show_rows(self, rows: Sequence[tuple[str, str]], current: str, room: int = 0) -> None:
        """Replace the rows. An empty table is hidden.

        Args:
            rows: (name, number) of each row.
            current: Name of the row to select.
            room: Number of rows that there is room for, at least, so that nothing below moves when they come.
        """
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
        self.resizeColumnToContents(1)
        names = [name for name, _ in rows]
        if current in names:
            self.selectRow(names.index(current))
        else:
            self.clearSelection()
        self.setFixedHeight(ROW * min(max(len(rows), room), self._max_rows) + 10)
        self.setVisible(bool(rows))
