"""Letters, windows and three planes in a real window, by mouse and keyboard."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from medssl.core.project.project import Project
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDockWidget
from reading_room import ct, write
from user_simulation import UserSimulation, open_and_wait
from user_window import PLAIN, WindowUser

from napari_medssl import navigation
from napari_medssl.explore.point_layers import LANDMARKS, PointMarker, show_points
from napari_medssl.model.session import FIRST_CLASS
from napari_medssl.reading import slice_image
from napari_medssl.reading.plane import Plane

pytestmark = pytest.mark.viewer
LEFT, MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton
CONTROL_SHIFT = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def window(make_napari_viewer, tmp_path):
    """A viewer with the dock and a CT on the screen."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    QTest.qWait(200)
    project = Project.create(tmp_path / "project", (FIRST_CLASS,))
    project.add_scan(write(tmp_path / "ct.nii", ct()), modality="ct")
    open_and_wait(dock, project.root)
    QTest.qWait(100)
    return viewer, dock


def letters(dock) -> str:
    return "".join(label.text() for label in dock.reading.letters.edges.labels if label.isVisible())


def drag(canvas, button, start: QPoint, end: QPoint) -> None:
    QTest.mousePress(canvas, button, pos=start)
    QTest.qWait(15)
    place = (QPointF(end), QPointF(canvas.mapToGlobal(end)))
    none = Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(canvas, QMouseEvent(QEvent.Type.MouseMove, *place, button, button, none))
    QTest.mouseRelease(canvas, button, pos=end)
    QTest.qWait(15)


def test_letters_follow_the_view_and_a_scale_bar_is_shown(window):
    viewer, dock = window
    assert letters(dock) == "RLAP"
    dock.workspace.go_to(1, 5)
    assert letters(dock) == "RLSI"
    dock.workspace.go_to(2, 5)
    assert letters(dock) == "APSI"
    viewer.dims.ndisplay = 3
    assert letters(dock) == ""
    viewer.dims.ndisplay = 2
    assert letters(dock) == "APSI"
    canvas, label = UserSimulation(viewer, dock).canvas, dock.reading.letters.edges.labels[0]
    assert abs(label.geometry().center().y() - canvas.height() / 2) <= 2
    assert canvas.childAt(label.geometry().center()) is None, "the mouse reaches the canvas"
    assert navigation.scale_bar_of(viewer).visible


def test_presets_by_key(window):
    viewer, dock = window
    user, scan = UserSimulation(viewer, dock), dock.workspace.scan_layer
    for key, name, limits in (
        (Qt.Key.Key_F4, "Lung", [-1350, 150]),
        (Qt.Key.Key_F5, "Bone", [-500, 1300]),
        (Qt.Key.Key_F6, "Brain", [0, 80]),
        (Qt.Key.Key_F3, "Soft tissue", [-150, 250]),
    ):
        user.key(key)
        assert scan.contrast_limits == limits
        assert dock.view_bar.window_button.text() == f"Window: {name}"


@pytest.mark.parametrize("button, keys", [(MIDDLE, PLAIN), (LEFT, CONTROL_SHIFT)])
def test_dragging_changes_the_window_and_does_not_paint(window, button, keys):
    viewer, dock = window
    user, scan = WindowUser(viewer, dock), dock.workspace.scan_layer
    dock.workspace.new_annotation()
    user.drag_with(user.canvas, button, QPoint(200, 200), QPoint(350, 230), keys)
    assert not dock.workspace.annotation_layer.data.any()
    low, high = scan.contrast_limits
    assert high - low == pytest.approx(400 * 1.5)  # 150 of 300 pixels
    assert (high + low) / 2 == pytest.approx(50 + 400 * 0.1)
    user.drag_with(user.canvas, LEFT, QPoint(250, 250), QPoint(300, 260))
    assert dock.workspace.annotation_layer.data.any()
    assert scan.contrast_limits == [low, high]


def test_three_planes_show_one_point_and_paint_one_annotation(window):
    viewer, dock = window
    user, work = UserSimulation(viewer, dock), dock.workspace
    user.click(dock.view_bar.planes_button)
    QTest.qWait(100)
    planes = dock.reading.three_planes.planes
    assert [plane.axis for plane in planes] == [1, 2]
    assert all(plane.isVisible() and plane.height() > 150 for plane in planes)

    user.click_voxel(work.scan_layer, (10, 7, 9))  # in the large picture
    coronal, sagittal = planes
    assert (coronal._index, sagittal._index) == (7, 9)
    QTest.mouseClick(
        coronal, LEFT, pos=coronal.position_of(work.scan_layer.data_to_world((15, 7, 12))).toPoint()
    )
    assert work.slice_on_screen() == (0, 15)
    assert sagittal._index == 12

    work.new_annotation()
    layer = work.annotation_layer
    layer.brush_size = 1
    for plane, first, last in ((coronal, (4, 7, 5), (4, 7, 9)), (sagittal, (6, 4, 12), (6, 9, 12))):
        ends = [plane.position_of(layer.data_to_world(voxel)).toPoint() for voxel in (first, last)]
        drag(plane, LEFT, *ends)
    user.drag(layer, (15, 3, 4), (15, 3, 8))
    painted = (
        {(4, 7, x) for x in range(5, 10)}
        | {(6, y, 12) for y in range(4, 10)}
        | {(15, 3, x) for x in range(4, 9)}
    )
    assert set(map(tuple, np.argwhere(layer.data).tolist())) == painted
    work.autosave.flush()
    saved = dock.session.project.annotation(dock.session.scan)
    np.testing.assert_array_equal(saved.labels, layer.data)

    viewer.layers.selection.active = work.scan_layer
    QTest.mouseDClick(coronal, LEFT, pos=coronal.rect().center())
    assert work.slice_on_screen()[0] == 1
    assert [plane.axis for plane in planes] == [0, 2]
    assert letters(dock) == "RLSI"


