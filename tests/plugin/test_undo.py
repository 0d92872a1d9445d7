"""One order of undo: strokes, larger edits and complete slices."""

from __future__ import annotations

import numpy as np
import pytest
from headless import open_workspace
from test_workspace import write_scan

from napari_medssl.annotate.undo import MOST_STEPS
from napari_medssl.workspace import Workspace

HERE = (0, 4)
"""The slice on the screen."""


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """A scan of eight slices with an empty annotation."""
    made = open_workspace(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    made.annotation_layer.brush_size = 1
    made.go_to(*HERE)
    yield made
    made.session.close()
    made.close()


def painted(workspace) -> int:
    return int(np.count_nonzero(workspace.annotation_layer.data))


def complete(workspace) -> tuple:
    return workspace.session.annotation.complete


def test_a_mark_is_undone_before_the_stroke_below_it(workspace):
    layer = workspace.annotation_layer
    layer.paint((4, 5, 5), 1)
    workspace.toggle_complete()
    layer.undo()
    assert (painted(workspace), complete(workspace)) == (1, ())
    layer.undo()
    assert (painted(workspace), complete(workspace)) == (0, ())
    layer.redo()
    layer.redo()
    assert (painted(workspace), complete(workspace)) == (1, (HERE,))


def test_a_slice_that_undo_has_emptied_is_not_complete_in_the_file_either(workspace):
    workspace.annotation_layer.paint((4, 5, 5), 1)
    workspace.toggle_complete()
    workspace.autosave.flush()
    workspace.annotation_layer.undo()
    workspace.annotation_layer.undo()
    workspace.autosave.flush()
    saved = workspace.session.project.annotation("a")
    assert saved.complete == () and not saved.labels.any()


def test_a_slice_that_is_complete_without_strokes_on_purpose_stays_so(workspace):
    workspace.toggle_complete()
    workspace.annotation_layer.paint((4, 5, 5), 1)
    workspace.annotation_layer.undo()
    assert (painted(workspace), complete(workspace)) == (0, (HERE,))


def test_a_mark_that_was_taken_back_comes_back(workspace):
    workspace.toggle_complete()
    workspace.toggle_complete()
    workspace.annotation_layer.undo()
    assert complete(workspace) == (HERE,)


def test_many_slices_that_are_completed_at_once_are_one_step(workspace):
    workspace.session.annotation.set_complete([(0, index) for index in range(8)])
    workspace.annotation_layer.undo()
    assert complete(workspace) == ()


def test_a_new_step_ends_redo(workspace):
    workspace.toggle_complete()
    workspace.annotation_layer.undo()
    workspace.annotation_layer.paint((4, 5, 5), 1)
    workspace.annotation_layer.redo()
    assert (painted(workspace), complete(workspace)) == (1, ())


def test_an_edit_is_one_step_with_its_marks(workspace):
    workspace.annotation_layer.paint((4, 5, 5), 1)
    workspace.edits.apply(np.arange(6), np.full(6, 2, np.uint8), [HERE, (0, 0)])
    workspace.annotation_layer.undo()
    assert (painted(workspace), complete(workspace)) == (1, ())
    workspace.annotation_layer.redo()
    assert (painted(workspace), complete(workspace)) == (7, ((0, 0), HERE))


def test_an_edit_on_other_slices_is_saved_as_undone(workspace):
    workspace.edits.apply(np.arange(6), np.full(6, 2, np.uint8))  # in slice 0
    workspace.autosave.flush()
    workspace.annotation_layer.undo()
    workspace.autosave.flush()
    assert not workspace.session.project.annotation("a").labels.any()


def test_what_is_undone_in_a_hidden_layer_is_saved(workspace):
    workspace.annotation_layer.paint((4, 5, 5), 1)
    workspace.autosave.flush()
    workspace.annotation_layer.visible = False
    workspace.annotation_layer.undo()
    workspace.autosave.flush()
    assert not workspace.session.project.annotation("a").labels.any()


def test_a_stroke_that_napari_has_forgotten_is_not_waited_for(workspace):
    workspace.toggle_complete()
    workspace.annotation_layer.paint((4, 0, 0), 1)
    for number in range(MOST_STEPS):
        workspace.annotation_layer.paint((3, number // 12, number % 12), 1)
    for _ in range(MOST_STEPS + 5):
        workspace.annotation_layer.undo()
    assert (painted(workspace), complete(workspace)) == (1, (HERE,)), "the mark is older than the oldest step"


def test_another_scan_has_steps_of_its_own(workspace, tmp_path):
    workspace.toggle_complete()
    workspace.session.select(workspace.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    workspace.new_annotation()
    workspace.annotation_layer.undo()
    workspace.session.select("a")
    workspace.annotation_layer.undo()
    assert complete(workspace) == (HERE,)
