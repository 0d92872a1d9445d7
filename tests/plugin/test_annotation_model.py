"""The annotation's one owner: what it records, saves and recovers, without a viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.project import stroke_log
from medssl.core.project.project import LabelClass, Project
from test_workspace import write_scan

from napari_medssl.model.annotation_model import AnnotationModel, scans_with_journal
from napari_medssl.model.annotation_state import SaveState


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.create(tmp_path / "project", (LabelClass(1, "Liver", "#ff0000"),))
    made.add_scan(write_scan(tmp_path / "a.nii.gz"))
    return made


def opened(project: Project) -> AnnotationModel:
    model = AnnotationModel()
    model.open(project, "a")
    model.create()
    return model


def paint(model: AnnotationModel, index: int, label: int = 1) -> None:
    """What the layer does: the array changes, then somebody says so."""
    model.labels[index, 2:4, 2:4] = label
    model.touch()
    model.record((slice(index, index + 1), slice(None), slice(None)))


def save(model: AnnotationModel) -> None:
    pending = model.begin_write()
    model.end_write(pending, pending.write())


def test_a_stroke_is_told_with_what_was_there_before(project):
    model, strokes = opened(project), []
    model.stroke.connect(lambda *stroke: strokes.append(stroke))
    paint(model, 3)
    paint(model, 3, label=255)
    voxels, before, after = strokes[1]
    assert np.array_equal(voxels, np.flatnonzero(model.labels)) and len(voxels) == 4
    assert set(before) == {1} and set(after) == {255}


def test_what_is_edited_while_the_file_is_written_is_still_to_be_saved(project):
    model = opened(project)
    paint(model, 3)
    pending = model.begin_write()
    annotated = pending.write()
    paint(model, 5)
    model.end_write(pending, annotated)
    assert model.unsaved and model.save_state == SaveState.SAVING
    (left,) = stroke_log.read(stroke_log.journal_file(project.root, "a"))
    assert set(np.unravel_index(left.voxels, model.labels.shape)[0]) == {5}
    save(model)
    assert not model.unsaved and model.save_state == SaveState.SAVED and not scans_with_journal(project)


def test_complete_slices_and_strokes_of_a_killed_viewer_are_recovered(project):
    model = opened(project)
    paint(model, 3)
    model.mark(0, 3, True)
    assert scans_with_journal(project) == ["a"]
    again = opened(project)
    recovered = again.recover()
    assert recovered.strokes == 1 and recovered.complete == ((0, 3),)
    assert np.array_equal(recovered.voxels, np.flatnonzero(model.labels)) and set(recovered.labels) == {1}


def test_strokes_and_complete_slices_clear_what_was_interpolated_there(project):
    model = opened(project)
    model.set_interpolated(np.ones_like(model.labels))
    paint(model, 3)
    assert not model.interpolated[3, 2:4, 2:4].any() and model.interpolated[3].any()
    model.mark(1, 6, True)
    assert not model.interpolated[:, 6].any() and model.interpolated[:, 5].any()
    save(model)
    assert np.array_equal(opened(project).interpolated, model.interpolated)


def test_an_edit_that_the_disk_refuses_changes_nothing(project, monkeypatch):
    def full(path, stroke):
        raise UserError("The disk is full; free some space.", code="disk-full")

    model, strokes = opened(project), []
    model.stroke.connect(lambda *stroke: strokes.append(stroke))
    with monkeypatch.context() as patch, pytest.raises(UserError):
        patch.setattr(stroke_log, "append", full)
        model.expect(np.array([7]), np.array([1], np.uint8))
    assert not strokes
    model.labels.reshape(-1)[7] = 1
    model.record()
    assert strokes[0][1].tolist() == [0], "the voxel counts as not recorded yet"


def test_a_project_of_another_window_keeps_its_complete_slices(project):
    model = opened(project)
    project.read_only = "Another window has this project."
    with pytest.raises(UserError):
        model.mark(0, 3, True)
    paint(model, 3)
    assert model.complete == () and not scans_with_journal(project)


def test_undo_of_unknown_voxels_is_recorded_wherever_it_was(project):
    model = opened(project)
    paint(model, 3)
    model.labels[3] = 0
    model.invalidate()
    model.record((slice(8, 9), slice(None), slice(None)))
    strokes = stroke_log.read(stroke_log.journal_file(project.root, "a"))
    assert len(strokes) == 2 and set(strokes[1].labels) == {0}
