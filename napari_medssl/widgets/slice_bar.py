"""A bar that shows which slices along the slider are complete, and the current one."""

from __future__ import annotations

from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPalette
from qtpy.QtWidgets import QWidget

from napari_medssl.widgets.style import ACCENT


class SliceBar(QWidget):
    """Ticks at the complete slices along one axis; a click goes to the nearest one."""

    picked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._length, self._current, self._complete = 1, 0, list[int]()
        self.setFixedHeight(14)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def show_slices(self, length: int, current: int, complete: list[int], plane: str) -> None:
        """Replace the ticks.

        Args:
            length: Number of slices along the axis.
            current: Index of the slice on the screen.
            complete: Indices of the complete slices.
            plane: Name of the plane, such as "axial".
        """
        self._length, self._current, self._complete = max(length, 1), current, complete
        self.setToolTip(f"Complete {plane} slices along the slider; click one to go there")
        self.update()

    def nearest(self, x: float) -> int | None:
        """The complete slice whose tick is nearest to `x` (pixels); None without ticks."""
        position = x / max(self.width(), 1) * self._length - 0.5
        return min(self._complete, key=lambda index: abs(index - position), default=None)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Go to the nearest complete slice."""
        index = self.nearest(event.position().x()) if event is not None else None
        if index is not None:
            self.picked.emit(index)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the groove, the ticks, and a frame at the current slice."""
        painter, step = QPainter(self), self.width() / self._length
        text = self.palette().color(QPalette.ColorRole.WindowText)
        groove = QColor(text)
        groove.setAlpha(26)
        painter.fillRect(QRectF(0, 4, self.width(), 6), groove)
        wide = max(step, 3.0)
        for index in self._complete:
            painter.fillRect(QRectF((index + 0.5) * step - wide / 2, 4, wide, 6), QColor(ACCENT))
        painter.setPen(text)
        painter.drawRect(QRectF((self._current + 0.5) * step - wide / 2 - 1, 1, wide + 1, 11))
        painter.end()
