"""The annotation's one owner: what it records, saves and recovers, without a viewer."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from faulty_disk import FaultyDisk
from medssl.core.errors import UserError
from medssl.core.project.project import LabelClass, Project
from medssl.core.project.stroke_log import StrokeLog, journal_file
from medssl.core.project.stroke_records import Stroke
from test_workspace import write_scan

from napari_medssl.model.annotation_model import AnnotationModel
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


def in_journal(project: Project) -> tuple[Stroke, ...]:
    """What the next viewer finds in the journal."""
    shape_zyx = project.scans["a"].geometry.shape_zyx
    return StrokeLog(journal_file(project.root, "a"), shape_zyx).read().strokes


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
    (left,) = in_journal(project)
    assert set(np.unravel_index(left.voxels, model.labels.shape)[0]) == {5}
    save(model)
    assert not model.unsaved and model.save_state == SaveState.SAVED and not in_journal(project)


def test_complete_slices_and_strokes_of_a_killed_viewer_are_recovered(project):
    model = opened(project)
    paint(model, 3)
    model.mark(0, 3, True)
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


def test_an_edit_that_the_disk_refuses_changes_nothing(project):
    model, strokes = opened(project), []
    model.stroke.connect(lambda *stroke: strokes.append(stroke))
    with FaultyDisk(0, errno.ENOSPC), pytest.raises(UserError):
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
    assert model.complete == () and not in_journal(project)


def test_undo_of_unknown_voxels_is_recorded_wherever_it_was(project):
    model = opened(project)
    paint(model, 3)
    model.labels[3] = 0
    model.invalidate()
    model.record((slice(8, 9), slice(None), slice(None)))
    strokes = in_journal(project)
    assert len(strokes) == 2 and set(strokes[1].labels) == {0}


def test_a_stroke_that_the_disk_refuses_is_in_the_journal_with_the_next_one(project):
    model = opened(project)
    with FaultyDisk(0, errno.ENOSPC), pytest.raises(UserError):
        paint(model, 3)
    paint(model, 5)
    recovered = opened(project).recover()
    assert np.array_equal(recovered.voxels, np.flatnonzero(model.labels)) and len(recovered.voxels) == 8


def test_strokes_that_were_not_brought_back_stay_in_the_journal(project):
    """A viewer that could not recover them writes the annotation without them, and they are still there."""
    paint(opened(project), 3)
    model = opened(project)
    model.recover()  # and nobody applies it: end_recovery is not called
    paint(model, 5)
    save(model)
    again = opened(project)
    recovered = again.recover()
    assert set(np.unravel_index(recovered.voxels, again.labels.shape)[0]) == {3}
    again.labels.reshape(-1)[recovered.voxels] = recovered.labels
    again.touch()
    again.record()
    again.end_recovery()
    save(again)
    assert not in_journal(project) and opened(project).labels[[3, 5], 2, 2].tolist() == [1, 1]


@pytest.mark.parametrize("how", ["error", "short"])
def test_whatever_operation_fails_every_acknowledged_stroke_comes_back(project, how):
    """Killed after the failure, or left to try once more."""
    for fail_at in range(80):
        model, acknowledged = opened(project), list[int]()
        with FaultyDisk(fail_at, errno.EIO, how) as disk:
            for index in (3, 5, 7):
                with suppress(UserError):
                    paint(model, index, 1 + fail_at)
                    acknowledged.append(index)
                    model.journal.sync()
                    save(model)
        assert len(acknowledged) >= 2
        again = opened(project)
        recovered = again.recover()
        if recovered is not None:
            assert not recovered.damaged
            again.labels.reshape(-1)[recovered.voxels] = recovered.labels
        assert np.array_equal(again.labels[acknowledged], model.labels[acknowledged]), disk.operations
        save(model)
        assert np.array_equal(opened(project).labels, model.labels) and not in_journal(project)
        if len(disk.operations) <= fail_at:
            return
    raise AssertionError("not all operations were tried")


def test_a_damaged_journal_is_recovered_and_kept(project):
    model = opened(project)
    for index in (3, 5, 7):
        paint(model, index)
    path = journal_file(project.root, "a")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    recovered = opened(project).recover()
    assert recovered.strokes == 2 and recovered.damaged == 1
    assert recovered.kept.read_bytes() == content
    assert opened(project).recover().damaged == 0, "it is told once"


def test_a_project_that_is_gone_keeps_strokes_in_memory_until_it_is_back(project):
    model = opened(project)
    moved = project.root.with_name("moved")
    project.root.rename(moved)
    with pytest.raises(UserError, match="no longer there"):
        paint(model, 3)
    with pytest.raises(UserError, match="no longer there"):
        save(model)
    assert model.unsaved and not project.root.exists()
    moved.rename(project.root)
    save(model)
    assert opened(project).labels[3, 2, 2] == 1 and not model.unsaved


def test_an_annotation_that_was_moved_away_is_not_taken_for_an_empty_one(project):
    project.root.rename(project.root.with_name("moved"))
    with pytest.raises(UserError, match="no longer there"):
        opened(project)
