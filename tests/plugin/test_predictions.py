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
def desk(qtbot, tmp_path) -> Workspace:
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


def predict(desk: Workspace, labels: np.ndarray) -> str:
    """A run with a prediction, as the engine leaves it."""
    project, scan = desk.session.project, desk.session.need_scan()
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    project.save_prediction(run.id, scan.id, labels)
    desk.session.end("done", "")
    desk.predictions.show(run.id)
    return run.id


def test_a_prediction_of_earlier_weights_is_not_offered(desk):
    run = predict(desk, box())
    assert desk.predictions.entries() == [PredictionKey(run)]
    desk.session.project.run(run).checkpoint.write_bytes(b"trained further")
    assert desk.predictions.entries() == []
    desk.session.select(desk.session.scan)
    assert desk.predictions.shown is None
    with pytest.raises(UserError, match="earlier weights"):
        desk.predictions.show(run)


# --- back and forth ----------------------------------------------------------------------------------


def test_a_flip_shows_the_previous_prediction_and_another_one_goes_back(desk):
    old, new = predict(desk, box()), predict(desk, box(end=7))
    assert desk.predictions.other == PredictionKey(old)
    desk.predictions.flip()
    assert desk.predictions.shown_run == old and np.array_equal(desk.prediction_layer.data, box())
    desk.predictions.flip()
    assert desk.predictions.shown_run == new and np.array_equal(desk.prediction_layer.data, box(end=7))


def test_a_scan_that_is_opened_again_can_be_flipped_at_once(desk):
    old, new = predict(desk, box()), predict(desk, box(end=7))
    desk.session.select(desk.session.scan)
    assert (desk.predictions.shown_run, desk.predictions.other) == (new, PredictionKey(old))


def test_a_single_prediction_has_nothing_to_flip_to(desk):
    run, said = predict(desk, box()), []
    desk.session.message.connect(lambda severity, text: said.append(text))
    desk.predictions.flip()
    assert desk.predictions.shown_run == run and "only one prediction" in said[0]


def test_what_changed_is_counted_for_each_class(desk, qtbot):
    predict(desk, box())
    predict(desk, box(end=7))
    qtbot.waitUntil(lambda: desk.predictions.changes != {})
    assert desk.predictions.changes == {1: (pytest.approx(16 * VOXEL_ML), 0)}


def test_a_voxel_that_goes_to_another_class_is_lost_by_one_and_won_by_the_other():
    before = np.array([[[1, 1, 2, 0]]], np.uint8)
    after = np.array([[[1, 2, 0, 3]]], np.uint8)
    assert changes_between(before, after, 0.5) == {1: (0, 0.5), 2: (0.5, 0.5), 3: (0.5, 0)}


# --- a slice taken over ------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_accepted_slice_is_annotated_and_complete_and_nothing_else_is(desk, axis):
    predict(desk, box())
    desk.go_to(axis, 3)
    desk.edits.accept()
    plane = (slice(None),) * axis + (3,)
    labels = np.asarray(desk.annotation_layer.data)
    assert np.array_equal(labels[plane], box()[plane]) and np.count_nonzero(labels) == np.count_nonzero(
        box()[plane]
    )
    assert desk.session.annotation.complete == ((axis, 3),)


def test_strokes_win_over_the_accepted_slice(desk):
    predict(desk, box())
    desk.new_annotation()
    desk.go_to(0, 3)
    desk.annotation_layer.data_setitem((np.array([3, 3]), np.array([2, 8]), np.array([2, 8])), 255)
    desk.edits.accept()
    labels = np.asarray(desk.annotation_layer.data)
    assert (labels[3, 2, 2], labels[3, 8, 8], labels[3, 3, 3]) == (255, 255, 1)


