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
def workspace(qtbot, tmp_path) -> Workspace:
    """A viewer without a window, with one scan of a new project on the screen."""
    session = Session()
    workspace = Workspace(ViewerModel(), session)
    workspace.said = []
    session.message.connect(lambda severity, text: workspace.said.append(text))
    session.open(tmp_path / "project")
    session.select(session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    yield workspace
    workspace.close()


def reopened(session_root: Path) -> Workspace:
    """The same project, opened again as after a restart."""
    session = Session()
    workspace = Workspace(ViewerModel(), session)
    session.open(session_root)
    return workspace


def predict(workspace: Workspace, value: int = 1) -> str:
    """A run with a prediction, as the engine leaves it."""
    project, scan = workspace.session.project, workspace.session.need_scan()
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    project.save_prediction(run.id, scan.id, np.full(scan.geometry.shape_zyx, value, np.uint8))
    return run.id


def refuse(self, scan, annotation) -> None:
    """Project.save_annotation on a full disk."""
    raise UserError("The disk is full; free some space.", code="disk-full")


# --- scans -------------------------------------------------------------------------------------------


def test_a_scan_is_shown_as_its_file_has_it(workspace):
    assert workspace.scan_layer.data.shape == SHAPE[::-1] and tuple(workspace.scan_layer.scale) == (
        4,
        1.5,
        1.5,
    )
    assert navigation.camera_of(workspace.viewer).orientation == ("away", "up", "left")


def test_two_scans_share_one_layer(workspace, tmp_path):
    first = workspace.scan_layer
    workspace.session.select(workspace.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    assert workspace.scan_layer is first and len(workspace.viewer.layers) == 1


def test_a_layer_that_the_user_opened_becomes_the_one_of_all_scans(workspace, tmp_path):
    from napari_medssl.io.reader import read_one

    data, kwargs, _ = read_one(write_scan(tmp_path / "b.nii.gz", 1))
    opened = workspace.viewer.add_image(data, **kwargs)
    first = workspace.session.scan
    workspace.session.select(workspace.session.project.add_scan(tmp_path / "b.nii.gz").id)
    assert list(workspace.viewer.layers) == [opened] and np.array_equal(opened.data, data)
    workspace.session.select(first)
    assert (
        list(workspace.viewer.layers) == [opened] and opened.visible and not np.array_equal(opened.data, data)
    )


def test_a_scan_whose_file_is_gone_is_shown_from_the_project(workspace, tmp_path):
    (tmp_path / "a.nii.gz").unlink()
    workspace.viewer.layers.clear()
    workspace.session.open(workspace.session.project.root)
    assert workspace.scan_layer.data.shape == SHAPE[::-1]
    assert "a.nii.gz" in workspace.said[-1]


def test_a_scan_whose_file_has_other_voxels_is_shown_from_the_project(workspace, tmp_path):
    write_scan(tmp_path / "a.nii.gz", seed=7)
    workspace.viewer.layers.clear()
    workspace.session.open(workspace.session.project.root)
    assert np.array_equal(workspace.scan_layer.data, workspace.session.project.image(workspace.session.scan))
    assert "a.nii.gz has changed since it was added" in workspace.said[-1]


def test_a_layer_with_other_voxels_of_the_file_is_not_taken_for_the_scan(workspace, tmp_path):
    from napari_medssl.io.reader import read_one

    data, kwargs, _ = read_one(write_scan(tmp_path / "a.nii.gz", seed=7))
    workspace.viewer.layers.clear()
    opened = workspace.viewer.add_image(data, **kwargs)
    workspace.session.open(workspace.session.project.root)
    assert workspace.scan_layer is not opened
    assert "has changed since it was added" in workspace.said[-1]


# --- annotation --------------------------------------------------------------------------------------


def test_a_new_annotation_has_the_brush_in_hand(workspace):
    workspace.new_annotation()
    layer = workspace.annotation_layer
    assert layer.mode == "paint" and workspace.viewer.layers.selection.active is layer
    assert layers.entry_of(layer)["scan"] == workspace.session.scan


def test_strokes_are_saved_by_themselves(workspace, qtbot):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    assert workspace.session.project.annotation(workspace.session.scan) is None
    qtbot.waitUntil(lambda: workspace.session.project.annotation(workspace.session.scan) is not None)
    assert workspace.session.project.annotation(workspace.session.scan).labels[4, 5, 6] == 1


def test_an_undone_stroke_is_saved_as_undone(workspace, qtbot):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.autosave.flush()
    workspace.annotation_layer.undo()
    qtbot.waitUntil(lambda: not workspace.session.project.annotation(workspace.session.scan).labels.any())


def test_looking_at_other_slices_saves_nothing(workspace, qtbot, monkeypatch):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.autosave.flush()
    saves = []
    monkeypatch.setattr(Project, "save_annotation", lambda *of: saves.append(of))
    for index in range(8):
        workspace.go_to(0, index)
    workspace.autosave.flush()
    assert not saves


def test_strokes_survive_a_change_of_scan(workspace, tmp_path):
    first = workspace.session.scan
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.session.select(workspace.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    assert workspace.annotation_layer is None
    workspace.session.select(first)
    assert workspace.annotation_layer.data[4, 5, 6] == 1


def test_strokes_of_a_deleted_layer_are_on_the_disk(workspace):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.viewer.layers.remove(workspace.annotation_layer)
    assert workspace.session.project.annotation(workspace.session.scan).labels[4, 5, 6] == 1


def test_a_deleted_annotation_layer_comes_back_with_its_strokes(workspace):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.viewer.layers.remove(workspace.annotation_layer)
    workspace.new_annotation()
    assert workspace.annotation_layer.data[4, 5, 6] == 1


def test_a_layer_deleted_while_the_disk_refuses_can_be_had_again(workspace, monkeypatch):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    with monkeypatch.context() as patch:
        patch.setattr(Project, "save_annotation", refuse)
        workspace.viewer.layers.remove(workspace.annotation_layer)
    workspace.new_annotation()
    assert workspace.annotation_layer.data[4, 5, 6] == 1
    workspace.autosave.flush()
    assert workspace.session.project.annotation(workspace.session.scan).labels[4, 5, 6] == 1


def test_a_project_without_classes_gets_one_to_paint(workspace):
    workspace.session.project.set_classes(())
    workspace.new_annotation()
    assert len(workspace.session.project.classes) == 1 and workspace.annotation_layer.selected_label == 1


def test_another_project_takes_the_last_ones_layers_away(workspace, tmp_path):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.predictions.show(predict(workspace))
    first = workspace.session.project.root
    workspace.session.open(tmp_path / "second")
    assert len(workspace.viewer.layers) == 0
    workspace.session.open(first)
    assert workspace.annotation_layer.data[4, 5, 6] == 1 and workspace.prediction_layer.visible


def test_no_other_project_while_a_job_runs(workspace, tmp_path):
    workspace.session.begin("pretrain")
    with pytest.raises(UserError, match="running"):
        workspace.session.open(tmp_path / "second")


def test_a_project_opens_where_it_was_left(workspace):
    workspace.new_annotation()
    workspace.go_to(1, 3)
    workspace.annotation_layer.paint((4, 3, 6), 1)
    workspace.toggle_complete()
    workspace.leave()
    again = reopened(workspace.session.project.root)
    assert again.annotation_layer.data[4, 3, 6] == 1
    assert again.session.annotation.complete == ((1, 3),) and again.slice_on_screen() == (1, 3)
    again.close()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_complete_slices_in_every_orientation(workspace, axis):
    workspace.new_annotation()
    workspace.go_to(axis, 2)
    workspace.toggle_complete()
    workspace.autosave.flush()
    assert workspace.session.project.annotation(workspace.session.scan).complete == ((axis, 2),)
    workspace.toggle_complete()
    assert workspace.session.annotation.complete == ()


def test_a_disk_that_refuses_is_told_and_the_stroke_is_tried_again(workspace, monkeypatch):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)

    with monkeypatch.context() as patch:
        patch.setattr(Project, "save_annotation", refuse)
        catch_errors(workspace.session, workspace.autosave.flush)
        assert workspace.said == ["The disk is full; free some space."]
        assert workspace.session.annotation.save_state == "failed"
        catch_errors(workspace.session, lambda: workspace.session.select(workspace.session.scan))
        assert workspace.annotation_layer.data[4, 5, 6] == 1, (
            "the layer must not go while its strokes are unsaved"
        )
    workspace.autosave.flush()
    assert workspace.session.project.annotation(workspace.session.scan).labels[4, 5, 6] == 1


def test_restoring_keeps_sure_background(workspace):
    labels = np.zeros(SHAPE[::-1], np.uint8)
    labels[2, 2, 2], labels[3, 3, 3] = 255, 1
    workspace.session.project.save_annotation(workspace.session.scan, Annotation(labels, ()))
    workspace.session.select(workspace.session.scan)
    assert np.array_equal(workspace.annotation_layer.data, labels)


# --- prediction and export ---------------------------------------------------------------------------


def test_a_prediction_has_its_own_layer_below_the_strokes(workspace):
    workspace.new_annotation()
    workspace.predictions.show(predict(workspace))
    names = [layer.name for layer in workspace.viewer.layers]
    assert names.index("prediction") < names.index("annotation")
    assert not workspace.annotation_layer.data.any()
    assert workspace.viewer.layers.selection.active is workspace.annotation_layer


def test_a_new_prediction_goes_into_the_same_layer_and_the_old_one_stays_in_the_project(workspace):
    old = predict(workspace, 1)
    workspace.predictions.show(old)
    layer = workspace.prediction_layer
    workspace.predictions.show(predict(workspace, 2))
    assert workspace.prediction_layer is layer and np.all(layer.data == 2)
    workspace.predictions.show(old)
    assert np.all(layer.data == 1)


def test_strokes_win_over_the_prediction_in_the_exported_file(workspace, tmp_path):
    workspace.predictions.show(predict(workspace, 1))
    workspace.new_annotation()
    workspace.annotation_layer.data[0, 0, :3] = 255
    workspace.annotation_layer.paint((4, 5, 6), 2)
    scan, run, _ = workspace.export_source()
    export_scan(workspace.session.project, scan, run, tmp_path / "out.nii.gz")
    written, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "a.nii.gz")
    assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
    values = np.asarray(written.dataobj)
    assert set(np.unique(values)) == {0, 1, 2}


def test_there_is_nothing_to_export_before_a_prediction(workspace):
    with pytest.raises(UserError, match="fine-tune first"):
        workspace.export_source()


def test_fine_tuning_without_annotation_is_refused_in_words(workspace):
    with pytest.raises(UserError, match="Nothing is annotated"):
        finetune_job(workspace.session, None, 1)


def test_painting_without_an_annotation_is_refused_in_words(workspace):
    with pytest.raises(UserError, match="New annotation"):
        workspace.paint(1)
