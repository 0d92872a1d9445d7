"""Several sequences of a patient in a real window: one after the other, or together in colour."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.core.project.annotation import SURE_BACKGROUND
from medssl.core.project.project import Annotation, LabelClass, Project
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from user_simulation import open_and_wait, wait_until
from user_window import WindowUser

from napari_medssl import layers
from napari_medssl.annotate.seeds import grow_from_seeds

pytestmark = pytest.mark.viewer
SHAPE = (20, 40, 40)
TUMOUR, PAINTED = (10, 12, 12), (10, 30, 30)
"""Voxels (z, y, x): bright in the second channel alone, and painted on both."""
MIDDLE = Qt.MouseButton.MiddleButton


def write(path, values: np.ndarray):
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), np.diag([2.0, 2, 2, 1])), path)
    return path


def ct() -> np.ndarray:
    """A block of tissue in air, in Hounsfield units (Z, Y, X)."""
    values = np.full(SHAPE, -1000, np.float32)
    values[2:-2, 4:-4, 4:-4] = 50
    return values


def pet(low: float = 0) -> np.ndarray:
    """Uptake in a cube of six voxels, (Z, Y, X)."""
    values = np.random.default_rng(0).uniform(low, low + 0.2, SHAPE).astype(np.float32)
    values[7:13, 9:15, 9:15] = low + 10
    return values


@pytest.fixture
def window(make_napari_viewer, tmp_path):
    """A window with three scans; the first two have a PET. The first is on the screen, a square painted."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    project = Project.create(tmp_path / "project", [LabelClass(1, "Tumour", "#00ff00")])
    for number, name in enumerate(("one", "two", "three")):
        project.add_scan(write(tmp_path / f"{name}.nii", ct() + number), modality="ct")
    project.add_channel("one", write(tmp_path / "one_pet.nii", pet()), "pet", "pt")
    project.add_channel("two", write(tmp_path / "two_pet.nii", pet(0.5)), "pet", "pt")
    labels = np.zeros(SHAPE, np.uint8)
    labels[10, 28:33, 28:33] = 1
    project.save_annotation("one", Annotation(labels, ()))
    open_and_wait(dock, project.root)
    user = WindowUser(viewer, dock)
    wait_for_channels(user, 2)
    user.go_to_slice(10)
    return viewer, dock


def wait_for_channels(user: WindowUser, number: int) -> None:
    wait_until(lambda: len(user.dock.workspace.channels.parts) == number, 20, "the channels")
    QTest.qWait(50)


def colour(user: WindowUser, voxel: tuple[int, int, int]) -> tuple[int, int, int]:
    """What the canvas shows at a voxel, RGB."""
    QTest.qWait(50)
    point = user.point_of(user.dock.workspace.scan_layer, voxel)
    picture = user.viewer.window.screenshot(canvas_only=True, flash=False, size=None)
    ratio = picture.shape[1] / user.canvas.width()
    red, green, blue = picture[round(point.y() * ratio), round(point.x() * ratio), :3]
    return int(red), int(green), int(blue)


def is_grey(rgb: tuple[int, int, int]) -> bool:
    return max(rgb) - min(rgb) < 8


def text(user: WindowUser) -> str:
    return user.dock.view_bar.channels_button.text()


def test_one_key_shows_each_channel_alone_and_then_all_together(window):
    user = WindowUser(*window)
    elsewhere = (10, 20, 30)
    assert text(user) == "Channel: CT" and is_grey(colour(user, TUMOUR)) and is_grey(colour(user, elsewhere))
    of_ct = colour(user, elsewhere)
    user.key(Qt.Key.Key_G)
    assert text(user) == "Channel: pet" and not is_grey(colour(user, TUMOUR))
    assert max(colour(user, elsewhere)) < 30, "there is no uptake, and no CT below it"
    user.key(Qt.Key.Key_G)
    assert text(user) == "Channels: CT + pet" and not is_grey(colour(user, TUMOUR))
    both = colour(user, elsewhere)
    assert np.abs(np.subtract(both, of_ct)).max() < 30 and max(both) > 100, "the CT is seen beside the uptake"
    user.click(user.dock.view_bar.channels_button)
    assert text(user) == "Channel: CT" and is_grey(colour(user, TUMOUR))


def test_the_annotation_stays_on_top_of_every_view(window):
    user = WindowUser(*window)
    for _ in range(3):
        red, green, blue = colour(user, PAINTED)
        assert green > red + 60 and green > blue + 60
        user.key(Qt.Key.Key_G)
    roles = [layers.entry_of(layer).get("role") for layer in user.viewer.layers]
    assert roles == [layers.SCAN, layers.CHANNEL, layers.ANNOTATION]
    user.viewer.layers.selection.active = user.dock.workspace.scan_layer
    user.key(Qt.Key.Key_P)
    layer = user.dock.workspace.annotation_layer
    user.key(Qt.Key.Key_G)
    user.drag(layer, (10, 5, 5), (10, 5, 9))
    assert layer.data[10, 5, 5:10].all(), "strokes go on while the second channel is shown"


