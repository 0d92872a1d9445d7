"""How a scan is shown: letters, windows of grey values, three planes."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from user_simulation import LEFT

from docs.tour.stage import Stage
from napari_medssl.reading.window_level import PRESETS

MIDDLE = Qt.MouseButton.MiddleButton
CONTROL_SHIFT = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
FUNCTION_KEYS = {f"F{number}": getattr(Qt.Key, f"Key_F{number}") for number in range(3, 11)}


def windows(stage: Stage) -> None:
    """Directions, presets, and dragging."""
    guide, user, bar = stage.guide, stage.user, stage.dock.view_bar
    guide("Letters at the edges say where right and left, front and back, head and feet are.")
    letters = "".join(label.text() for label in stage.dock.reading.letters.edges.labels if label.isVisible())
    stage.check(letters == "RLAP", f"R is on the left; the letters are {letters}.")
    guide("*Window* above the steps has presets for CT (F3 to F8) and *Auto* (F9);", "F3 to F8, F9, F10")
    scan = stage.dock.workspace.scan_layer
    for preset in PRESETS:
        user.key(FUNCTION_KEYS[preset.key])
        stage.check(bar.window_button.text() == f"Window: {preset.name}", f"{preset.key} is {preset.name}.")
    user.key(FUNCTION_KEYS["F9"])
    stage.check(bar.window_button.text().startswith("Window: L"), "F9 takes the window from the grey values.")
    user.press_menu(bar.window_button, "Soft tissue")
    stage.check(scan.contrast_limits == [-150, 250], "The menu has the presets, too.")
    guide("or drag with the middle button, or left with Ctrl+Shift: right is wider, up is brighter.")
    for button, keys in ((MIDDLE, Qt.KeyboardModifier.NoModifier), (LEFT, CONTROL_SHIFT)):
        low, high = scan.contrast_limits
        user.drag_with(user.canvas, button, QPoint(200, 200), QPoint(260, 160), keys)
        wide, level = np.ptp(scan.contrast_limits), np.mean(scan.contrast_limits)
        stage.check(wide > high - low, "To the right is wider.")
        stage.check(level < (low + high) / 2, "Up is brighter.")
    user.key(FUNCTION_KEYS["F3"])


def three_planes(stage: Stage) -> None:
    """The cross-hair, the planes, and painting in each."""
    guide, user, work = stage.guide, stage.user, stage.dock.workspace
    guide("*Three planes* (F10) shows all three orientations with a cross-hair:")
    user.click(stage.dock.view_bar.planes_button)
    planes = stage.dock.reading.three_planes.planes
    QTest.qWait(200)
    stage.check(len(planes) == 2 and all(plane.isVisible() for plane in planes), "Two planes are beside it.")
    user.key(FUNCTION_KEYS["F10"])
    stage.check(not stage.dock.reading.three_planes.on, "F10 takes them away.")
    user.key(FUNCTION_KEYS["F10"])
    QTest.qWait(200)
    coronal, sagittal = stage.dock.reading.three_planes.planes
    guide("click to move it, double-click a plane to enlarge it.")
    user.key(Qt.Key.Key_Z)  # napari's key: no brush
    there = coronal.position_of(work.scan_layer.data_to_world((20, 40, 60))).toPoint()
    QTest.mouseClick(coronal, LEFT, pos=there)
    stage.check(work.slice_on_screen() == (0, 20), "A click in a plane moves the others.")
    QTest.mouseDClick(sagittal, LEFT, pos=sagittal.rect().center())
    stage.check(work.slice_on_screen()[0] == 2, "A double click shows the plane in the large picture.")
    QTest.qWait(100)
    guide("Brush and eraser work in each.")
    before = stage.labels.copy()
    planes = stage.dock.reading.three_planes.planes
    for key in (Qt.Key.Key_Q, Qt.Key.Key_E):
        user.key(key)
        for plane in planes:
            former, middle = stage.labels.copy(), plane.rect().center()
            user.drag_with(plane, LEFT, middle, middle + QPoint(20, 0))
            QTest.qWait(50)
            stage.check((stage.labels != former).any(), f"A stroke in the plane across axis {plane.axis}.")
    for _ in range(2 * len(planes)):
        stage.undo()
    stage.check(np.array_equal(stage.labels, before), "Ctrl+Z takes strokes in all planes back.")
    user.key(Qt.Key.Key_Z)
    axial = next(p for p in stage.dock.reading.three_planes.planes if p.axis == 0)
    QTest.mouseDClick(axial, LEFT, pos=axial.rect().center())
    user.key(FUNCTION_KEYS["F10"])
    stage.check(work.slice_on_screen()[0] == 0, "The axial plane is back.")
