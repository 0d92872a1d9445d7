"""A brush that is limited to a range of grey values: one step of undo, one stroke in the journal."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from medssl.core.project.stroke_log import StrokeLog, journal_file
from napari.components import ViewerModel
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)

from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.range_brush import RangeBrush, range_of
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

CALLBACKS = {
    "mouse_press": mouse_press_callbacks,
    "mouse_move": mouse_move_callbacks,
    "mouse_release": mouse_release_callbacks,
}
SHAPE_XYZ = (20, 16, 8)


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """An axial slice whose columns 0 to 9 are dark and 10 to 19 bright; the brush paints the bright half."""
    made = Workspace(ViewerModel(), Session())
    made.range_brush = RangeBrush(made)
    values = np.zeros(SHAPE_XYZ, np.float32)
    values[10:] = 100
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(tmp_path / "a.nii.gz").id)
    made.new_annotation()
    made.go_to(0, 4)
    made.annotation_layer.brush_size = 4
    made.range_brush.set_follows_click(False)
    made.range_brush.set_range(50, 150)
    made.range_brush.set_on(True)
    yield made
    made.close()


def drag(workspace: Workspace, *voxels: tuple[int, int, int]) -> None:
    """Press at the first voxel, move through the others, release; as napari's canvas does."""
    layer = workspace.annotation_layer
    kinds = ["mouse_press", *["mouse_move"] * (len(voxels) - 1), "mouse_release"]
    for kind, voxel in zip(kinds, [*voxels, voxels[-1]], strict=True):
        event = SimpleNamespace(
            type=kind, position=layer.data_to_world(voxel), button=1, modifiers=(), view_direction=None,
            dims_displayed=[1, 2], is_dragging=True,
        )  # fmt: skip
        CALLBACKS[kind](layer, ReadOnlyWrapper(event))


def bright_half_only(labels: np.ndarray) -> bool:
    return bool(labels[4, :, 10:].any()) and not labels[4, :, :10].any()


def strokes_of(workspace):
    path = journal_file(workspace.session.project.root, workspace.session.scan)
    return StrokeLog(path, workspace.session.need_scan().geometry.shape_zyx).read().strokes


def test_only_voxels_in_range_are_painted(workspace):
    drag(workspace, (4, 8, 5), (4, 8, 15))
    assert bright_half_only(workspace.annotation_layer.data)


def test_what_was_painted_out_of_range_before_stays(workspace):
    workspace.range_brush.set_on(False)
    drag(workspace, (4, 8, 5))
    before = workspace.annotation_layer.data.copy()
    workspace.range_brush.set_on(True)
    workspace.annotation_layer.selected_label = 255
    drag(workspace, (4, 8, 5), (4, 8, 15))
    after = workspace.annotation_layer.data
    assert np.array_equal(after[..., :10], before[..., :10]) and (after[4, 8, 10:15] == 255).all()


def test_a_limited_stroke_is_one_step_of_undo_and_of_redo(workspace):
    drag(workspace, (4, 4, 15))
    first = workspace.annotation_layer.data.copy()
    drag(workspace, (4, 11, 5), (4, 11, 15), (4, 11, 8))
    second = workspace.annotation_layer.data.copy()
    workspace.annotation_layer.undo()
    assert np.array_equal(workspace.annotation_layer.data, first)
    workspace.annotation_layer.redo()
    assert np.array_equal(workspace.annotation_layer.data, second) and bright_half_only(second)


def test_strokes_of_which_nothing_is_left_are_no_steps_of_undo(workspace):
    drag(workspace, (4, 4, 15))
    drag(workspace, (4, 8, 3), (4, 8, 5))
    layer = workspace.annotation_layer
    layer.mode = "polygon"
    drag(workspace, (4, 4, 3))  # its first vertex
    layer.paint_polygon([(4, 4, 1), (4, 4, 6), (4, 10, 6), (4, 10, 1)], 1)
    layer.undo()
    assert not layer.data.any()
    layer.redo()
    assert bright_half_only(layer.data)


def test_after_a_stroke_of_which_nothing_is_left_undo_is_not_limited(workspace):
    workspace.range_brush.set_on(False)
    drag(workspace, (4, 8, 5))
    before = workspace.annotation_layer.data.copy()
    workspace.annotation_layer.mode = "erase"
    drag(workspace, (4, 8, 5))
    workspace.annotation_layer.mode = "paint"
    workspace.range_brush.set_on(True)
    drag(workspace, (4, 3, 3))
    workspace.annotation_layer.undo()
    assert np.array_equal(workspace.annotation_layer.data, before)


def test_a_limited_stroke_is_one_stroke_in_the_journal(workspace):
    drag(workspace, (4, 8, 5), (4, 8, 10), (4, 8, 15))
    (stroke,) = strokes_of(workspace)
    assert np.array_equal(np.sort(stroke.voxels), np.flatnonzero(workspace.annotation_layer.data))


def test_a_stroke_that_is_wholly_out_of_range_leaves_the_next_one_limited(workspace):
    drag(workspace, (4, 8, 3), (4, 8, 5))
    assert not workspace.annotation_layer.data.any() and not strokes_of(workspace)
    drag(workspace, (4, 8, 5), (4, 8, 10), (4, 8, 15), (4, 8, 4))
    assert bright_half_only(workspace.annotation_layer.data)


def test_a_polygon_is_limited_in_its_own_step_of_undo(workspace):
    layer = workspace.annotation_layer
    layer.mode = "polygon"
    drag(workspace, (4, 4, 3))  # the press of its first vertex
    layer.paint_polygon([(4, 4, 3), (4, 4, 16), (4, 10, 16), (4, 10, 3)], 1)
    painted = layer.data.copy()
    assert bright_half_only(painted) and len(strokes_of(workspace)) == 1
    layer.undo()
    assert not layer.data.any()
    layer.redo()
    assert np.array_equal(layer.data, painted)


def test_the_eraser_and_edits_are_not_limited(workspace):
    drag(workspace, (4, 8, 5))  # a press whose stroke leaves nothing
    edits = Edits(workspace)
    voxels = np.arange(workspace.annotation_layer.data[0].size) + workspace.annotation_layer.data[0].size * 4
    edits.apply(voxels, np.ones(len(voxels), np.uint8))
    assert (workspace.annotation_layer.data[4] == 1).all()
    workspace.annotation_layer.mode = "erase"
    drag(workspace, (4, 8, 5))
    assert workspace.annotation_layer.data[4, 8, 5] == 0


def test_the_range_is_taken_from_the_first_click(workspace):
    workspace.range_brush.set_follows_click(True)
    drag(workspace, (4, 8, 3), (4, 8, 15))
    assert workspace.range_brush.range == (0, 0) and not workspace.annotation_layer.data[4, :, 10:].any()
    assert workspace.annotation_layer.data[4, 8, 3] == 1


def test_the_first_range_is_what_the_screen_shows(workspace):
    brush = RangeBrush(workspace)
    brush.set_on(True)
    assert brush.range == tuple(workspace.scan_layer.contrast_limits)


def test_a_range_around_a_click_ignores_a_corner_of_another_tissue():
    values = np.random.default_rng(0).normal(40, 10, (7, 7))
    values[:3, :3] = 400
    low, high = range_of(values)
    assert 0 < low < 30 and 50 < high < 90
