"""Keeps napari from freeing GPU objects in a foreign OpenGL context, which ends in a segmentation fault.

When a layer is removed, napari (0.9.2, `VispyCanvas._clean_and_update_scenegraph`) deletes its textures,
buffers and programs at once, in whichever OpenGL context is current: usually the one in which Qt composes the
window. Objects of the same number are then freed there, and the next draw of the canvas reads freed memory.
"""

from __future__ import annotations

from collections.abc import Callable

from napari.components import ViewerModel
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QWidget


def make_canvas_current_on_removal(viewer: ViewerModel, dock: QWidget) -> Callable[[], None]:
    """Make the OpenGL context of the canvas current before each removal of a layer.

    Args:
        viewer: The viewer whose layers are watched.
        dock: A widget in its window, docked or floating.

    Returns:
        A function that stops it.
    """

    def make_current(event: object) -> None:
        for canvas in window_of(dock).findChildren(QOpenGLWidget):
            canvas.makeCurrent()

    viewer.layers.events.removing.connect(make_current)
    return lambda: viewer.layers.events.removing.disconnect(make_current)


def window_of(widget: QWidget) -> QWidget:
    """napari's window, around a docked or a floating widget."""
    top = widget
    while (parent := top.parentWidget()) is not None:  # a floating dock is a window with a parent
        top = parent
    return top
