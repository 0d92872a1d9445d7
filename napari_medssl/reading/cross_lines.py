"""The cross-hair over the viewer's own canvas: two lines, and the gestures that move it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QWidget

from napari_medssl import navigation
from napari_medssl.explore.similarity import CLICK_PIXELS
from napari_medssl.reading.plane import CROSS_HAIR
from napari_medssl.workspace import Workspace


class CrossLines(QObject):
    """Two lines over the canvas, which the mouse does not notice; none in 3D and in the grid of layers."""

    def __init__(self, workspace: Workspace, canvas: QWidget) -> None:
        super().__init__(canvas)
        self.workspace, self.viewer, self._canvas = workspace, workspace.viewer, canvas
        self.lines = QWidget(canvas), QWidget(canvas)
        """The horizontal one and the vertical one."""
        for line in self.lines:
            line.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            line.setStyleSheet(f"background-color: {CROSS_HAIR};")
        canvas.installEventFilter(self)
        dims, camera = self.viewer.dims.events, navigation.camera_of(self.viewer).events
        self._emitters = dims.point, dims.order, dims.ndisplay, camera.zoom, camera.center, camera.orientation
        for emitter in self._emitters:
            emitter.connect(self.place)
        self.viewer.mouse_drag_callbacks.append(self._on_click)
        self.viewer.mouse_move_callbacks.append(self._on_move)
        self.place()

    def remove(self) -> None:
        """Take the lines off the canvas and disconnect from the viewer."""
        for emitter in self._emitters:
            emitter.disconnect(self.place)
        self.viewer.mouse_drag_callbacks.remove(self._on_click)
        self.viewer.mouse_move_callbacks.remove(self._on_move)
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted them already
            for item in (*self.lines, self):
                item.deleteLater()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """The lines follow the size of the canvas."""
        if event is not None and event.type() == QEvent.Type.Resize:
            self.place()
        return False

    def place(self, event: object = None) -> None:
        """Put the lines where the cross-hair is."""
        is_slice = self.viewer.dims.ndisplay == 2 and not navigation.grid_of(self.viewer).enabled
        for line in self.lines:
            line.setVisible(is_slice and self.workspace.scan_layer is not None)
        camera, dims = navigation.camera_of(self.viewer), self.viewer.dims
        down, right = (np.array(dims.point)[list(dims.displayed[-2:])] - camera.center[-2:]) * camera.zoom
        _, vertical, horizontal = camera.orientation
        y = round(self._canvas.height() / 2 + float(-down if vertical == "up" else down))
        x = round(self._canvas.width() / 2 + float(-right if horizontal == "left" else right))
        self.lines[0].setGeometry(0, y, self._canvas.width(), 1)
        self.lines[1].setGeometry(x, 0, 1, self._canvas.height())

    def _on_click(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        """A click moves the cross-hair, unless a tool of the active layer takes it; a drag moves the view."""
        active = viewer.layers.selection.active
        if event.button != 1 or event.modifiers or (active is not None and active.mode != "pan_zoom"):
            return
        start, moved = np.asarray(event.pos), 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.linalg.norm(np.asarray(event.pos) - start)))
            yield
        if moved <= CLICK_PIXELS:
            self._go(event.position)

    def _on_move(self, viewer: ViewerModel, event: Any) -> None:
        """With Shift the cross-hair follows the pointer, whichever tool is active."""
        if tuple(event.modifiers) == ("Shift",):
            self._go(event.position)

    def _go(self, position: Any) -> None:
        layer = self.workspace.scan_layer
        if layer is not None and self.viewer.dims.ndisplay == 2:
            navigation.move_cross_hair(self.viewer, layer, position[-3:])
