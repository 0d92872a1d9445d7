"""One order of undo: strokes, larger edits and complete slices."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from test_workspace import write_scan

from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.undo import MOST_STEPS
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

HERE = (0, 4)
"""The slice on the screen."""


@pytest.fixture
def desk(qtbot, tmp_path) -> Workspace:
    """A scan of eight slices with an empty annotation."""
    made = Workspace(ViewerModel(), Session())
    made.edits = Edits(made)
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    made.annotation_layer.brush_size = 1
    made.go_to(*HERE)
    yield made
    made.session.close()
    made.close()


def painted(desk) -> int:
    return int(np.count_nonzero(desk.annotation_layer.data))


def complete(desk) -> tuple:
    return desk.session.annotation.complete


def test_a_mark_is_undone_before_the_stroke_below_it(desk):
    layer = desk.annotation_layer
    layer.paint((4, 5, 5), 1)
    desk.toggle_complete()
    layer.undo()
    assert (painted(desk), complete(desk)) == (1, ())
    layer.undo()
    assert (painted(desk), complete(desk)) == (0, ())
    layer.redo()
    layer.redo()
    assert (painted(desk), complete(desk)) == (1, (HERE,))


def test_a_slice_that_undo_has_emptied_is_not_complete_in_the_file_either(desk):
    desk.annotation_layer.paint((4, 5, 5), 1)
    desk.toggle_complete()
    desk.autosave.flush()
    desk.annotation_layer.undo()
    desk.annotation_layer.undo()
    desk.autosave.flush()
    saved = desk.session.project.annotation("a")
    assert saved.complete == () and not saved.labels.any()


def test_a_slice_that_is_complete_without_strokes_on_purpose_stays_so(desk):
    desk.toggle_complete()
    desk.annotation_layer.paint((4, 5, 5), 1)
    desk.annotation_layer.undo()
    assert (painted(desk), complete(desk)) == (0, (HERE,))


def test_a_mark_that_was_taken_back_comes_back(desk):
    desk.toggle_complete()
    desk.toggle_complete()
    desk.annotation_layer.undo()
    assert complete(desk) == (HERE,)


def test_many_slices_that_are_completed_at_once_are_one_step(desk):
    desk.session.annotation.set_complete([(0, index) for index in range(8)])
    desk.annotation_layer.undo()
    assert complete(desk) == ()


def test_a_new_step_ends_redo(desk):
    desk.toggle_complete()
    desk.annotation_layer.undo()
    desk.annotation_layer.paint((4, 5, 5), 1)
    desk.annotation_layer.redo()
    assert (painted(desk), complete(desk)) == (1, ())


def test_an_edit_is_one_step_with_its_marks(desk):
    desk.annotation_layer.paint((4, 5, 5), 1)
    desk.edits.apply(np.arange(6), np.full(6, 2, np.uint8), [HERE, (0, 0)])
    desk.annotation_layer.undo()
    assert (painted(desk), complete(desk)) == (1, ())
    desk.annotation_layer.redo()
    assert (painted(desk), complete(desk)) == (7, ((0, 0), HERE))


def test_an_edit_on_other_slices_is_saved_as_undone(desk):
    desk.edits.apply(np.arange(6), np.full(6, 2, np.uint8))  # in slice 0
    desk.autosave.flush()
    desk.annotation_layer.undo()
    desk.autosave.flush()
    assert not desk.session.project.annotation("a").labels.any()


def test_what_is_undone_in_a_hidden_layer_is_saved(desk):
    desk.annotation_layer.paint((4, 5, 5), 1)
    desk.autosave.flush()
    desk.annotation_layer.visible = False
    desk.annotation_layer.undo()
    desk.autosave.flush()
    assert not desk.session.project.annotation("a").labels.any()


def test_a_stroke_that_napari_has_forgotten_is_not_waited_for(desk):
    desk.toggle_complete()
    desk.annotation_layer.paint((4, 0, 0), 1)
    for number in range(MOST_STEPS):
        desk.annotation_layer.paint((3, number // 12, number % 12), 1)
    for _ in range(MOST_STEPS + 5):
        desk.annotation_layer.undo()
    assert (painted(desk), complete(desk)) == (1, (HERE,)), "the mark is older than the oldest step"


def test_another_scan_has_steps_of_its_own(desk, tmp_path):
    desk.toggle_complete()
    desk.session.select(desk.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    desk.new_annotation()
    desk.annotation_layer.undo()
    desk.session.select("a")
    desk.annotation_layer.undo()
    assert complete(desk) == (HERE,)
