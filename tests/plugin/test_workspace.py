"""The session and the viewer's layers together: open, paint, save, restore, predict, export."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.project.project import Annotation, Project
from napari.components import ViewerModel

from napari_medssl import layers, navigation
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.job_factory import finetune_job
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

AFFINE = np.diag([-1.5, -1.5, 4, 1.0])
SHAPE = (12, 10, 8)


def write_scan(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return path


@pytest.fixture
def desk(qtbot, tmp_path) -> Workspace:
    """A viewer without a window, with one scan of a new project on the screen."""
    session = Session()
    desk = Workspace(ViewerModel(), session)
    desk.said = []
    session.message.connect(lambda severity, text: desk.said.append(text))
    session.open(tmp_path / "project")
    session.select(session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    yield desk
    desk.close()


def other_desk(session_root: Path) -> Workspace:
    """The same project, opened again as after a restart."""
    session = Session()
    desk = Workspace(ViewerModel(), session)
    session.open(session_root)
    return desk


def predict(desk: Workspace, value: int = 1) -> str:
    """A run with a prediction, as the engine leaves it."""
    project, scan = desk.session.project, desk.session.need_scan()
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    project.save_prediction(run.id, scan.id, np.full(scan.geometry.shape_zyx, value, np.uint8))
    return run.id


def refuse(self, scan, annotation) -> None:
    """Project.save_annotation on a full disk."""
    raise UserError("The disk is full; free some space.", code="disk-full")


# --- scans -------------------------------------------------------------------------------------------


def test_a_scan_is_shown_as_its_file_has_it(desk):
    assert desk.scan_layer.data.shape == SHAPE[::-1] and tuple(desk.scan_layer.scale) == (4, 1.5, 1.5)
    assert navigation.camera_of(desk.viewer).orientation == ("away", "up", "left")


def test_two_scans_share_one_layer(desk, tmp_path):
    first = desk.scan_layer
    desk.session.select(desk.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    assert desk.scan_layer is first and len(desk.viewer.layers) == 1


def test_a_layer_that_the_user_opened_becomes_the_one_of_all_scans(desk, tmp_path):
    from napari_medssl.io.reader import read_one

    data, kwargs, _ = read_one(write_scan(tmp_path / "b.nii.gz", 1))
    opened = desk.viewer.add_image(data, **kwargs)
    first = desk.session.scan
    desk.session.select(desk.session.project.add_scan(tmp_path / "b.nii.gz").id)
    assert list(desk.viewer.layers) == [opened] and np.array_equal(opened.data, data)
    desk.session.select(first)
    assert list(desk.viewer.layers) == [opened] and opened.visible and not np.array_equal(opened.data, data)


def test_a_scan_whose_file_is_gone_is_shown_from_the_project(desk, tmp_path):
    (tmp_path / "a.nii.gz").unlink()
    desk.viewer.layers.clear()
    desk.session.open(desk.session.project.root)
    assert desk.scan_layer.data.shape == SHAPE[::-1]
    assert "a.nii.gz" in desk.said[-1]


def test_a_scan_whose_file_has_other_voxels_is_shown_from_the_project(desk, tmp_path):
    write_scan(tmp_path / "a.nii.gz", seed=7)
    desk.viewer.layers.clear()
    desk.session.open(desk.session.project.root)
    assert np.array_equal(desk.scan_layer.data, desk.session.project.image(desk.session.scan))
    assert "a.nii.gz has changed since it was added" in desk.said[-1]


def test_a_layer_with_other_voxels_of_the_file_is_not_taken_for_the_scan(desk, tmp_path):
    from napari_medssl.io.reader import read_one

    data, kwargs, _ = read_one(write_scan(tmp_path / "a.nii.gz", seed=7))
    desk.viewer.layers.clear()
    opened = desk.viewer.add_image(data, **kwargs)
    desk.session.open(desk.session.project.root)
    assert desk.scan_layer is not opened
    assert "has changed since it was added" in desk.said[-1]


# --- annotation --------------------------------------------------------------------------------------


def test_a_new_annotation_has_the_brush_in_hand(desk):
    desk.new_annotation()
    layer = desk.annotation_layer
    assert layer.mode == "paint" and desk.viewer.layers.selection.active is layer
    assert layers.entry_of(layer)["scan"] == desk.session.scan


def test_strokes_are_saved_by_themselves(desk, qtbot):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    assert desk.session.project.annotation(desk.session.scan) is None
    qtbot.waitUntil(lambda: desk.session.project.annotation(desk.session.scan) is not None)
    assert desk.session.project.annotation(desk.session.scan).labels[4, 5, 6] == 1


def test_an_undone_stroke_is_saved_as_undone(desk, qtbot):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.autosave.flush()
    desk.annotation_layer.undo()
    qtbot.waitUntil(lambda: not desk.session.project.annotation(desk.session.scan).labels.any())


def test_looking_at_other_slices_saves_nothing(desk, qtbot, monkeypatch):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.autosave.flush()
    saves = []
    monkeypatch.setattr(Project, "save_annotation", lambda *of: saves.append(of))
    for index in range(8):
        desk.go_to(0, index)
    desk.autosave.flush()
    assert not saves


def test_strokes_survive_a_change_of_scan(desk, tmp_path):
    first = desk.session.scan
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.session.select(desk.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    assert desk.annotation_layer is None
    desk.session.select(first)
    assert desk.annotation_layer.data[4, 5, 6] == 1


def test_strokes_of_a_deleted_layer_are_on_the_disk(desk):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.viewer.layers.remove(desk.annotation_layer)
    assert desk.session.project.annotation(desk.session.scan).labels[4, 5, 6] == 1


def test_a_deleted_annotation_layer_comes_back_with_its_strokes(desk):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.viewer.layers.remove(desk.annotation_layer)
    desk.new_annotation()
    assert desk.annotation_layer.data[4, 5, 6] == 1


def test_a_layer_deleted_while_the_disk_refuses_can_be_had_again(desk, monkeypatch):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    with monkeypatch.context() as patch:
        patch.setattr(Project, "save_annotation", refuse)
        desk.viewer.layers.remove(desk.annotation_layer)
    desk.new_annotation()
    assert desk.annotation_layer.data[4, 5, 6] == 1
    desk.autosave.flush()
    assert desk.session.project.annotation(desk.session.scan).labels[4, 5, 6] == 1


def test_a_project_without_classes_gets_one_to_paint(desk):
    desk.session.project.set_classes(())
    desk.new_annotation()
    assert len(desk.session.project.classes) == 1 and desk.annotation_layer.selected_label == 1


def test_another_project_takes_the_last_ones_layers_away(desk, tmp_path):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.predictions.show(predict(desk))
    first = desk.session.project.root
    desk.session.open(tmp_path / "second")
    assert len(desk.viewer.layers) == 0
    desk.session.open(first)
    assert desk.annotation_layer.data[4, 5, 6] == 1 and desk.prediction_layer.visible


def test_no_other_project_while_a_job_runs(desk, tmp_path):
    desk.session.begin("pretrain")
    with pytest.raises(UserError, match="running"):
        desk.session.open(tmp_path / "second")


def test_a_project_opens_where_it_was_left(desk):
    desk.new_annotation()
    desk.go_to(1, 3)
    desk.annotation_layer.paint((4, 3, 6), 1)
    desk.toggle_complete()
    desk.leave()
    again = other_desk(desk.session.project.root)
    assert again.annotation_layer.data[4, 3, 6] == 1
    assert again.session.annotation.complete == ((1, 3),) and again.slice_on_screen() == (1, 3)
    again.close()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_complete_slices_in_every_orientation(desk, axis):
    desk.new_annotation()
    desk.go_to(axis, 2)
    desk.toggle_complete()
    desk.autosave.flush()
    assert desk.session.project.annotation(desk.session.scan).complete == ((axis, 2),)
    desk.toggle_complete()
    assert desk.session.annotation.complete == ()


def test_a_disk_that_refuses_is_told_and_the_stroke_is_tried_again(desk, monkeypatch):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)

    with monkeypatch.context() as patch:
        patch.setattr(Project, "save_annotation", refuse)
        catch_errors(desk.session, desk.autosave.flush)
        assert desk.said == ["The disk is full; free some space."]
        assert desk.session.annotation.save_state == "failed"
        catch_errors(desk.session, lambda: desk.session.select(desk.session.scan))
        assert desk.annotation_layer.data[4, 5, 6] == 1, "the layer must not go while its strokes are unsaved"
    desk.autosave.flush()
    assert desk.session.project.annotation(desk.session.scan).labels[4, 5, 6] == 1


def test_restoring_keeps_sure_background(desk):
    labels = np.zeros(SHAPE[::-1], np.uint8)
    labels[2, 2, 2], labels[3, 3, 3] = 255, 1
    desk.session.project.save_annotation(desk.session.scan, Annotation(labels, ()))
    desk.session.select(desk.session.scan)
    assert np.array_equal(desk.annotation_layer.data, labels)


# --- prediction and export ---------------------------------------------------------------------------


def test_a_prediction_has_its_own_layer_below_the_strokes(desk):
    desk.new_annotation()
    desk.predictions.show(predict(desk))
    names = [layer.name for layer in desk.viewer.layers]
    assert names.index("prediction") < names.index("annotation")
    assert not desk.annotation_layer.data.any()
    assert desk.viewer.layers.selection.active is desk.annotation_layer


def test_a_new_prediction_goes_into_the_same_layer_and_the_old_one_stays_in_the_project(desk):
    old = predict(desk, 1)
    desk.predictions.show(old)
    layer = desk.prediction_layer
    desk.predictions.show(predict(desk, 2))
    assert desk.prediction_layer is layer and np.all(layer.data == 2)
    desk.predictions.show(old)
    assert np.all(layer.data == 1)


def test_strokes_win_over_the_prediction_in_the_exported_file(desk, tmp_path):
    desk.predictions.show(predict(desk, 1))
    desk.new_annotation()
    desk.annotation_layer.data[0, 0, :3] = 255
    desk.annotation_layer.paint((4, 5, 6), 2)
    scan, run, _ = desk.export_source()
    export_scan(desk.session.project, scan, run, tmp_path / "out.nii.gz")
    written, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "a.nii.gz")
    assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
    values = np.asarray(written.dataobj)
    assert set(np.unique(values)) == {0, 1, 2}


def test_there_is_nothing_to_export_before_a_prediction(desk):
    with pytest.raises(UserError, match="fine-tune first"):
        desk.export_source()


def test_fine_tuning_without_annotation_is_refused_in_words(desk):
    with pytest.raises(UserError, match="Nothing is annotated"):
        finetune_job(desk.session, None, 1)


def test_painting_without_an_annotation_is_refused_in_words(desk):
    with pytest.raises(UserError, match="New annotation"):
        desk.paint(1)
