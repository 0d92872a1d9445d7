"""A fill between complete slices: apart from strokes, gone where somebody paints, accepted by a press."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from napari.components import ViewerModel
from test_workspace import write_scan

from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.interpolation import INTERPOLATED, Interpolation
from napari_medssl.layers import entry_of
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """Axial slices 2 and 6 are painted and complete; slice 4 is on the screen, filled in."""
    made = Workspace(ViewerModel(), Session())
    made.interpolation = Interpolation(made, Edits(made))
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    for index in (2, 6):
        made.go_to(0, index)
        rows, columns = np.mgrid[3:8, 3:8].reshape(2, -1)
        made.annotation_layer.data_setitem((np.full(25, index), rows, columns), 1)
        made.toggle_complete()
    made.go_to(0, 4)
    made.interpolation.interpolate(guided=False)  # the scan is noise
    qtbot.waitUntil(lambda: made.interpolation.layer is not None, timeout=20000)
    yield made
    made.close()


def test_what_takes_a_while_is_said_until_it_is_done(workspace, qtbot):
    states = []
    workspace.interpolation.changed.connect(lambda: states.append(workspace.interpolation.busy))
    workspace.interpolation.interpolate()
    assert states == [True]
    qtbot.waitUntil(lambda: not workspace.interpolation.busy, timeout=20000)
    assert states[-1] is False


def test_a_fill_has_a_locked_layer_of_its_own_and_is_saved_apart_from_strokes(workspace):
    layer = workspace.interpolation.layer
    assert (
        entry_of(layer)["role"] == INTERPOLATED and layer.locked and layer.contour == 1 and not layer.editable
    )
    assert np.count_nonzero(layer.data == 1) == 75 and not workspace.annotation_layer.data[3:6].any()
    workspace.autosave.flush()
    saved = workspace.session.project.annotation(workspace.session.scan)
    assert np.array_equal(saved.interpolated, layer.data) and saved.complete == ((0, 2), (0, 6))


def test_a_fill_comes_back_with_its_scan(workspace):
    before = workspace.interpolation.layer.data.copy()
    workspace.session.select(workspace.session.scan)
    assert np.array_equal(workspace.interpolation.layer.data, before)


@pytest.mark.parametrize("label", [1, 255])
def test_a_fill_is_gone_where_somebody_paints(workspace, label):
    workspace.annotation_layer.brush_size = 1
    workspace.annotation_layer.paint((4, 5, 5), label)
    assert (
        workspace.interpolation.layer.data[4, 5, 5] == 0 and workspace.interpolation.layer.data[4, 5, 4] == 1
    )


def test_completing_a_filled_slice_accepts_it_and_undo_takes_that_back(workspace):
    workspace.interpolation.accept(0, 4)
    assert np.count_nonzero(workspace.annotation_layer.data[4] == 1) == 25
    assert (0, 4) in workspace.session.annotation.complete
    assert not workspace.interpolation.layer.data[4].any()
    workspace.annotation_layer.undo()
    assert (
        not workspace.annotation_layer.data[4].any() and (0, 4) not in workspace.session.annotation.complete
    )
    assert np.count_nonzero(workspace.interpolation.layer.data[4] == 1) == 25, "the outlines are back"


def test_a_fill_can_be_removed(workspace):
    workspace.interpolation.remove()
    assert workspace.interpolation.layer is None
    workspace.autosave.flush()
    assert workspace.session.project.annotation(workspace.session.scan).interpolated is None


def interpolated(workspace) -> np.ndarray | None:
    labels = workspace.session.annotation.interpolated
    return None if labels is None else labels.copy()


def test_a_fill_and_its_removal_are_steps_of_undo(workspace):
    undo, filled = workspace.undo, interpolated(workspace)
    workspace.interpolation.remove()
    undo.undo()
    assert np.array_equal(interpolated(workspace), filled) and workspace.interpolation.layer is not None
    undo.undo()
    assert interpolated(workspace) is None and workspace.interpolation.layer is None
    assert workspace.session.annotation.complete == ((0, 2), (0, 6)), "the marks are older"
    undo.redo()
    assert np.array_equal(interpolated(workspace), filled)
    undo.redo()
    assert interpolated(workspace) is None
    workspace.autosave.flush()
    assert workspace.session.project.annotation(workspace.session.scan).interpolated is None


def test_undo_goes_back_through_an_accepted_slice_and_its_fill(workspace):
    filled = interpolated(workspace)
    workspace.interpolation.accept(0, 4)
    accepted = workspace.annotation_layer.data.copy()
    rest = interpolated(workspace)
    for _ in range(2):
        workspace.undo.undo()
    assert interpolated(workspace) is None and not workspace.annotation_layer.data[4].any()
    workspace.undo.redo()
    assert np.array_equal(interpolated(workspace), filled)
    workspace.undo.redo()
    assert np.array_equal(workspace.annotation_layer.data, accepted)
    assert np.array_equal(interpolated(workspace), rest) and (0, 4) in workspace.session.annotation.complete


def test_a_fill_that_comes_back_leaves_what_was_painted_meanwhile(workspace):
    workspace.interpolation.remove()
    workspace.annotation_layer.data[3, 5, 5] = 1  # without a step of undo, as by another plugin
    workspace.session.annotation.invalidate()
    workspace.undo.undo()
    labels = interpolated(workspace)
    assert labels[3, 5, 5] == 0 and labels[3, 5, 6] == 1


def test_a_mark_on_a_filled_slice_leaves_no_guess_in_it(workspace):
    workspace.toggle_complete()
    assert not workspace.interpolation.layer.data[4].any() and workspace.interpolation.layer.data[3].any()
    workspace.annotation_layer.undo()
    assert workspace.interpolation.layer.data[4].any()


def test_a_fill_follows_the_scan_unless_shapes_alone_are_asked_for(workspace, qtbot, tmp_path):
    values = np.zeros((12, 16, 9), np.float32)
    for index, shift in enumerate((0, 0, 0, 1, 3, 4, 3, 1, 0)):
        values[3:9, 3 + shift : 9 + shift, index] = 1
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "b.nii.gz")
    workspace.session.select(workspace.session.project.add_scan(tmp_path / "b.nii.gz").id)
    workspace.new_annotation()
    truth = np.asarray(workspace.scan_layer.data) > 0.5
    for index in (2, 8):
        workspace.annotation_layer.data[index][truth[index]] = 1
        workspace.session.annotation.mark(0, index, True)
    workspace.go_to(0, 5)
    right = []
    for guided in (False, True):
        workspace.interpolation.remove()
        workspace.interpolation.interpolate(guided)
        qtbot.waitUntil(lambda: workspace.interpolation.layer is not None, timeout=20000)
        right.append(np.count_nonzero((workspace.interpolation.layer.data[5] == 1) & truth[5]))
    assert right[0] < 20 and right[1] > 30, "of 36 pixels"
