"""Strokes reach the disk at once, and nothing of it is felt while painting."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from faulty_disk import FaultyDisk
from headless import open_workspace
from medssl.core.errors import UserError
from medssl.core.project.project import Project, ViewState
from medssl.core.project.stroke_log import StrokeLog, journal_file
from medssl.core.temporary_files import temporary_file
from test_workspace import write_scan

from napari_medssl.annotate.autosave import SYNC_MS
from napari_medssl.workspace import Workspace


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """A viewer without a window, with one scan of a new project on the screen."""
    made = open_workspace(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    yield made
    made.close()


def journal_of(workspace):
    return journal_file(workspace.session.project.root, workspace.session.scan)


def strokes_of(workspace):
    return StrokeLog(journal_of(workspace), workspace.session.need_scan().geometry.shape_zyx).read().strokes


def test_an_edit_of_many_voxels_is_in_the_journal_as_it_was_made(workspace):
    workspace.new_annotation()
    voxels = np.array([5, 100, 333])
    workspace.edits.apply(voxels, np.ones(3, np.uint8))
    (stroke,) = strokes_of(workspace)
    np.testing.assert_array_equal(stroke.voxels, voxels)
    assert (stroke.labels == 1).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stroke_is_on_the_disk_when_the_hand_lets_go(workspace, axis):
    workspace.new_annotation()
    workspace.go_to(axis, 3)
    place = tuple(3 if other == axis else 5 for other in range(3))
    workspace.annotation_layer.paint(place, 1)
    (stroke,) = strokes_of(workspace)
    painted = workspace.annotation_layer.data
    assert np.array_equal(np.sort(stroke.voxels), np.flatnonzero(painted)) and painted[place] == 1


def test_a_killed_viewers_strokes_come_back_and_can_be_taken_out(workspace):
    workspace.new_annotation()
    workspace.go_to(0, 4)
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.toggle_complete()
    painted = workspace.annotation_layer.data.copy()
    again = open_workspace(workspace.session.project.root)
    assert np.array_equal(again.annotation_layer.data, painted)
    assert again.session.annotation.complete == ((0, 4),)
    assert "Recovered 1 unsaved stroke on a" in again.said[0]
    again.annotation_layer.undo()
    assert not again.annotation_layer.data.any() and again.session.annotation.complete == ()
    again.annotation_layer.redo()
    assert np.array_equal(again.annotation_layer.data, painted)
    assert again.session.annotation.complete == ((0, 4),)
    again.close()


def test_nothing_is_said_where_everything_was_saved(workspace):
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.autosave.flush()
    assert not journal_of(workspace).exists()
    again = open_workspace(workspace.session.project.root)
    assert not again.said and again.annotation_layer.data[4, 5, 6] == 1
    again.close()


def test_a_project_opens_with_the_scan_that_has_unsaved_strokes(workspace, tmp_path):
    lost = workspace.session.scan
    workspace.new_annotation()
    workspace.annotation_layer.paint((4, 5, 6), 1)
    other = workspace.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id
    workspace.session.project.save_view_state(ViewState(other))
    again = open_workspace(workspace.session.project.root)
    assert again.session.scan == lost
    again.close()


def test_an_undone_stroke_of_another_slice_does_not_come_back(workspace, qtbot):
    workspace.new_annotation()
    workspace.go_to(0, 4)
    workspace.annotation_layer.paint((4, 5, 6), 1)
    workspace.go_to(0, 2)
    workspace.annotation_layer.undo()
    qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "saved")
    assert not journal_of(workspace).exists()
    assert not workspace.session.project.annotation(workspace.session.scan).labels.any()


def test_the_window_lives_while_the_annotation_is_written(workspace, qtbot, monkeypatch):
    real = Project.save_annotation

    def slow(self, scan, annotation):
        time.sleep(0.5)
        real(self, scan, annotation)

    monkeypatch.setattr(Project, "save_annotation", slow)
    workspace.new_annotation()
    workspace.go_to(0, 4)
    workspace.annotation_layer.paint((4, 5, 6), 1)
    qtbot.waitUntil(lambda: workspace.autosave._writing is not None)
    workspace.annotation_layer.paint((4, 2, 2), 1)  # while it is written
    assert strokes_of(workspace)
    qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "saved", timeout=5000)
    saved = workspace.session.project.annotation(workspace.session.scan)
    assert (
        np.array_equal(saved.labels, workspace.annotation_layer.data) and not journal_of(workspace).exists()
    )


def test_a_disk_that_refuses_the_journal_is_told_and_the_strokes_stay(workspace, qtbot, monkeypatch):
    workspace.new_annotation()

    def full(log, stroke):
        raise UserError("The disk is full; free some space.", code="disk-full")

    with monkeypatch.context() as patch:
        patch.setattr(StrokeLog, "append", full)
        workspace.annotation_layer.paint((4, 5, 6), 1)
    assert workspace.said == ["The disk is full; free some space."]
    qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "saved")
    assert workspace.session.project.annotation(workspace.session.scan).labels[4, 5, 6] == 1


def test_a_viewer_that_may_only_look_writes_no_journal(workspace):
    workspace.new_annotation()
    workspace.session.project.read_only = "Another window has this project."
    workspace.annotation_layer.paint((4, 5, 6), 1)
    assert not journal_of(workspace).exists()


def test_a_stroke_reaches_the_disk_within_a_second_while_somebody_paints(workspace, qtbot):
    workspace.new_annotation()
    with FaultyDisk() as disk:
        began = time.monotonic()
        for number in range(8):
            workspace.annotation_layer.paint((4, number, 6), 1)
            qtbot.wait(150)  # shorter than the pause after which the annotation is written
        assert time.monotonic() - began > 1
        assert "replace" not in disk.operations and disk.operations.count("fsync") >= 3
        qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "saved")
        assert disk.operations[-1] in ("unlink", "fsync")


def test_saved_is_said_when_file_and_folder_are_on_the_disk(workspace, qtbot):
    states = []
    workspace.new_annotation()
    with FaultyDisk() as disk:
        workspace.session.annotation.changed.connect(
            lambda: states.append((workspace.session.annotation.save_state, tuple(disk.operations)))
        )
        workspace.annotation_layer.paint((4, 5, 6), 1)
        qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "saved")
    before = states[-1][1]
    renamed = before.index("replace")
    assert before[renamed - 1] == "fsync" and before[renamed + 1] == "fsync"
    assert all(state != "saved" for state, _ in states[:-1])


def test_a_project_that_vanishes_is_told_once_and_saved_when_it_is_back(workspace, qtbot, monkeypatch):
    workspace.new_annotation()
    workspace.autosave._again.setInterval(100)
    root = workspace.session.project.root
    root.rename(root.with_name("moved"))
    workspace.annotation_layer.paint((4, 5, 6), 1)
    qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "failed")
    qtbot.wait(500)
    assert len(workspace.said) <= 2 and all("no longer there" in text for text in workspace.said)
    assert not root.exists() and workspace.annotation_layer.data[4, 5, 6] == 1
    root.with_name("moved").rename(root)
    qtbot.waitUntil(lambda: workspace.session.annotation.save_state == "saved")
    assert Project.open(root).annotation(workspace.session.scan).labels[4, 5, 6] == 1


def test_damage_is_told_in_one_sentence_and_the_rest_comes_back(workspace):
    workspace.new_annotation()
    workspace.annotation_layer.brush_size = 1
    for row in (2, 5, 8):
        workspace.annotation_layer.paint((4, row, 6), 1)
    content = bytearray(journal_of(workspace).read_bytes())
    content[len(content) // 2] ^= 255
    journal_of(workspace).write_bytes(content)
    again = open_workspace(workspace.session.project.root)
    damage, recovered = again.said
    assert "1 stroke on a cannot be read" in damage and "a.strokes.damaged-1" in damage
    assert "Recovered 2 unsaved strokes" in recovered
    assert again.annotation_layer.data[4, [2, 5, 8], 6].tolist() == [1, 0, 1]
    again.close()
    assert not [
        text for text in open_workspace(workspace.session.project.root).said if "cannot be read" in text
    ]


def test_what_killed_processes_left_is_swept_when_a_project_is_opened(workspace):
    ours = temporary_file(workspace.session.project.root / "annotations" / "a.npz")
    left = ours.with_name(ours.name.replace(f"-{os.getpid()}-", "-999999999-"))
    left.parent.mkdir(exist_ok=True)
    left.touch()
    open_workspace(workspace.session.project.root).close()
    assert not left.exists()


def test_strokes_on_a_disk_that_is_slower_than_the_hand(workspace, qtbot):
    workspace.new_annotation()
    slow, autosave = threading.Event(), workspace.autosave
    autosave._sync_thread.submit(slow.wait)  # as a disk that does not answer
    with qtbot.captureExceptions() as exceptions:
        for column in range(3):
            workspace.annotation_layer.paint((4, 5, column), 1)
            qtbot.wait(SYNC_MS + 100)
        assert not autosave._syncing.done() and autosave._sync_again
        slow.set()
        qtbot.waitUntil(lambda: autosave._syncing is None and not autosave._sync_again, timeout=10_000)
    assert not exceptions and not workspace.said and len(strokes_of(workspace)) == 3
