"""Letters at the edges of the picture: towards which side of the patient it goes there.

They are labels over the canvas, not overlays of napari, which has no place for text at the middle of an edge
before version 0.9; and so they are the same over every canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from napari.components import ViewerModel
from qtpy.QtCore import QEvent, QObject, QPoint, Qt
from qtpy.QtWidgets import QLabel, QWidget

from napari_medssl import layers
from napari_medssl.navigation import camera_of

TOWARDS, AWAY = "SAR", "IPL"
"""Where the canonical axes z, y, x lead, and where they come from; of an oblique scan, the nearest."""
MARGIN_PIXELS = 6
STYLE = (
    "background-color: rgba(0, 0, 0, 130); color: white; border-radius: 3px; padding: 1px 5px;"
    "font-weight: 600; font-size: 12pt;"
)


def edge_letters(displayed: Sequence[int], orientation: Sequence[str]) -> str:
    """The letters at the left, right, upper and lower edge.

    Args:
        displayed: Canonical axes down and across the screen.
        orientation: Depth, vertical and horizontal orientation of the camera, as napari names them.
    """
    vertical, horizontal = displayed
    to_left, to_top = orientation[2] == "left", orientation[1] == "up"
    left, right = (TOWARDS, AWAY) if to_left else (AWAY, TOWARDS)
    top, bottom = (TOWARDS, AWAY) if to_top else (AWAY, TOWARDS)
    return left[horizontal] + right[horizontal] + top[vertical] + bottom[vertical]


class CanvasLabel(QLabel):
    """A word over a picture, readable on every ground; the mouse does not notice it."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setStyleSheet(STYLE)
        self.hide()

    def show_text(self, text: str) -> None:
        """Replace the text; an empty one hides the label."""
        if text == self.text():
            return
        self.setText(text)
        self.adjustSize()
        self.setVisible(bool(text))


class EdgeLetters(QObject):
    """Four letters over a widget that shows a slice; the mouse does not notice them."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self.labels = [CanvasLabel(widget) for _ in range(4)]
        self._widget = widget
        widget.installEventFilter(self)

    def show_letters(self, letters: str) -> None:
        """Replace the letters at the left, right, upper and lower edge; an empty text hides them."""
        for label, letter in zip(self.labels, letters or " " * 4, strict=True):
            label.show_text(letter.strip())
        self._place()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Keep the letters at the edges of the resized widget."""
        if event is not None and event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def remove(self) -> None:
        """Take the letters off the widget."""
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted them already
            for item in (*self.labels, self):
                item.deleteLater()

    def _place(self) -> None:
        width, height = self._widget.width(), self._widget.height()
        for label, (across, down) in zip(self.labels, ((0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1)), strict=True):
            free_x, free_y = (
                width - label.width() - 2 * MARGIN_PIXELS,
                height - label.height() - 2 * MARGIN_PIXELS,
            )
            label.move(QPoint(MARGIN_PIXELS + round(across * free_x), MARGIN_PIXELS + round(down * free_y)))


class ViewerLetters:
    """Shows the letters of what the viewer displays: nothing in 3D, or without a scan."""

    def __init__(self, viewer: ViewerModel, canvas: QWidget) -> None:
        self.viewer = viewer
        self.edges = EdgeLetters(canvas)
        dims, stack = viewer.dims.events, viewer.layers.events
        self._emitters = (
            dims.order, dims.ndisplay, dims.ndim, stack.inserted, stack.removed,
            camera_of(viewer).events.orientation,
        )  # fmt: skip
        for emitter in self._emitters:
            emitter.connect(self.refresh)
        self.refresh()

    def close(self) -> None:
        """Disconnect from the viewer."""
        for emitter in self._emitters:
            emitter.disconnect(self.refresh)
        self.edges.remove()

    def refresh(self, event: object = None) -> None:
        """Show the letters of the present view."""
        dims, extra = self.viewer.dims, self.viewer.dims.ndim - 3
        displayed = [axis - extra for axis in dims.displayed]
        known = any(layers.entry_of(layer) for layer in self.viewer.layers)
        if not known or dims.ndisplay != 2 or min(displayed) < 0:
            self.edges.show_letters("")
        else:
            self.edges.show_letters(edge_letters(displayed, camera_of(self.viewer).orientation))
