"""napari frees the GPU objects of a removed layer in whichever OpenGL context is current."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtGui import QOpenGLContext
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtTest import QTest

pytestmark = pytest.mark.viewer


@pytest.mark.parametrize("floating", [False, True])
def test_a_layer_is_removed_in_the_context_of_the_canvas(make_napari_viewer, floating):
    viewer = make_napari_viewer(show=True)
    dock_widget, _ = viewer.window.add_plugin_dock_widget("napari-medssl")
    dock_widget.setFloating(floating)
    layer = viewer.add_image(np.zeros((3, 8, 8)))
    QTest.qWait(100)
    canvas = dock_widget.parent().findChild(QOpenGLWidget)
    current = []
    viewer.layers.events.removed.connect(
        lambda event: current.append(QOpenGLContext.currentContext()), position="first"
    )
    canvas.doneCurrent()
    viewer.layers.remove(layer)
    assert current == [canvas.context()]


def test_a_closed_dock_lets_go_of_the_canvas(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    before = len(viewer.layers.events.removing.callbacks)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    assert len(viewer.layers.events.removing.callbacks) > before
    viewer.window.remove_dock_widget(dock)
    QTest.qWait(50)
    assert len(viewer.layers.events.removing.callbacks) == before
