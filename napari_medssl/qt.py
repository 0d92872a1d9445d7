"""What the plugin asks of Qt in several places, with the types that the bindings' stubs leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem

T = TypeVar("T")
HEADER_HEIGHT = 24
"""Of a table, in pixels."""


def not_none(value: T | None) -> T:
    """A value that PyQt declares as optional, where Qt always returns one.

    Raises:
        TypeError: It is None after all: a defect of the caller.
    """
    if value is None:
        raise TypeError("Qt returned nothing where it always returns an object")
    return value


class Table(QTableWidget):
    """A table of rows to choose one of; its columns keep their widths, except one that takes what is left.

    Letters are the viewer's keys; Qt would search for a row, or edit the selected one.
    """

    def __init__(self, columns: Iterable[tuple[str, str]], row_height: int, stretch: int) -> None:
        """Args:
        columns: (header, its tooltip) of each column.
        row_height: Height of a row in pixels.
        stretch: Index of the column that takes what is left of the width.
        """
        columns = list(columns)
        super().__init__(0, len(columns))
        for position, (text, tip) in enumerate(columns):
            item = QTableWidgetItem(text)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(position, item)
        header, row_header = headers(self)
        # ResizeToContents would measure all rows again whenever a cell changes.
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(stretch, QHeaderView.ResizeMode.Stretch)
        header.setFixedHeight(HEADER_HEIGHT)
        header.setHighlightSections(False)
        row_header.hide()
        row_header.setDefaultSectionSize(row_height)
        self.setShowGrid(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setEditTriggers(self.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(self.SelectionBehavior.SelectRows)
        self.setSelectionMode(self.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Pass letters on, to the dock and from there to the viewer."""
        if event is not None and event.text().isalpha():
            event.ignore()
        else:
            super().keyPressEvent(event)


def cell(table: QTableWidget, row: int, column: int) -> QTableWidgetItem:
    """The item in a cell that has been filled."""
    return not_none(table.item(row, column))


def headers(table: QTableWidget) -> tuple[QHeaderView, QHeaderView]:
    """The horizontal and the vertical header of a table."""
    return not_none(table.horizontalHeader()), not_none(table.verticalHeader())


def timer(
    interval_ms: int, action: Callable[[], object], single_shot: bool = True, parent: QObject | None = None
) -> QTimer:
    """A timer that calls `action`; not started yet."""
    made = QTimer(parent)
    made.setInterval(interval_ms)
    made.setSingleShot(single_shot)
    made.timeout.connect(action)
    return made
