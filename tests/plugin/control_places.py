"""Where the controls of the dock are, to see that nothing moves under the pointer."""

from __future__ import annotations

from qtpy.QtCore import QPoint, QRect
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QAbstractItemView, QAbstractSpinBox, QComboBox, QLineEdit, QWidget

from napari_medssl.widgets.slice_bar import SliceBar

CONTROLS = (QAbstractButton, QComboBox, QAbstractSpinBox, QAbstractItemView, QLineEdit, SliceBar)
PAUSE_MS = 40
"""Qt lays widgets out when it has nothing else to do."""

Places = dict[QWidget, QRect]


def places(dock: QWidget) -> Places:
    """The controls of the open step and above the steps, and where they are when Qt has laid them out."""
    last: Places | None = None
    while (now := _places(dock)) != last:
        last = now
        QTest.qWait(PAUSE_MS)
    return now


def _places(dock: QWidget) -> Places:
    bodies = [step.body for step in dock.steps if step.isExpanded()]
    seen = [widget for part in (dock.view_bar, *bodies) for widget in part.findChildren(QWidget)
            if isinstance(widget, CONTROLS)]  # fmt: skip
    return {
        widget: QRect(widget.mapTo(dock, QPoint(0, 0)), widget.size())
        for widget in seen
        if widget.isVisible() and not isinstance(widget.parentWidget(), CONTROLS)
    }


def jumped(before: Places, after: Places) -> list[str]:
    """What is now where something else was.

    Returns:
        A line for each control that has moved, or has come to a place where another one was. What has gone
        and left its place empty is not named.
    """
    lines = [
        f"{_name(widget)}: {_text(before[widget])} -> {_text(rect)}"
        for widget, rect in after.items()
        if widget in before and rect != before[widget]
    ]
    for widget, rect in after.items():
        covers = [_name(other) for other, place in before.items() if place.intersects(rect)]
        if widget not in before and covers:
            lines.append(f"{_name(widget)} came to the place of {', '.join(covers)}")
    return lines


def _name(widget: QWidget) -> str:
    words = widget.text() if isinstance(widget, QAbstractButton) else ""
    return words or type(widget).__name__


def _text(rect: QRect) -> str:
    return f"{rect.x()},{rect.y()} {rect.width()}x{rect.height()}"
