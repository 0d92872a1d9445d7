"""The main canvas of the window, by Qt's public interface."""

from __future__ import annotations

from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_medssl.canvas_context import window_of


def main_canvas(widget: QWidget) -> QOpenGLWidget | None:
    """The canvas in the centre of a widget's main window; None before the widget is in one."""
    window = window_of(widget)
    centre = window.centralWidget() if isinstance(window, QMainWindow) else None
    return centre.findChild(QOpenGLWidget) if centre is not None else None
