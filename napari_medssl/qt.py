"""What the plugin asks of Qt in several places, with the types that the bindings' stubs leave open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from qtpy.QtCore import QObject, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem

T = TypeVar("T")


def not_none(value: T | None) -> T:
    """A value that PyQt declares as optional, where Qt always returns one.

    Raises:
        TypeError: It is None after all: a defect of the caller.
    """
    if value is None:
        raise TypeError("Qt returned nothing where it always returns an object")
    return value


class Table(QTableWidget):
    """A table whose letters are the viewer's keys; Qt would search for a row, or edit the selected one."""

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
