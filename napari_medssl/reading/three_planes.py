"""Axial, coronal and sagittal slices together, linked by a cross-hair.

The viewer's canvas stays what it is and shows one plane; two widgets in a dock below it show the others. The
cross-hair is where the viewer's sliders stand, so whatever moves them moves all three.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from napari.layers import Layer
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QSplitter, QWidget

from napari_medssl import navigation
from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.range_brush import RangeBrush
from napari_medssl.canvas_context import window_of
from napari_medssl.reading.canvas import main_canvas
from napari_medssl.reading.cross_lines import CrossLines
from napari_medssl.reading.plane import Plane
from napari_medssl.reading.window_level import WindowLevel

SHARE = 0.45
"""Of the height of the window's middle, for the two planes below."""
CORNERS = (
    (Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea),
    (Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea),
)
COMPOSED = ("opacity", "blending", "mode")
"""Events of a layer after which planes are drawn again, but not its slices."""
REDRAWN = (
    "data", "visible", "colormap", "contrast_limits", "gamma", "labels_update", "contour", "scale",
    "translate", "interpolation2d",
)  # fmt: skip
"""Events after which its slices are."""


class ThreePlanes:
    """Switches the two other planes on and off."""

    changed = Signal()

    def __init__(self, edits: Edits, range_brush: RangeBrush, window: WindowLevel) -> None:
        self.edits, self.range_brush, self.workspace = edits, range_brush, edits.workspace
        self.window = window
        self.viewer = self.workspace.viewer
        self.planes: tuple[Plane, ...] = ()
        self._dock: QDockWidget | None = None
        self._lines: CrossLines | None = None
        self._corners: list[Any] = []
        self._views: dict[object, object] = {}
        """By layer, what the viewer showed when its slice was read last."""

    @property
    def on(self) -> bool:
        """Whether they are shown."""
        return self._dock is not None

    def switch(self, on: bool, widget: QWidget) -> None:
        """Show the two other planes in the main window of a widget, or remove them."""
        window, canvas = window_of(widget), main_canvas(widget)
        if on and not self.on and isinstance(window, QMainWindow) and canvas is not None:
            self._open(window, canvas)
        elif not on:
            self.close()
        self.changed.emit()

    def close(self) -> None:
        """Remove the planes, and what was changed for them."""
        if self._dock is None or self._lines is None:
            return
        for emitter in self._emitters:
            emitter.disconnect(self.refresh)
        for layer in self.viewer.layers:
            self._watch(layer, "disconnect")
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self._lines.remove()
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted the window already
            window = self._dock.parentWidget()
            if isinstance(window, QMainWindow):
                for corner, area in self._corners:
                    window.setCorner(corner, area)
                window.removeDockWidget(self._dock)
            self._dock.deleteLater()
        self._dock, self._lines, self.planes = None, None, ()

    def refresh(self, event: object = None) -> None:
        """Show the two planes that the viewer's canvas does not show."""
        dims = self.viewer.dims
        if dims.ndim < 3:
            return
        large = dims.order[-3] - (dims.ndim - 3)
        for plane, axis in zip(self.planes, (axis for axis in range(3) if axis != large), strict=False):
            plane.show_axis(axis)

    def _recompose(self, event: object = None) -> None:
        """Qt draws once for all events of a stroke or of another slice."""
        for plane in self.planes:
            plane.update()

    def _redraw(self, event: Any) -> None:
        for plane in self.planes:
            plane.redraw(event.source)

    def _on_set_data(self, event: Any) -> None:
        """The viewer has read a slice: it shows another one, or the layer's data have changed."""
        before, now = self._views.get(event.source.unique_id), self._view()
        self._views[event.source.unique_id] = now
        if before == now:
            self._redraw(event)

    def _view(self) -> object:
        dims = self.viewer.dims
        return dims.point, dims.order, dims.ndisplay

    def _open(self, window: QMainWindow, canvas: QWidget) -> None:
        self._centre()
        self.planes = tuple(Plane(self.edits, self.range_brush) for _ in range(2))
        splitter = QSplitter(Qt.Orientation.Horizontal)
        for plane in self.planes:
            splitter.addWidget(plane)
            plane.enlarged.connect(lambda plane=plane: self._enlarge(plane))
            self.window.drag_on(plane)
        self._dock = QDockWidget("Planes", window)
        self._dock.setObjectName("medssl planes")
        self._dock.setFeatures(QDockWidget.DockWidgetFeature.NoDockWidgetFeatures)
        self._dock.setTitleBarWidget(QWidget())
        self._dock.setWidget(splitter)
        self._corners = [(corner, window.corner(corner)) for corner, _ in CORNERS]
        for corner, area in CORNERS:
            window.setCorner(corner, area)
        height = round(SHARE * canvas.height())
        window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, self._dock)
        window.resizeDocks([self._dock], [height], Qt.Orientation.Vertical)
        self._lines = CrossLines(self.workspace, canvas)
        self._connect()
        self.refresh()
        self.viewer.reset_view()

    def _connect(self) -> None:
        dims, stack = self.viewer.dims.events, self.viewer.layers.events
        camera = navigation.camera_of(self.viewer).events
        self._emitters = (
            dims.point,
            dims.order,
            dims.ndisplay,
            stack.inserted,
            stack.removed,
            stack.reordered,
            camera.orientation,
        )
        for emitter in self._emitters:
            emitter.connect(self.refresh)
        for layer in self.viewer.layers:
            self._watch(layer, "connect")
        stack.inserted.connect(self._on_inserted)
        stack.removed.connect(self._on_removed)

    def _watch(self, layer: Layer, action: str) -> None:
        self._views[layer.unique_id] = self._view()
        listeners = {"set_data": self._on_set_data, **dict.fromkeys(COMPOSED, self._recompose)}
        for name, listener in {**listeners, **dict.fromkeys(REDRAWN, self._redraw)}.items():
            emitter = getattr(layer.events, name, None)
            if emitter is not None:
                getattr(emitter, action)(listener)

    def _on_inserted(self, event: Any) -> None:
        self._watch(event.value, "connect")

    def _on_removed(self, event: Any) -> None:
        self._watch(event.value, "disconnect")
        del self._views[event.value.unique_id]

    def _enlarge(self, plane: Plane) -> None:
        scan = self.workspace.scan_layer
        if scan is not None:
            point = navigation.cross_hair(self.viewer)
            index = round(scan.world_to_data(point)[plane.axis])
            self.workspace.go_to(plane.axis, int(index))
            navigation.move_cross_hair(self.viewer, scan, point)

    def _centre(self) -> None:
        """Begin in the middle of the canvas: where the sliders stand that it does not use means nothing."""
        scan = self.workspace.scan_layer
        if scan is None or self.viewer.dims.ndisplay != 2:
            return
        point, centre = navigation.cross_hair(self.viewer), navigation.camera_of(self.viewer).center
        for axis, place in zip(self.viewer.dims.displayed, centre[-2:], strict=True):
            point[axis - self.viewer.dims.ndim] = place
        navigation.move_cross_hair(self.viewer, scan, point)