def test_planes_read_a_slice_only_where_it_has_changed(window, monkeypatch):
    viewer, dock = window
    user, work = UserSimulation(viewer, dock), dock.workspace
    work.new_annotation()
    user.click(dock.view_bar.planes_button)
    QTest.qWait(100)
    scan, annotation = work.scan_layer, work.annotation_layer
    read, original = [], slice_image._slice_image
    monkeypatch.setattr(
        slice_image, "_slice_image", lambda layer, *at: read.append(layer.name) or original(layer, *at)
    )

    def read_for(action) -> set[str]:
        read.clear()
        action()
        QTest.qWait(60)
        return set(read)

    assert read_for(lambda: user.key(Qt.Key.Key_Right)) == set(), "the cross-hair alone has moved"
    z, y, x = scan.world_to_data(navigation.cross_hair(viewer)).round().astype(int)
    assert read_for(lambda: user.drag(annotation, (z, y, x - 2), (z, y, x + 2))) == {annotation.name}
    assert read_for(annotation.undo) == {annotation.name}
    assert read_for(lambda: user.key(Qt.Key.Key_F4)) == {scan.name}
    assert read_for(lambda: user.key(Qt.Key.Key_Left)) == set()

    def hide_and_show() -> None:
        annotation.visible = False
        user.key(Qt.Key.Key_Right)
        annotation.visible = True

    assert read_for(hide_and_show) == {annotation.name}, "its labels may have changed meanwhile"

    def replace() -> None:
        scan.data = np.asarray(scan.data) + 1

    assert read_for(replace) == {scan.name}
    work.go_to(2, 4)
    QTest.qWait(60)
    assert read_for(lambda: work.go_to(2, 5)) == set()


def test_three_planes_leave_nothing_behind(window):
    viewer, dock = window
    user, main = UserSimulation(viewer, dock), dock.window()
    before = viewer.mouse_drag_callbacks[:], viewer.mouse_move_callbacks[:]
    corners = [main.corner(corner) for corner in (Qt.Corner.BottomLeftCorner, Qt.Corner.BottomRightCorner)]
    for _ in range(3):
        user.key(Qt.Key.Key_F10)
        assert dock.reading.three_planes.on
        QTest.qWait(50)
        user.key(Qt.Key.Key_F10)
        QTest.qWait(50)
    assert (viewer.mouse_drag_callbacks[:], viewer.mouse_move_callbacks[:]) == before
    assert [
        main.corner(corner) for corner in (Qt.Corner.BottomLeftCorner, Qt.Corner.BottomRightCorner)
    ] == corners
    gc.collect()
    assert not main.findChildren(Plane)
    assert not [each for each in main.findChildren(QDockWidget) if each.objectName() == "medssl planes"]
    assert len([each for each in gc.get_objects() if type(each) is Plane]) <= 2, "of six"
    dock.workspace.go_to(2, 3)  # nobody listens any more


def test_the_window_closes_while_three_planes_are_shown(window):
    viewer, dock = window
    UserSimulation(viewer, dock).key(Qt.Key.Key_F10)
    viewer.window.remove_dock_widget(dock.parent())
    QTest.qWait(50)
    assert not dock.reading.three_planes.on


def test_points_can_be_taken_back_while_their_layer_is_hidden(window):
    viewer, dock = window
    dock.workspace.go_to(0, 5)
    here, there = (PointMarker((5, row, 5), "placed", f"mark {row}") for row in (5, 9))
    for markers in ([here, there], [], [there], [here, there], [here]):
        show_points(dock.workspace, LANDMARKS, markers)
        QTest.qWait(30)
        layer = viewer.layers[LANDMARKS]
        assert len(layer.data) == len(markers) and layer.visible == bool(markers)
        layer.visible = False
    viewer.dims.ndisplay = 3
    show_points(dock.workspace, LANDMARKS, [])
    QTest.qWait(30)
    assert not len(viewer.layers[LANDMARKS].data)
