"""Learning curves and a progress bar, drawn by the dock itself.

Neither is animated: each repaint composes the whole window with the OpenGL canvas, which takes tens of
milliseconds with software rendering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import QPointF, QRect, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

from napari_medssl.widgets.style import ACCENT, DICE_ON_DARK, DICE_ON_LIGHT, LINE


class ProgressBar(QWidget):
    """A progress bar. QProgressBar would repaint the window at every value; this one coalesces repaints."""

    def __init__(self) -> None:
        super().__init__()
        self.fraction = 0.0
        self.setFixedHeight(6)

    def set_fraction(self, fraction: float) -> None:
        """Show a fraction from 0 to 1."""
        self.fraction = min(max(fraction, 0.0), 1.0)
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the groove and the completed part."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(_faint(self.palette().color(QPalette.ColorRole.WindowText), 26))
        painter.drawRoundedRect(self.rect(), 3, 3)
        painter.setBrush(QColor(ACCENT))
        painter.drawRoundedRect(QRectF(0, 0, self.width() * self.fraction, self.height()), 3, 3)
        painter.end()


class LearningCurve(QWidget):
    """Smoothed loss over steps with the raw values behind it, and the Dice on a validation slice.

    The loss is scaled to its own range; Dice has an axis of its own on the right, from 0 to 1.
    """

    MAX_POINTS = 600

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[float, float]] = []
        self.dice: list[tuple[float, float]] = []
        self.setMinimumHeight(84)
        self.setToolTip(
            "Training loss over steps: it should fall and then flatten.\n"
            "Dice on the validation slice, from 0 to 1, if one is held out."
        )

    def sizeHint(self) -> QSize:
        """Preferred size in pixels."""
        return QSize(240, 84)

    def set_points(self, points: list[tuple[float, float]], dice: Sequence[tuple[float, float]] = ()) -> None:
        """Replace both curves, given as (step, value)."""
        self.points, self.dice = points[-20 * self.MAX_POINTS :], list(dice)
        self.update()

    def add(self, step: float, values: Mapping[str, float]) -> None:
        """Append the scalars "loss" and "dice", if present."""
        if "loss" in values:
            self.points.append((step, values["loss"]))
        if "dice" in values:
            self.dice.append((step, values["dice"]))
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw grid, curves and their newest values."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        background = self.rect().adjusted(0, 0, -1, -1)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(_faint(text, 14))
        painter.drawRoundedRect(background, 4, 4)
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() - 1))
        painter.setFont(font)
        area = background.adjusted(8, 18, -24 if self.dice else -8, -8)
        for part, value in enumerate(("1", "", "0")):
            y = area.top() + area.height() * part // 2
            painter.setPen(QPen(_faint(text, 26), 1))
            painter.drawLine(area.left(), y, area.right(), y)
            if self.dice and value:
                painter.setPen(_dice_color(text))
                label = QRect(area.right() + 6, y - 8, 14, 16)
                painter.drawText(label, Qt.AlignmentFlag.AlignVCenter, value)
        loss = self._draw_loss(painter, area)
        self._draw_dice(painter, area, _dice_color(text))
        self._write(painter, background.adjusted(8, 3, -8, 0), text, loss)
        painter.end()

    def _draw_loss(self, painter: QPainter, area: QRect) -> float | None:
        """The newest smoothed value, or None."""
        points = self.points[:: max(1, len(self.points) // self.MAX_POINTS)]
        smooth = _smoothed([value for _, value in points])
        if len(points) > 1:
            low, high = min(smooth), max(smooth)
            margin = (high - low) * 0.08 or 1e-6
            limits = (*self._steps(), low - margin, high + margin)
            raw = [(step, min(max(value, low - margin), high + margin)) for step, value in points]
            painter.setPen(QPen(_faint(QColor(LINE), 60), 1))
            painter.drawPolyline(_polygon(raw, limits, area))
            line = [(step, value) for (step, _), value in zip(points, smooth, strict=True)]
            painter.setPen(QPen(QColor(LINE), 1.8))
            painter.drawPolyline(_polygon(line, limits, area))
        return smooth[-1] if smooth else None

    def _draw_dice(self, painter: QPainter, area: QRect, color: QColor) -> None:
        if self.dice:
            polygon = _polygon(self.dice, (*self._steps(), 0.0, 1.0), area)
            painter.setPen(QPen(color, 1.8, Qt.PenStyle.DashLine))
            painter.drawPolyline(polygon)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(color)
            painter.drawEllipse(polygon.last(), 2.5, 2.5)

    def _steps(self) -> tuple[float, float]:
        steps = [step for step, _ in (*self.points[:1], *self.points[-1:], *self.dice[:1], *self.dice[-1:])]
        return min(steps), max(steps)

    def _write(self, painter: QPainter, line: QRect, text: QColor, loss: float | None) -> None:
        """The newest values above the curves: loss left, Dice in the middle, step right."""
        painter.setPen(_faint(text, 170))
        caption = "loss" if loss is None else f"loss {loss:.3f}"
        painter.drawText(line, Qt.AlignmentFlag.AlignLeft, caption)
        if self.points:
            painter.drawText(line, Qt.AlignmentFlag.AlignRight, f"step {self.points[-1][0]:.0f}")
        if self.dice:
            painter.setPen(_dice_color(text))
            painter.drawText(line, Qt.AlignmentFlag.AlignHCenter, f"Dice {self.dice[-1][1]:.2f}")


def _dice_color(text: QColor) -> QColor:
    """A shade with contrast to the background: light text means a dark background."""
    return QColor(DICE_ON_DARK if text.lightnessF() > 0.5 else DICE_ON_LIGHT)


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
