"""What the dock draws itself: a curve and a bar.

Neither animates: each repaint composes the whole window with the canvas's OpenGL picture, which costs
tens of milliseconds where that is software.
"""

from __future__ import annotations

from qtpy.QtCore import QPointF, QRect, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

from napari_medssl.widgets.style import ACCENT, LINE


class Bar(QWidget):
    """How much is done. QProgressBar would repaint the window at once at every value; this waits its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.fraction = 0.0
        self.setFixedHeight(6)

    def set_fraction(self, fraction: float) -> None:
        """Show a share from 0 to 1."""
        self.fraction = min(max(fraction, 0.0), 1.0)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the groove and what is done of it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(_faint(self.palette().color(QPalette.ColorRole.WindowText), 26))
        painter.drawRoundedRect(self.rect(), 3, 3)
        painter.setBrush(QColor(ACCENT))
        painter.drawRoundedRect(QRectF(0, 0, self.width() * self.fraction, self.height()), 3, 3)
        painter.end()


class Curve(QWidget):
    """A live line of one number over steps, smoothed, with the raw values faint behind it."""

    MOST = 600

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[float, float]] = []
        self.setMinimumHeight(84)
        self.setToolTip("Training loss over steps: it should fall and then flatten.")

    def sizeHint(self) -> QSize:
        """Wide and low."""
        return QSize(240, 84)

    def set_points(self, points: list[tuple[float, float]]) -> None:
        """Replace the whole curve."""
        self.points = points[-20 * self.MOST :]
        self.update()

    def add(self, step: float, value: float) -> None:
        """Append one point."""
        self.points.append((step, value))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw grid, raw values, smoothed line and the newest value."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        ground = self.rect().adjusted(0, 0, -1, -1)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(_faint(text, 14))
        painter.drawRoundedRect(ground, 4, 4)
        area = ground.adjusted(8, 18, -8, -8)
        painter.setPen(QPen(_faint(text, 26), 1))
        for part in range(3):
            y = area.top() + area.height() * part // 2
            painter.drawLine(area.left(), y, area.right(), y)
        points = self.points[:: max(1, len(self.points) // self.MOST)]
        smooth = _smoothed([value for _, value in points])
        if len(points) > 1:
            low, high = min(smooth), max(smooth)
            margin = (high - low) * 0.08 or 1e-6
            limits = (points[0][0], points[-1][0], low - margin, high + margin)
            raw = [(step, min(max(value, low - margin), high + margin)) for step, value in points]
            painter.setPen(QPen(_faint(QColor(LINE), 60), 1))
            painter.drawPolyline(_polygon(raw, limits, area))
            line = [(step, value) for (step, _), value in zip(points, smooth, strict=True)]
            painter.setPen(QPen(QColor(LINE), 1.8))
            painter.drawPolyline(_polygon(line, limits, area))
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() - 1))
        painter.setFont(font)
        painter.setPen(_faint(text, 170))
        words = f"loss {smooth[-1]:.3f}" if points else "loss"
        painter.drawText(ground.adjusted(8, 3, -8, 0), Qt.AlignmentFlag.AlignLeft, words)
        if points:
            painter.drawText(
                ground.adjusted(8, 3, -8, 0), Qt.AlignmentFlag.AlignRight, f"step {points[-1][0]:.0f}"
            )
        painter.end()


def _faint(color: QColor, alpha: int) -> QColor:
    return QColor(color.red(), color.green(), color.blue(), alpha)


def _smoothed(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smooth, sum_, scale = [], 0.0, 0.0
    for value in values:
        sum_ = weight * sum_ + (1 - weight) * value
        scale = weight * scale + (1 - weight)
        smooth.append(sum_ / scale)
    return smooth


def _polygon(
    points: list[tuple[float, float]], limits: tuple[float, float, float, float], area: QRect
) -> QPolygonF:
    """(step, value) points in the rectangle; limits: first and last step, lowest and highest value."""
    first, last, low, high = limits
    width, height = max(last - first, 1e-9), max(high - low, 1e-9)
    return QPolygonF(
        [
            QPointF(
                area.left() + (step - first) / width * area.width(),
                area.bottom() - (value - low) / height * area.height(),
            )
            for step, value in points
        ]
    )
