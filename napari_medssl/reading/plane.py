"""One plane of the scan beside the viewer's canvas: it shows the viewer's layers, navigates and paints.

It is a plain widget, not another canvas of napari: it shares the layers instead of copying them, and a stroke
is one edit of the annotation, recorded like any other (annotate/edits.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from medssl.core.io.geometry import AXIS_NAMES
from napari.layers import Image, Labels, Layer
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QTransform, QWheelEvent
from qtpy.QtWidgets import QWidget

from napari_medssl import navigation
from napari_medssl.annotate.autosave import STROKE
from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.range_brush import RangeBrush
from napari_medssl.error_handling import catch_errors
from napari_medssl.reading.brush import PAINTING, SliceStroke
from napari_medssl.reading.directions import MARGIN_PIXELS, CanvasLabel, EdgeLetters, edge_letters
from napari_medssl.reading.layer_picture import LayerPicture, Page
from napari_medssl.reading.slice_image import indexed_image

CROSS_HAIR = "#5fe3c0"
FILLED = 0.95
"""Share of the widget that the scan fills."""
WHEEL_STEP = 120
"""What Qt reports for one notch of a wheel."""
ZOOM = 1.2


class Plane(QWidget):
    """A slice of the scan on the screen, through the cross-hair."""

    enlarged = Signal()
    """Double-clicked: the large canvas should show this plane."""

    def __init__(self, edits: Edits, range_brush: RangeBrush) -> None:
        super().__init__()
        self.edits, self.range_brush, self.workspace = edits, range_brush, edits.workspace
        self.viewer, self.session = self.workspace.viewer, self.workspace.session
        self.axis = 1
        self._zoom, self._moved = 1.0, QPointF()
        self._notches = 0.0
        self._pointer: QPointF | None = None
        self._drag: Callable[[QPointF], None] | None = None
        self._stroke: SliceStroke | None = None
        self._picture = LayerPicture()
        self._letters = EdgeLetters(self)
        self._title = CanvasLabel(self)
        self._title.move(MARGIN_PIXELS, MARGIN_PIXELS)
        self.setMouseTracking(True)
        self.setMinimumSize(120, 100)

    def show_axis(self, axis: int) -> None:
        """Show the slices across a canonical axis."""
        if axis != self.axis:
            self._stroke, self._drag, self._zoom, self._moved = None, None, 1.0, QPointF()
        self.axis = axis
        orientation = navigation.camera_of(self.viewer).orientation
        self._letters.show_letters(edge_letters(self._in_plane, orientation))
        index = self._index
        self._title.show_text("" if index is None else f"{AXIS_NAMES[axis].capitalize()} {index}")
        self.update()

    def redraw(self, layer: Layer) -> None:
        """A layer looks different now."""
        self._picture.forget(layer)
        self.update()

    # --- places --------------------------------------------------------------------------------------

    @property
    def _in_plane(self) -> tuple[int, int]:
        """The axes down and across the screen."""
        down, right = (other for other in range(3) if other != self.axis)
        return down, right

    @property
    def _index(self) -> int | None:
        """Number of the slice; None without a scan."""
        scan = self.workspace.scan_layer
        if scan is None:
            return None
        return round(float(scan.world_to_data(navigation.cross_hair(self.viewer))[self.axis]))

    def _to_screen(self, scan: Image) -> QTransform:
        """From mm across and down the plane to pixels of the widget."""
        size, start = np.asarray(scan.scale) * scan.data.shape, np.asarray(scan.translate) - scan.scale / 2
        down, right = self._in_plane
        scale = FILLED * self._zoom * min(self.width() / size[right], self.height() / size[down])
        _, vertical, horizontal = navigation.camera_of(self.viewer).orientation
        middle = QPointF(start[right] + size[right] / 2, start[down] + size[down] / 2)
        transform = QTransform()
        transform.translate(self.width() / 2 + self._moved.x(), self.height() / 2 + self._moved.y())
        transform.scale(-scale if horizontal == "left" else scale, -scale if vertical == "up" else scale)
        return transform.translate(-middle.x(), -middle.y())

    def point_mm(self, position: QPointF) -> np.ndarray | None:
        """The point of the patient at a position of the widget, in mm along z, y, x, float (3,)."""
        scan = self.workspace.scan_layer
        if scan is None:
            return None
        inverse, _ = self._to_screen(scan).inverted()
        there = inverse.map(position)
        point = navigation.cross_hair(self.viewer)
        down, right = self._in_plane
        point[down], point[right] = there.y(), there.x()
        return point

    def position_of(self, point_mm: np.ndarray) -> QPointF:
        """The inverse of `point_mm`, for a point (z, y, x) in mm while a scan is on the screen."""
        scan = self.workspace.scan_layer
        assert scan is not None
        down, right = self._in_plane
        return self._to_screen(scan).map(QPointF(point_mm[right], point_mm[down]))

    # --- the mouse -----------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Paint, move the cross-hair or the picture, until the button goes up."""
        if event is None or self.workspace.scan_layer is None:
            return
        if event.button() == Qt.MouseButton.RightButton:
            start, moved = event.position(), self._moved
            self._drag = lambda position: self._pan(moved + position - start)
        elif event.button() == Qt.MouseButton.LeftButton:
            layer, point = self._brush, self.point_mm(event.position())
            if layer is not None and point is not None:
                catch_errors(self.session, lambda: self.range_brush.begin(layer, point, self.axis))
            self._drag = self._go if layer is None else self._brush_from(layer, event.position())
            self._drag(event.position())

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Go on with what the button began; with Shift the cross-hair follows the pointer."""
        if event is None:
            return
        self._pointer = event.position()
        if self._drag is not None:
            self._drag(event.position())
        elif event.modifiers() == Qt.KeyboardModifier.ShiftModifier:
            self._go(event.position())
        if self._brush is not None:  # its outline follows the pointer
            self.update()

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """The end of a drag; a stroke becomes part of the annotation."""
        stroke, self._stroke, self._drag = self._stroke, None, None
        if stroke is not None and stroke.layer == self.workspace.annotation_layer:  # not of another scan now
            catch_errors(self.session, lambda: self._apply(stroke), STROKE)
            self.update()

    def _apply(self, stroke: SliceStroke) -> None:
        voxels, labels = stroke.edit()
        kept = self.range_brush.may_paint(voxels) | (labels == 0)
        self.edits.apply(voxels[kept], labels[kept])

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:
        """Enlarge this plane, unless somebody paints."""
        if self._brush is None:
            self.enlarged.emit()
        else:
            self.mousePressEvent(event)

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Go through the slices; with Ctrl, zoom."""
        scan = self.workspace.scan_layer
        if event is None or scan is None or self._drag is not None:
            return
        self._notches += event.angleDelta().y() / WHEEL_STEP
        steps, self._notches = int(self._notches), self._notches - int(self._notches)
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            factor = max(ZOOM**steps, 1 / self._zoom)
            middle = QPointF(self.width() / 2, self.height() / 2)
            offset = event.position() - middle
            self._zoom *= factor
            self._pan(offset + (self._moved - offset) * factor if self._zoom > 1 else QPointF())
        elif steps:
            point = navigation.cross_hair(self.viewer)
            point[self.axis] += steps * scan.scale[self.axis]
            navigation.move_cross_hair(self.viewer, scan, point)
        event.accept()

    def leaveEvent(self, event: QEvent | None) -> None:
        """The brush leaves with the pointer."""
        self._pointer = None
        self.update()

    def _pan(self, moved: QPointF) -> None:
        self._moved = moved
        self.update()

    def _go(self, position: QPointF) -> None:
        point, scan = self.point_mm(position), self.workspace.scan_layer
        if point is not None and scan is not None:
            navigation.move_cross_hair(self.viewer, scan, point)

    # --- painting ------------------------------------------------------------------------------------

    @property
    def _brush(self) -> Labels | None:
        """The annotation layer while its brush or eraser is the active tool."""
        layer = self.workspace.annotation_layer
        # Not "is": napari hands plugins proxies of its layers, a new one each time.
        if layer is None or self.viewer.layers.selection.active != layer:
            return None
        return layer if layer.editable and layer.mode in PAINTING else None

    def _brush_from(self, layer: Labels, position: QPointF) -> Callable[[QPointF], None]:
        """A stroke that begins at a position; call the result with each next one."""
        last, self._stroke = position, SliceStroke(layer, self.axis, self._index or 0)

        def paint_to(there: QPointF) -> None:
            nonlocal last
            start, end = self.point_mm(last), self.point_mm(there)
            last = there
            if start is not None and end is not None and self._stroke is not None:
                self._stroke.extend(start, end, self.workspace.brush_size.radius_mm)
                self.update()

        return paint_to

    # --- drawing -------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the layers from the bottom to the top, then stroke, cross-hair and brush."""
        painter, scan = QPainter(self), self.workspace.scan_layer
        ground = QColor(*get_theme(self.viewer.theme).canvas.as_rgb_tuple(alpha=False))
        if scan is None:
            painter.fillRect(self.rect(), ground)
        else:
            point = navigation.cross_hair(self.viewer)
            transform, page = self._to_screen(scan), Page(self.size(), self.devicePixelRatioF(), ground)
            painter.drawPixmap(0, 0, self._picture.of(self.viewer.layers, self.axis, point, transform, page))
            painter.setTransform(transform)
            self._draw_stroke(painter)
            self._draw_cross_hair(painter, point)
        painter.end()

    @property
    def _pixels_per_mm(self) -> float:
        scan = self.workspace.scan_layer
        return abs(self._to_screen(scan).m11()) if scan is not None else 1.0

    def _draw_stroke(self, painter: QPainter) -> None:
        if self._stroke is None:
            return
        layer, covered = self._stroke.layer, self._stroke.covered
        color = layer.get_color(self._stroke.label) if self._stroke.label else (0, 0, 0, 1)
        image = indexed_image(covered.view(np.uint8), np.array([(0, 0, 0, 0), color]))
        rows, columns = covered.shape
        down, right = (layer.scale[axis] for axis in self._in_plane)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
        painter.setOpacity(layer.opacity)
        painter.drawImage(QRectF(-right / 2, -down / 2, columns * right, rows * down), image)

    def _draw_cross_hair(self, painter: QPainter, point: np.ndarray) -> None:
        painter.resetTransform()
        painter.setOpacity(0.7)
        centre, color = self.position_of(point), QColor(CROSS_HAIR)
        painter.fillRect(0, round(centre.y()), self.width(), 1, color)  # ten times as fast as a line
        painter.fillRect(round(centre.x()), 0, 1, self.height(), color)
        painter.setOpacity(1)
        if self._brush is not None and self._pointer is not None:
            painter.setPen(QPen(color, 1))
            radius = self.workspace.brush_size.radius_mm * self._pixels_per_mm
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.drawEllipse(self._pointer, radius, radius)
