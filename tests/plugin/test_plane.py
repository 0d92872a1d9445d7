"""A plane beside the canvas: what it shows, where a click leads, and what a stroke in it becomes."""

from __future__ import annotations

import numpy as np
import pytest
from headless import open_workspace
from medssl.core.project.stroke_log import StrokeLog, journal_file
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from reading_room import SHAPE, ct, write

from napari_medssl import navigation
from napari_medssl.annotate.range_brush import RangeBrush
from napari_medssl.reading.plane import Plane

LEFT = Qt.MouseButton.LeftButton
AXES = pytest.mark.parametrize("axis", [0, 1, 2])


@pytest.fixture
def workspace(qtbot, tmp_path):
    """A viewer without a window, with a CT on the screen and a plane beside it."""
    made = open_workspace(tmp_path / "project")
    scan = made.session.project.add_scan(write(tmp_path / "ct.nii", ct()), modality="ct")
    made.session.select(scan.id)
    navigation.move_cross_hair(made.viewer, made.scan_layer, world(made, (9, 10, 11)))
    made.range_brush = RangeBrush(made)
    made.plane = Plane(made.edits, made.range_brush)
    qtbot.addWidget(made.plane)
    made.plane.resize(300, 280)
    made.plane.show()
    yield made
    made.close()


def world(workspace, voxel) -> np.ndarray:
    return np.asarray(workspace.scan_layer.data_to_world(voxel))


def pixel(workspace, voxel) -> QPoint:
    return workspace.plane.position_of(world(workspace, voxel)).toPoint()


def drag(plane, start: QPoint, end: QPoint) -> None:
    QTest.mousePress(plane, LEFT, pos=start)
    place = (QPointF(end), QPointF(plane.mapToGlobal(end)))
    none = Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(plane, QMouseEvent(QEvent.Type.MouseMove, *place, LEFT, LEFT, none))
    QTest.mouseRelease(plane, LEFT, pos=end)


def in_plane(workspace, first: tuple[int, int], last: tuple[int, int]) -> tuple[QPoint, QPoint]:
    """Two pixels of the slice on the plane, by their voxels along its axes."""
    ends = []
    for pair in (first, last):
        voxel = [9, 10, 11]
        for axis, index in zip(
            (other for other in range(3) if other != workspace.plane.axis), pair, strict=True
        ):
            voxel[axis] = index
        ends.append(pixel(workspace, voxel))
    return ends[0], ends[1]


@AXES
def test_it_shows_the_voxels_of_the_slice_as_radiologists_see_them(workspace, axis):
    workspace.plane.show_axis(axis)
    values = np.full(SHAPE, -1000, np.float32)
    voxel = [9, 10, 11]
    for other in range(3):
        voxel[other] += 3 * (other != axis)
    values[tuple(voxel)] = 3000
    workspace.scan_layer.data = values
    workspace.plane.redraw(workspace.scan_layer)
    picture = workspace.plane.grab().toImage()
    assert picture.pixelColor(pixel(workspace, voxel)).lightness() > 200
    voxel[(axis + 1) % 3] -= 8
    assert picture.pixelColor(pixel(workspace, voxel)).lightness() < 40
    here = pixel(workspace, (9, 10, 11))
    up, left = (0, 1) if axis == 2 else (0 if axis == 1 else 1, 2)
    for direction, comes_before in ((up, lambda p: p.y() < here.y()), (left, lambda p: p.x() < here.x())):
        assert comes_before(pixel(workspace, np.add((9, 10, 11), 4 * np.eye(3, dtype=int)[direction])))


