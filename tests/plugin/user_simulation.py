"""A hand on mouse and keyboard: Qt events on the widgets of a real window, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QElapsedTimer, QEvent, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QCheckBox, QComboBox, QDoubleSpinBox, QLineEdit, QWidget

from napari_medssl.navigation import camera_of

LEFT = Qt.MouseButton.LeftButton


class UserSimulation:
    """Clicks, drags and types; looks at the model only to know where on the screen a voxel is."""

    def __init__(self, viewer, dock: QWidget) -> None:
        self.viewer, self.dock = viewer, dock
        self.window = dock.window()
        self.canvas = next(
            widget for widget in self.window.findChildren(QWidget) if "CanvasBackend" in type(widget).__name__
        )

    # --- widgets -------------------------------------------------------------------------------------

    def click(self, widget: QWidget) -> None:
        """Click in the middle of a widget that can be seen and clicked, or on the box of a check box."""
        assert widget.isVisible() and widget.isEnabled(), f"{widget.objectName() or widget} cannot be clicked"
        self._scroll_to(widget)
        place = widget.rect().center()
        if isinstance(widget, QCheckBox):
            place.setX(10)
        QTest.mouseClick(widget, LEFT, pos=place)
        QTest.qWait(30)

    def open_step(self, number: int) -> None:
        """Open one of the dock's steps by its header, unless it is open."""
        step = self.dock.steps[number - 1]
        if not step.isExpanded():
            self.click(step.toggleButton())
        QTest.qWait(50)

    def pick_class(self, number: int) -> QPoint:
        """Click a row of the class table, which ends the naming of another one."""
        table = self.dock.annotate.classes
        for editor in self._open_editors():
            QTest.keyClick(editor, Qt.Key.Key_Return)  # a click does so where the window is active
        QTest.qWait(30)
        place = table.visualItemRect(table.item(number, 1)).center()
        QTest.mouseClick(table.viewport(), LEFT, pos=place)
        return place

    def rename_class(self, number: int, name: str) -> None:
        """Double-click a class's name and type another."""
        place = self.pick_class(number)
        QTest.mouseDClick(self.dock.annotate.classes.viewport(), LEFT, pos=place)
        editors = self.dock.annotate.classes.findChildren(
            QLineEdit
        )  # that of the last name may be going still
        editor = [each for each in editors if each.isVisible()][-1]
        QTest.keyClick(editor, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        QTest.keyClicks(editor, name)
        QTest.keyClick(editor, Qt.Key.Key_Return)
        QTest.qWait(30)

    def _open_editors(self) -> list[QLineEdit]:
        editors = self.dock.annotate.classes.findChildren(QLineEdit)
        return [editor for editor in editors if editor.isVisible()]

    def set_minutes(self, box: QDoubleSpinBox, minutes: float) -> None:
        """Type a duration."""
        QTest.mouseClick(box, LEFT)
        QTest.keyClick(box, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        QTest.keyClicks(box, f"{minutes}")
        QTest.keyClick(box, Qt.Key.Key_Return)
        assert box.value() == minutes

    def choose(self, box: QComboBox, text: str) -> None:
        """Go through a list by keys to an entry of this name."""
        self._scroll_to(box)
        box.setFocus()
        QTest.keyClick(box, Qt.Key.Key_Home)
        for _ in range(box.count()):
            if box.currentText() == text:
                return
            QTest.keyClick(box, Qt.Key.Key_Down)
        raise AssertionError(f"{text} is not in the list")

    def dismiss_notifications(self) -> None:
        """Close what napari shows in the corner of the canvas."""
        for widget in self.window.findChildren(QWidget):
            if type(widget).__name__ == "NapariQtNotification" and widget.isVisible():
                QTest.mouseClick(widget.close_button, LEFT)
        QTest.qWait(300)

    def _scroll_to(self, widget: QWidget) -> None:
        area = self.dock.scroll_area
        if area.widget().isAncestorOf(widget):
            area.ensureWidgetVisible(widget)

    # --- canvas --------------------------------------------------------------------------------------

    def key(self, key: Qt.Key) -> None:
        """Press a key while the canvas has the focus."""
        self.canvas.setFocus()
        QTest.keyClick(self.canvas, key)
        QTest.qWait(10)

    def go_to_slice(self, index: int) -> None:
        """Step through the slices with the arrow keys."""
        for _ in range(500):
            _, here = self.dock.workspace.slice_on_screen()
            if here == index:
                return
            self.key(Qt.Key.Key_Right if here < index else Qt.Key.Key_Left)
        raise AssertionError(f"slice {index} was not reached")

    def point_of(self, layer, voxel: Sequence[float]) -> QPoint:
        """Where on the canvas a voxel (z, y, x) of a layer is drawn."""
        camera, dims = camera_of(self.viewer), self.viewer.dims
        before = dims.ndim - layer.ndim  # the axes of a time series beside it come first
        world = np.asarray(layer.data_to_world(voxel))[[axis - before for axis in dims.displayed]]
        centre = np.asarray(camera.center)[-2:]
        down, right = (world - centre) * camera.zoom
        _, vertical, horizontal = camera.orientation
        down = -down if vertical == "up" else down
        right = -right if horizontal == "left" else right
        return QPoint(
            round(self.canvas.width() / 2 + float(right)), round(self.canvas.height() / 2 + float(down))
        )

    def drag(self, layer, start: Sequence[float], end: Sequence[float]) -> None:
        """Press at one voxel, move to another, let go."""
        first, last = self.point_of(layer, start), self.point_of(layer, end)
        QTest.mouseMove(self.canvas, first)
        QTest.mousePress(self.canvas, LEFT, pos=first)
        QTest.qWait(15)  # vispy takes one move in 10 ms
        self._move_pressed(last)
        QTest.mouseRelease(self.canvas, LEFT, pos=last)

    def _move_pressed(self, point: QPoint) -> None:
        """QTest.mouseMove forgets which button is down."""
        place = (QPointF(point), QPointF(self.canvas.mapToGlobal(point)))
        event = QMouseEvent(QEvent.Type.MouseMove, *place, LEFT, LEFT, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(self.canvas, event)

    def click_voxel(self, layer, voxel: Sequence[float]) -> None:
        """A click on the canvas, without moving."""
        point = self.point_of(layer, voxel)
        QTest.mouseMove(self.canvas, point)
        QTest.mouseClick(self.canvas, LEFT, pos=point)
        QTest.qWait(30)

    def paint_rows(self, layer, slice_index: int, mask: np.ndarray) -> None:
        """Paint a mask (Y, X) of the axial slice on the screen, a stroke for each run in a row."""
        for y in np.flatnonzero(mask.any(1)):
            edges = np.flatnonzero(np.diff(np.pad(mask[y].astype(int), 1)))
            for first, last in zip(edges[::2], edges[1::2] - 1, strict=True):
                self.drag(layer, (slice_index, y, first), (slice_index, y, last))
        QTest.qWait(20)

    def complete_slice(self, truth: np.ndarray, index: int) -> None:
        """Paint the true classes (Z, Y, X) of an axial slice row by row and mark it complete by key."""
        self.go_to_slice(index)
        for row, class_id in enumerate(sorted(set(np.unique(truth)) - {0})):
            mask = truth[index] == class_id
            if mask.any():
                self.pick_class(row)
                self.paint_rows(self.dock.workspace.annotation_layer, index, mask)
        self.key(Qt.Key.Key_K)


class ClickCounter(UserSimulation):
    """Counts the clicks on widgets.

    Attributes:
        clicked: Texts of the widgets that were clicked.
    """

    def __init__(self, viewer, dock: QWidget) -> None:
        super().__init__(viewer, dock)
        self.clicked: list[str] = []

    def click(self, widget: QWidget) -> None:
        """Click, and note what was clicked."""
        self.clicked.append(" ".join(getattr(widget, "text", widget.objectName)().replace("&", "").split()))
        super().click(widget)


class EventLoopLag:
    """How late a 10 ms timer fires, in ms."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._clock = QElapsedTimer()
        self._timer = QTimer(interval=10)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin to measure."""
        self._clock.start()
        self._timer.start()

    def stop(self) -> None:
        """Measure no more."""
        self._timer.stop()

    def _tick(self) -> None:
        self.late.append(max(0.0, self._clock.nsecsElapsed() / 1e6 - 10))
        self._clock.restart()

    def percentile(self, q: float) -> float:
        """The q-th percentile of the lateness in ms."""
        return float(np.percentile(self.late, q))


def open_window(width: int = 1400, height: int = 1000) -> tuple[napari.Viewer, QWidget]:
    """A real window with the dock, which is empty."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(width, height)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    QTest.qWait(1000)
    return viewer, dock


def open_and_wait(dock: QWidget, folder: Path) -> None:
    """Open a project, and wait until the scan that it was left at is on the screen."""
    dock.open(folder)
    wait_until(lambda: dock.workspace.scan_layer is not None, 60, "reading the scan")


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Let the window live until `condition` holds."""
    clock = QElapsedTimer()
    clock.start()
    while not condition():
        assert clock.elapsed() < seconds * 1000, f"{what} took longer than {seconds} s"
        QTest.qWait(20)
