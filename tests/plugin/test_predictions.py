"""Predictions in the viewer: back and forth, what changed, a slice taken over, cleaning up as a preview."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.labels.postprocess import Postprocessing, postprocessing_of
from medssl.core.project.annotation import Annotation
from napari.components import ViewerModel

from napari_medssl.annotate.edits import Edits
from napari_medssl.model.session import Session
from napari_medssl.predict.predictions import PredictionKey, changes_between
from napari_medssl.workspace import Workspace

SHAPE_ZYX = (8, 10, 12)
VOXEL_ML = 4 * 1.5 * 1.5 / 1000


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """A viewer without a window, with one scan of a new project on the screen."""
    session = Session()
    made = Workspace(ViewerModel(), session)
    made.edits = Edits(made)
    session.open(tmp_path / "project")
    values = np.random.default_rng(0).normal(size=SHAPE_ZYX[::-1]).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1.0])), tmp_path / "a.nii.gz")
    session.select(session.project.add_scan(tmp_path / "a.nii.gz").id)
    yield made
    made.close()


def box(label: int = 1, end: int = 6) -> np.ndarray:
    """A box with a hole, and a speck."""
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[2:6, 2:end, 2:6] = label
    labels[4, 4, 4] = 0
    labels[7, 9, 11] = label
    return labels


def predict(workspace: Workspace, labels: np.ndarray) -> str:
    """A run with a prediction, as the engine leaves it."""
    project, scan = workspace.session.project, workspace.session.need_scan()
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    project.save_prediction(run.id, scan.id, labels)
    workspace.session.end("done", "")
    workspace.predictions.show(run.id)
    return run.id


def test_a_prediction_of_earlier_weights_is_not_offered(workspace):
    run = predict(workspace, box())
    assert workspace.predictions.entries() == [PredictionKey(run)]
    workspace.session.project.run(run).checkpoint.write_bytes(b"trained further")
    assert workspace.predictions.entries() == []
    workspace.session.select(workspace.session.scan)
    assert workspace.predictions.shown is None
    with pytest.raises(UserError, match="earlier weights"):
        workspace.predictions.show(run)


# --- back and forth ----------------------------------------------------------------------------------


def test_a_flip_shows_the_previous_prediction_and_another_one_goes_back(workspace):
    old, new = predict(workspace, box()), predict(workspace, box(end=7))
    assert workspace.predictions.other == PredictionKey(old)
    workspace.predictions.flip()
    assert workspace.predictions.shown_run == old and np.array_equal(workspace.prediction_layer.data, box())
    workspace.predictions.flip()
    assert workspace.predictions.shown_run == new and np.array_equal(
        workspace.prediction_layer.data, box(end=7)
    )


def test_a_scan_that_is_opened_again_can_be_flipped_at_once(workspace):
    old, new = predict(workspace, box()), predict(workspace, box(end=7))
    workspace.session.select(workspace.session.scan)
    assert (workspace.predictions.shown_run, workspace.predictions.other) == (new, PredictionKey(old))


def test_a_single_prediction_has_nothing_to_flip_to(workspace):
    run, said = predict(workspace, box()), []
    workspace.session.message.connect(lambda severity, text: said.append(text))
    workspace.predictions.flip()
    assert workspace.predictions.shown_run == run and "only one prediction" in said[0]


def test_what_changed_is_counted_for_each_class(workspace, qtbot):
    predict(workspace, box())
    predict(workspace, box(end=7))
    qtbot.waitUntil(lambda: workspace.predictions.changes != {})
    assert workspace.predictions.changes == {1: (pytest.approx(16 * VOXEL_ML), 0)}


def test_a_voxel_that_goes_to_another_class_is_lost_by_one_and_won_by_the_other():
    before = np.array([[[1, 1, 2, 0]]], np.uint8)
    after = np.array([[[1, 2, 0, 3]]], np.uint8)
    assert changes_between(before, after, 0.5) == {1: (0, 0.5), 2: (0.5, 0.5), 3: (0.5, 0)}


# --- a slice taken over ------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_accepted_slice_is_annotated_and_complete_and_nothing_else_is(workspace, axis):
    predict(workspace, box())
    workspace.go_to(axis, 3)
    workspace.edits.accept()
    plane = (slice(None),) * axis + (3,)
    labels = np.asarray(workspace.annotation_layer.data)
    assert np.array_equal(labels[plane], box()[plane]) and np.count_nonzero(labels) == np.count_nonzero(
        box()[plane]
    )
    assert workspace.session.annotation.complete == ((axis, 3),)


def test_strokes_win_over_the_accepted_slice(workspace):
    predict(workspace, box())
    workspace.new_annotation()
    workspace.go_to(0, 3)
    workspace.annotation_layer.data_setitem((np.array([3, 3]), np.array([2, 8]), np.array([2, 8])), 255)
    workspace.edits.accept()
    labels = np.asarray(workspace.annotation_layer.data)
    assert (labels[3, 2, 2], labels[3, 8, 8], labels[3, 3, 3]) == (255, 255, 1)


def test_undo_takes_the_accepted_slice_and_its_mark_back_and_redo_brings_both(workspace):
    predict(workspace, box())
    workspace.go_to(0, 3)
    workspace.edits.accept()
    workspace.annotation_layer.undo()
    assert not np.any(workspace.annotation_layer.data) and workspace.session.annotation.complete == ()
    workspace.annotation_layer.redo()
    assert np.any(workspace.annotation_layer.data) and workspace.session.annotation.complete == ((0, 3),)
    workspace.autosave.flush()
    saved = workspace.session.project.annotation(workspace.session.scan)
    assert saved.complete == ((0, 3),) and saved.labels[3, 3, 3] == 1


def test_an_empty_slice_may_be_accepted_too(workspace):
    predict(workspace, box())
    workspace.go_to(0, 0)
    workspace.edits.accept()
    assert workspace.session.annotation.complete == ((0, 0),) and not np.any(workspace.annotation_layer.data)


def test_without_a_prediction_there_is_no_slice_to_accept(workspace):
    with pytest.raises(UserError, match="fine-tune first"):
        workspace.edits.accept()


# --- cleaning up -------------------------------------------------------------------------------------

BOTH = Postprocessing(largest=True, fill_holes=True)


def tried(workspace: Workspace, qtbot) -> None:
    workspace.predictions.preview(BOTH)
    qtbot.waitUntil(lambda: workspace.predictions.changes != {})


def test_cleaning_is_shown_before_it_is_kept_and_taken_back_by_leaving_it(workspace, qtbot):
    run = predict(workspace, box())
    tried(workspace, qtbot)
    shown = workspace.prediction_layer.data
    assert (shown[4, 4, 4], shown[7, 9, 11]) == (1, 0)
    assert workspace.predictions.changes == {1: (pytest.approx(VOXEL_ML), pytest.approx(VOXEL_ML))}
    assert postprocessing_of(workspace.session.project, run, "a") is None
    assert workspace.export_source()[2] == Postprocessing()
    workspace.predictions.preview(Postprocessing())
    assert np.array_equal(workspace.prediction_layer.data, box())


def test_what_is_kept_is_a_prediction_of_its_own_that_is_exported(workspace, qtbot, tmp_path):
    run = predict(workspace, box())
    tried(workspace, qtbot)
    workspace.predictions.apply()
    qtbot.waitUntil(lambda: workspace.predictions.shown == PredictionKey(run, True))
    assert workspace.predictions.entries() == [PredictionKey(run, True), PredictionKey(run)]
    assert np.array_equal(workspace.session.project.prediction(run, "a"), box()), "the run's own stays"
    scan, chosen, postprocessing = workspace.export_source()
    assert postprocessing == BOTH
    export_scan(workspace.session.project, scan, chosen, tmp_path / "out.nii.gz", postprocessing)
    written = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert np.count_nonzero(written) == 64
    workspace.predictions.flip()
    assert workspace.export_source()[2] == Postprocessing()


def test_a_cleaned_prediction_is_what_an_opened_scan_shows(workspace, qtbot):
    run = predict(workspace, box())
    tried(workspace, qtbot)
    workspace.predictions.apply()
    qtbot.waitUntil(lambda: workspace.predictions.shown == PredictionKey(run, True))
    workspace.session.select(workspace.session.scan)
    assert (
        workspace.predictions.shown == PredictionKey(run, True)
        and workspace.predictions.postprocessing == BOTH
    )
    assert workspace.prediction_layer.data[7, 9, 11] == 0


def test_another_scan_forgets_what_was_tried(workspace, qtbot, tmp_path):
    predict(workspace, box())
    tried(workspace, qtbot)
    Path(tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    workspace.session.select(workspace.session.scan)
    assert workspace.predictions.previewed == Postprocessing() and np.array_equal(
        workspace.prediction_layer.data, box()
    )


def test_strokes_are_not_cleaned(workspace, qtbot, tmp_path):
    run = predict(workspace, box())
    strokes = np.zeros(SHAPE_ZYX, np.uint8)
    strokes[0, 0, 0] = 1
    workspace.session.project.save_annotation("a", Annotation(strokes))
    export_scan(workspace.session.project, "a", run, tmp_path / "out.nii.gz", BOTH)
    assert np.count_nonzero(np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)) == 65