@AXES
def test_a_click_moves_the_cross_hair_and_the_wheel_the_slice(workspace, axis):
    workspace.plane.show_axis(axis)
    aim = [12, 6, 15]
    aim[axis] = (9, 10, 11)[axis]
    QTest.mouseClick(workspace.plane, LEFT, pos=pixel(workspace, aim))
    np.testing.assert_allclose(navigation.cross_hair(workspace.viewer), world(workspace, aim))
    centre = QPointF(150, 140)
    up = QWheelEvent(
        centre, centre, QPoint(), QPoint(0, 120), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(workspace.plane, up)
    aim[axis] += 1
    np.testing.assert_allclose(navigation.cross_hair(workspace.viewer), world(workspace, aim))


def test_a_click_beside_the_scan_leads_to_its_border(workspace):
    workspace.plane.show_axis(1)
    QTest.mouseClick(workspace.plane, LEFT, pos=QPoint(1, 1))
    np.testing.assert_allclose(
        navigation.cross_hair(workspace.viewer), world(workspace, (SHAPE[0] - 1, 10, SHAPE[2] - 1))
    )


@AXES
def test_a_stroke_is_recorded_on_its_own_slice_and_undone_as_one_step(workspace, axis):
    workspace.new_annotation()
    layer = workspace.annotation_layer
    layer.brush_size = 1
    workspace.plane.show_axis(axis)
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 12)))
    expected = np.zeros(SHAPE, np.uint8)
    voxels = [slice(5, 6), slice(6, 13)]
    voxels.insert(axis, slice((9, 10, 11)[axis], (9, 10, 11)[axis] + 1))
    expected[tuple(voxels)] = 1
    np.testing.assert_array_equal(layer.data, expected)
    journal = journal_file(workspace.session.project.root, workspace.session.scan)
    (stroke,) = StrokeLog(journal, SHAPE).read().strokes
    np.testing.assert_array_equal(np.sort(stroke.voxels), np.flatnonzero(expected))
    layer.undo()
    assert not layer.data.any()
    workspace.autosave.flush()
    saved = workspace.session.project.annotation(workspace.session.scan)
    assert saved is None or not saved.labels.any()
    layer.redo()
    workspace.autosave.flush()
    np.testing.assert_array_equal(
        workspace.session.project.annotation(workspace.session.scan).labels, expected
    )


def test_what_was_painted_in_a_plane_survives_a_crash(workspace, tmp_path):
    workspace.new_annotation()
    workspace.plane.show_axis(2)
    drag(workspace.plane, *in_plane(workspace, (5, 6), (9, 9)))
    painted = workspace.annotation_layer.data.copy()
    assert painted.any()
    workspace.autosave._soon.cancel()  # the viewer dies before the annotation file is written
    again = open_workspace(workspace.session.project.root)
    np.testing.assert_array_equal(again.annotation_layer.data, painted)
    again.close()


def test_the_eraser_and_preserved_labels(workspace):
    workspace.new_annotation()
    layer = workspace.annotation_layer
    layer.data[:] = 2
    workspace.session.annotation.watch(layer.data)
    workspace.plane.show_axis(1)
    layer.preserve_labels = True
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 9)))
    assert (layer.data == 2).all()
    layer.preserve_labels = False
    workspace.paint(0)
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 9)))
    assert not layer.data[5, 10, 6:10].any()
    assert (np.delete(layer.data, 10, axis=1) == 2).all()


def test_a_brush_limited_to_grey_values_is_limited_here_too(workspace):
    workspace.new_annotation()
    workspace.annotation_layer.brush_size = 1
    workspace.plane.show_axis(1)
    grey = workspace.scan_layer.data[5, 10, 6:13]
    workspace.range_brush.set_on(True)
    workspace.range_brush.set_follows_click(False)
    workspace.range_brush.set_range(float(np.median(grey)), 3000)
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 12)))
    np.testing.assert_array_equal(workspace.annotation_layer.data[5, 10, 6:13] == 1, grey >= np.median(grey))
    workspace.range_brush.set_follows_click(True)
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 12)))
    assert workspace.range_brush.range != (float(np.median(grey)), 3000)
    workspace.paint(0)
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 12)))
    assert not workspace.annotation_layer.data.any()


def test_nobody_paints_where_the_annotation_is_not_editable_or_not_active(workspace):
    workspace.new_annotation()
    workspace.plane.show_axis(1)
    workspace.viewer.layers.selection.active = workspace.scan_layer
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 9)))
    workspace.viewer.layers.selection.active = workspace.annotation_layer
    workspace.annotation_layer.editable = False
    drag(workspace.plane, *in_plane(workspace, (5, 6), (5, 9)))
    assert not workspace.annotation_layer.data.any()
