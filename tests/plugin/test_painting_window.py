"""Painting in a real window, by mouse and keyboard alone: the lit tool paints, undo, naming, the legend."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QTextDocument
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QLineEdit, QMenu
from test_workspace import predict, write_scan
from user_simulation import LEFT, UserSimulation, wait_until
from user_window import CONTROL, WindowUser

from napari_medssl.class_colors import PREDICTED, shade
from napari_medssl.navigation import camera_of

pytestmark = pytest.mark.viewer


@pytest.fixture
def window(make_napari_viewer, tmp_path):
    """A window with a scan of eight slices, slice 4 on the screen, and a new annotation."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    dock.session.open(tmp_path / "project")
    dock.session.select(dock.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    QTest.qWait(300)
    user = UserSimulation(viewer, dock)
    user.open_step(2)
    user.click(dock.annotate.new)
    dock.workspace.annotation_layer.brush_size = 1
    user.go_to_slice(4)
    return viewer, dock


def test_the_lit_tool_paints_and_one_that_is_out_does_not(window):
    user = UserSimulation(*window)
    viewer, workspace, tools = user.viewer, user.dock.workspace, user.dock.annotate.tools
    layer = workspace.annotation_layer
    for active, lit in ((layer, True), (workspace.scan_layer, False)):
        viewer.layers.selection.active = active
        assert tools.brush.isChecked() is lit
        before = np.count_nonzero(layer.data)
        user.drag(layer, (4, 3 + lit, 3), (4, 3 + lit, 6))
        assert (np.count_nonzero(layer.data) > before) == lit
    user.key(Qt.Key.Key_P)
    assert tools.brush.isChecked()
    user.drag(layer, (4, 7, 3), (4, 7, 6))
    assert layer.data[4, 7, 3:7].all()


def test_keys_undo_a_mark_and_then_the_stroke(window):
    user = UserSimulation(*window)
    layer, annotation = user.dock.workspace.annotation_layer, user.dock.session.annotation
    user.drag(layer, (4, 5, 3), (4, 5, 6))
    user.key(Qt.Key.Key_K)
    assert annotation.complete == ((0, 4),)
    user.viewer.layers.selection.active = user.dock.workspace.scan_layer
    left = []
    for _ in range(2):
        QTest.keyClick(user.canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        left.append((np.count_nonzero(layer.data), annotation.complete))
    assert left == [(4, ()), (0, ())]


def test_points_keep_their_keys(window):
    user = UserSimulation(*window)
    points = user.viewer.add_points(ndim=3)
    user.key(Qt.Key.Key_P)
    assert points.mode == "add"


def test_a_new_class_is_named_at_once(window):
    user = UserSimulation(*window)
    table = user.dock.annotate.classes
    user.click(user.dock.annotate.add)
    wait_until(lambda: table.findChild(QLineEdit) is not None, 20, "the name's editor")
    editor = table.findChild(QLineEdit)
    QTest.keyClicks(editor, "Liver")
    QTest.keyClick(editor, Qt.Key.Key_Return)
    QTest.qWait(50)
    assert [item.name for item in user.dock.session.project.classes] == ["Structure", "Liver"]
    assert user.dock.workspace.tools.label == 2 and user.dock.annotate.tools.brush.isChecked()


def test_each_class_has_a_menu_to_rename_and_remove_it(window):
    user = UserSimulation(*window)
    table = user.dock.annotate.classes
    QTest.mouseClick(table.cellWidget(0, 5), LEFT)
    menu = next(each for each in table.findChildren(QMenu) if each.isVisible())
    assert [action.text() for action in menu.actions()] == ["Rename class", "Remove class…"]
    menu.close()


def test_the_legend_names_the_classes_in_their_colours_in_steps_2_and_5(window):
    user = UserSimulation(*window)
    dock, legend = user.dock, user.dock.legend
    color = dock.session.project.classes[0].color
    assert legend.isVisible() and "Structure" in legend.text() and color in legend.text()
    assert shade(color, PREDICTED) not in legend.text()
    user.open_step(4)
    assert not legend.isVisible()
    dock.workspace.predictions.show(predict(dock.workspace))
    user.open_step(5)
    assert legend.isVisible() and shade(color, PREDICTED) in legend.text()


def test_the_legend_can_be_read_over_bone(window):
    """White letters on their ground have the contrast that WCAG asks of small text, 4.5, on a white scan."""
    user = UserSimulation(*window)
    legend, scan = user.dock.legend, user.dock.workspace.scan_layer
    scan.contrast_limits = (scan.data.min() - 2, scan.data.min() - 1)  # all of it white
    camera_of(user.viewer).zoom *= 4

    def under_the_legend() -> np.ndarray:
        QTest.qWait(100)
        picture = user.viewer.window.screenshot(canvas_only=False, flash=False)
        corner = legend.mapTo(user.window, legend.rect().topLeft())
        down, across = slice(corner.y(), corner.y() + legend.height()), slice(corner.x(), None)
        return picture[down, across, :3][:, : legend.width()]

    legend.hide()
    assert under_the_legend().min() > 250, "the scan is white there"
    legend.show()
    box = under_the_legend()
    letters, ground = (luminance(np.percentile(box, q, axis=(0, 1))) for q in (99.9, 50))
    assert (letters + 0.05) / (ground + 0.05) > 4.5


def luminance(rgb: np.ndarray) -> float:
    """Relative luminance of a colour, 0..1, as WCAG defines it."""
    parts = rgb / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_long_lists_of_complete_slices_are_ranges_and_both_ends_are_links(window):
    user = WindowUser(*window)
    dock, annotation = user.dock, user.dock.session.annotation
    for axis, index in [(0, 0), (0, 1), (0, 2), (0, 4), (1, 3), (0, 5), (0, 7)]:
        annotation.mark(axis, index, True)
    QTest.qWait(50)
    user.open_step(2)
    lines = [" ".join(html_text(line).split()) for line in dock.annotate.list.text().split("<br>")]
    assert lines == ["Complete axial: 0-2 4 5 7", "Complete coronal: 3"]
    for link, position in ((1, (0, 2)), (0, (0, 0))):  # 4, where the user stands, is no link
        user.click_link(dock.annotate.list, link)
        assert dock.workspace.slice_on_screen() == position


def html_text(html: str) -> str:
    """What a person reads."""
    document = QTextDocument()
    document.setHtml(html)
    return document.toPlainText()


def test_in_3d_no_tool_is_lit_and_no_stroke_is_made(window):
    user = WindowUser(*window)
    layer, tools = user.dock.workspace.annotation_layer, user.dock.annotate.tools
    camera = camera_of(user.viewer)
    user.drag(layer, (4, 5, 3), (4, 5, 6))
    painted, angles = layer.data.copy(), camera.angles
    user.key_with(Qt.Key.Key_Y, CONTROL)
    QTest.qWait(100)
    assert user.viewer.dims.ndisplay == 3 and not tools.brush.isChecked() and not tools.brush.isEnabled()
    user.key(Qt.Key.Key_P)
    assert not tools.brush.isChecked() and layer.mode == "pan_zoom"
    middle = user.canvas.rect().center()
    QTest.mousePress(user.canvas, LEFT, pos=middle)
    for number in range(1, 5):
        QTest.qWait(15)  # vispy takes one move in 10 ms
        user._move_pressed(middle + number * QPoint(20, 10))
    QTest.mouseRelease(user.canvas, LEFT, pos=middle + QPoint(80, 40))
    assert np.array_equal(layer.data, painted) and camera.angles != angles, "the view turns"
    user.key_with(Qt.Key.Key_Y, CONTROL)
    assert tools.brush.isChecked()
    user.drag(layer, (4, 7, 3), (4, 7, 6))
    assert layer.data[4, 7, 3:7].all()


def test_nothing_of_the_dock_is_cut_off_at_the_right(window):
    user = UserSimulation(*window)
    dock = user.dock
    user.viewer.window.resize(1280, 700)  # with a scroll bar
    dock.workspace.predictions.show(predict(dock.workspace))
    QTest.qWait(100)
    inside, seen = dock.scroll_area.widget(), dock.scroll_area.viewport()
    assert inside.minimumSizeHint().width() <= seen.width()


def test_letters_are_keys_after_a_click_on_a_class(window):
    user = UserSimulation(*window)
    user.pick_class(0)
    table = user.dock.annotate.classes
    table.setFocus()
    QTest.keyClick(table, Qt.Key.Key_K)
    assert user.dock.session.annotation.complete == ((0, 4),)
    assert table.findChild(QLineEdit) is None and user.dock.session.project.classes[0].name == "Structure"


def test_classes_can_be_renamed_right_after_they_were_added(window):
    user = UserSimulation(*window)
    user.click(user.dock.annotate.add)
    wait_until(lambda: user.dock.annotate.classes.rowCount() == 2, 20, "the new class")
    for row, name in enumerate(("Liver", "Spleen")):
        user.rename_class(row, name)
    assert [item.name for item in user.dock.session.project.classes] == ["Liver", "Spleen"]
