"""A strip beside the slider: which slices along it are complete, and where the one on the screen is."""

from __future__ import annotations

from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPalette
from qtpy.QtWidgets import QWidget

from napari_medssl.widgets.style import ACCENT


class SliceStrip(QWidget):
    """Marks of the complete slices along one axis; a click goes to the nearest."""

    picked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._length, self._here, self._marks = 1, 0, list[int]()
        self.setFixedHeight(14)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def show_slices(self, length: int, here: int, marks: list[int], plane: str) -> None:
        """Of `length` slices, those in `marks` are complete and `here` is on the screen."""
        self._length, self._here, self._marks = max(length, 1), here, marks
        self.setToolTip(f"Complete {plane} slices along the slider; click one to go there")
        self.update()

    def nearest(self, x: float) -> int | None:
        """The complete slice whose mark is nearest to a place on the strip."""
        at = x / max(self.width(), 1) * self._length - 0.5
        return min(self._marks, key=lambda mark: abs(mark - at), default=None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the nearest mark."""
        mark = self.nearest(event.position().x())
        if mark is not None:
            self.picked.emit(mark)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the groove, a mark a complete slice, and a frame where the viewer is."""
        painter, step = QPainter(self), self.width() / self._length
        text = self.palette().color(QPalette.ColorRole.WindowText)
        groove = QColor(text)
        groove.setAlpha(26)
        painter.fillRect(QRectF(0, 4, self.width(), 6), groove)
        wide = max(step, 3.0)
        for mark in self._marks:
            painter.fillRect(QRectF((mark + 0.5) * step - wide / 2, 4, wide, 6), QColor(ACCENT))
        painter.setPen(text)
        painter.drawRect(QRectF((self._here + 0.5) * step - wide / 2 - 1, 1, wide + 1, 11))
        painter.end()