def test_undo_takes_the_accepted_slice_and_its_mark_back_and_redo_brings_both(desk):
    predict(desk, box())
    desk.go_to(0, 3)
    desk.edits.accept()
    desk.annotation_layer.undo()
    assert not np.any(desk.annotation_layer.data) and desk.session.annotation.complete == ()
    desk.annotation_layer.redo()
    assert np.any(desk.annotation_layer.data) and desk.session.annotation.complete == ((0, 3),)
    desk.autosave.flush()
    saved = desk.session.project.annotation(desk.session.scan)
    assert saved.complete == ((0, 3),) and saved.labels[3, 3, 3] == 1


def test_an_empty_slice_may_be_accepted_too(desk):
    predict(desk, box())
    desk.go_to(0, 0)
    desk.edits.accept()
    assert desk.session.annotation.complete == ((0, 0),) and not np.any(desk.annotation_layer.data)


def test_without_a_prediction_there_is_no_slice_to_accept(desk):
    with pytest.raises(UserError, match="fine-tune first"):
        desk.edits.accept()


# --- cleaning up -------------------------------------------------------------------------------------

BOTH = Postprocessing(largest=True, fill_holes=True)


def tried(desk: Workspace, qtbot) -> None:
    desk.predictions.preview(BOTH)
    qtbot.waitUntil(lambda: desk.predictions.changes != {})


def test_cleaning_is_shown_before_it_is_kept_and_taken_back_by_leaving_it(desk, qtbot):
    run = predict(desk, box())
    tried(desk, qtbot)
    shown = desk.prediction_layer.data
    assert (shown[4, 4, 4], shown[7, 9, 11]) == (1, 0)
    assert desk.predictions.changes == {1: (pytest.approx(VOXEL_ML), pytest.approx(VOXEL_ML))}
    assert postprocessing_of(desk.session.project, run, "a") is None
    assert desk.export_source()[2] == Postprocessing()
    desk.predictions.preview(Postprocessing())
    assert np.array_equal(desk.prediction_layer.data, box())


def test_what_is_kept_is_a_prediction_of_its_own_that_is_exported(desk, qtbot, tmp_path):
    run = predict(desk, box())
    tried(desk, qtbot)
    desk.predictions.apply()
    qtbot.waitUntil(lambda: desk.predictions.shown == PredictionKey(run, True))
    assert desk.predictions.entries() == [PredictionKey(run, True), PredictionKey(run)]
    assert np.array_equal(desk.session.project.prediction(run, "a"), box()), "the run's own stays"
    scan, chosen, postprocessing = desk.export_source()
    assert postprocessing == BOTH
    export_scan(desk.session.project, scan, chosen, tmp_path / "out.nii.gz", postprocessing)
    written = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert np.count_nonzero(written) == 64
    desk.predictions.flip()
    assert desk.export_source()[2] == Postprocessing()


def test_a_cleaned_prediction_is_what_an_opened_scan_shows(desk, qtbot):
    run = predict(desk, box())
    tried(desk, qtbot)
    desk.predictions.apply()
    qtbot.waitUntil(lambda: desk.predictions.shown == PredictionKey(run, True))
    desk.session.select(desk.session.scan)
    assert desk.predictions.shown == PredictionKey(run, True) and desk.predictions.postprocessing == BOTH
    assert desk.prediction_layer.data[7, 9, 11] == 0


def test_another_scan_forgets_what_was_tried(desk, qtbot, tmp_path):
    predict(desk, box())
    tried(desk, qtbot)
    Path(tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    desk.session.select(desk.session.scan)
    assert desk.predictions.previewed == Postprocessing() and np.array_equal(
        desk.prediction_layer.data, box()
    )


def test_strokes_are_not_cleaned(desk, qtbot, tmp_path):
    run = predict(desk, box())
    strokes = np.zeros(SHAPE_ZYX, np.uint8)
    strokes[0, 0, 0] = 1
    desk.session.project.save_annotation("a", Annotation(strokes))
    export_scan(desk.session.project, "a", run, tmp_path / "out.nii.gz", BOTH)
    assert np.count_nonzero(np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)) == 65