def test_window_and_level_apply_to_the_first_visible_channel(window):
    user = WindowUser(*window)
    first, second = (layer for _, layer in user.dock.workspace.channels.parts)
    bar = user.dock.view_bar
    assert bar.window_button.text() == "Window: Soft tissue"

    def drag() -> None:
        user.drag_with(user.canvas, MIDDLE, QPoint(200, 200), QPoint(260, 160))

    user.key(Qt.Key.Key_G)
    assert bar.window_button.text().startswith("Window: L ")
    assert not any(entry.isVisible() for entry in bar.presets), "presets are for a CT"
    before = list(second.contrast_limits)
    user.key(Qt.Key.Key_F4)
    drag()
    assert np.ptp(second.contrast_limits) == pytest.approx(np.ptp(before) * 1.2, rel=0.01)
    assert first.contrast_limits == [-150, 250]
    changed = list(second.contrast_limits)
    user.key(Qt.Key.Key_G)
    drag()
    assert second.contrast_limits == changed and np.ptp(first.contrast_limits) == pytest.approx(480)
    user.key(Qt.Key.Key_F4)
    assert first.contrast_limits == [-1350, 150] and bar.window_button.text() == "Window: Lung"


def test_the_choice_goes_along_to_the_next_scan_which_may_have_one_channel(window):
    user = WindowUser(*window)
    bar, table, session = user.dock.view_bar, user.dock.scans.table, user.dock.session
    limits = [3.0, 7.0]
    user.key(Qt.Key.Key_G)
    user.dock.workspace.channels.front[1].contrast_limits = limits
    user.key(Qt.Key.Key_PageDown)
    wait_until(lambda: session.scan == "two", 20, "the second scan")
    wait_for_channels(user, 2)
    assert text(user) == "Channel: pet"
    user.key(Qt.Key.Key_PageDown)
    wait_until(lambda: session.scan == "three", 20, "the third scan")
    assert text(user) == "Channel: CT" and user.dock.workspace.scan_layer.visible
    assert "has one channel" in user.tooltip(bar.channels_button) and bar.channels_button.isVisible()
    user.key(Qt.Key.Key_G)
    assert "has one channel" in user.dock.feedback.messages.text()
    user.click_row(table, 0)
    wait_until(lambda: session.scan == "one", 20, "the first scan")
    wait_for_channels(user, 2)
    assert text(user) == "Channel: pet" and user.dock.workspace.channels.front[1].contrast_limits == limits
    session.project.remove_channel("one", "pet")
    session.scans_changed.emit()
    assert text(user) == "Channel: CT" and user.dock.workspace.scan_layer.visible


def test_the_button_tells_what_the_eyes_of_the_layer_list_show(window):
    user = WindowUser(*window)
    first, second = (layer for _, layer in user.dock.workspace.channels.parts)
    second.visible = True
    assert text(user) == "Channels: CT + pet"
    first.visible = second.visible = False
    assert text(user) == "Channel: none"
    user.key(Qt.Key.Key_G)
    assert text(user) == "Channel: CT"


def test_a_chosen_colormap_is_kept_and_transparent_in_the_overlay(window):
    user = WindowUser(*window)
    second = user.dock.workspace.channels.parts[1][1]
    second.colormap = "green"
    for _ in range(2):
        user.key(Qt.Key.Key_G)
        assert second.colormap.name == "green"
        user.key(Qt.Key.Key_G)
        low, high = second.colormap.map(np.array([0.0, 1.0]))
        assert low[3] == 0 and high[3] > 0.5 and high[1] == 1 and high[0] == 0
        user.key(Qt.Key.Key_G)


def test_the_planes_show_what_the_canvas_shows(window):
    user = WindowUser(*window)
    user.key(Qt.Key.Key_F10)
    user.click_voxel(user.dock.workspace.scan_layer, TUMOUR)
    plane, coloured = user.dock.reading.three_planes.planes[0], []
    for _ in range(3):
        QTest.qWait(60)
        point = plane.position_of(user.dock.workspace.scan_layer.data_to_world((9, 12, 11))).toPoint()
        rgb = plane.grab().toImage().pixelColor(point).getRgb()[:3]
        coloured.append(not is_grey(rgb))
        user.key(Qt.Key.Key_G)
    assert coloured == [False, True, True]


def test_a_project_without_channels_has_no_button(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    project = Project.create(tmp_path / "project")
    project.add_scan(write(tmp_path / "one.nii", ct()))
    open_and_wait(dock, project.root)
    assert not dock.view_bar.channels_button.isVisible()


def test_the_brush_is_limited_to_the_channel_on_the_screen_and_each_has_a_range_of_its_own(window):
    user = WindowUser(*window)
    brush, labels = user.dock.annotate.fill.range_brush, user.dock.workspace.annotation_layer
    brush.set_follows_click(False)
    brush.set_on(True)
    brush.set_range(0, 100)
    user.key(Qt.Key.Key_G)
    assert brush.range != (0, 100), "50 HU say nothing about uptake"
    brush.set_range(5, 20)
    flat = np.ravel_multi_index(np.transpose([TUMOUR, PAINTED]), labels.data.shape)
    assert brush.may_paint(flat).tolist() == [True, False]
    user.key(Qt.Key.Key_G)
    assert brush.range == (0, 100), "together, the first is in front"
    assert brush.may_paint(flat).tolist() == [True, True]
    user.key(Qt.Key.Key_G)
    user.key(Qt.Key.Key_G)
    assert brush.range == (5, 20)


def test_seeds_grow_in_the_channel_on_the_screen(window):
    user, dock = WindowUser(*window), window[1]
    labels = dock.workspace.annotation_layer
    uptake, around = np.zeros((2, *SHAPE[1:]), bool)
    uptake[9:15, 9:15] = around[5:19, 5:19] = True
    around[6:18, 6:18] = False
    labels.data[10] = 0
    labels.data[10, 12, 12] = 1
    labels.data[10, around] = SURE_BACKGROUND
    user.key(Qt.Key.Key_G)
    grow_from_seeds(dock.workspace, dock.annotate.edits)
    grown = labels.data[10] == 1
    assert (grown & uptake).sum() > 0.9 * (grown | uptake).sum()
