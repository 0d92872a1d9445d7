"""Strokes reach the disk at once, and nothing of it is felt while painting."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from faulty_disk import FaultyDisk
from medssl.core.errors import UserError
from medssl.core.project.project import Project, ViewState
from medssl.core.project.stroke_log import StrokeLog, journal_file
from medssl.core.temporary_files import temporary_file
from napari.components import ViewerModel
from test_workspace import write_scan

from napari_medssl.annotate.autosave import SYNC_MS
from napari_medssl.annotate.crash_recovery import CrashRecovery
from napari_medssl.annotate.edits import Edits
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace


@pytest.fixture
def desk(qtbot, tmp_path) -> Workspace:
    """A viewer without a window, with one scan of a new project on the screen."""
    made = open_desk(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    yield made
    made.close()


def open_desk(folder: Path) -> Workspace:
    """A viewer that shows what a project says at its start, as after a crash of the one before."""
    session = Session()
    made = Workspace(ViewerModel(), session)
    made.edits = Edits(made)
    made.crash_recovery = CrashRecovery(made, made.edits)
    made.said = []
    session.message.connect(lambda severity, text: made.said.append(text))
    session.open(folder)
    return made


def journal_of(desk):
    return journal_file(desk.session.project.root, desk.session.scan)


def strokes_of(desk):
    return StrokeLog(journal_of(desk), desk.session.need_scan().geometry.shape_zyx).read().strokes


def test_an_edit_of_many_voxels_is_in_the_journal_as_it_was_made(desk):
    desk.new_annotation()
    voxels = np.array([5, 100, 333])
    desk.edits.apply(voxels, np.ones(3, np.uint8))
    (stroke,) = strokes_of(desk)
    np.testing.assert_array_equal(stroke.voxels, voxels)
    assert (stroke.labels == 1).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stroke_is_on_the_disk_when_the_hand_lets_go(desk, axis):
    desk.new_annotation()
    desk.go_to(axis, 3)
    place = tuple(3 if other == axis else 5 for other in range(3))
    desk.annotation_layer.paint(place, 1)
    (stroke,) = strokes_of(desk)
    painted = desk.annotation_layer.data
    assert np.array_equal(np.sort(stroke.voxels), np.flatnonzero(painted)) and painted[place] == 1


def test_a_killed_viewers_strokes_come_back_and_can_be_taken_out(desk):
    desk.new_annotation()
    desk.go_to(0, 4)
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.toggle_complete()
    painted = desk.annotation_layer.data.copy()
    again = open_desk(desk.session.project.root)
    assert np.array_equal(again.annotation_layer.data, painted)
    assert again.session.annotation.complete == ((0, 4),)
    assert "Recovered 1 unsaved stroke on a" in again.said[0]
    again.annotation_layer.undo()
    assert not again.annotation_layer.data.any() and again.session.annotation.complete == ()
    again.annotation_layer.redo()
    assert np.array_equal(again.annotation_layer.data, painted)
    assert again.session.annotation.complete == ((0, 4),)
    again.close()


def test_nothing_is_said_where_everything_was_saved(desk):
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.autosave.flush()
    assert not journal_of(desk).exists()
    again = open_desk(desk.session.project.root)
    assert not again.said and again.annotation_layer.data[4, 5, 6] == 1
    again.close()


def test_a_project_opens_with_the_scan_that_has_unsaved_strokes(desk, tmp_path):
    lost = desk.session.scan
    desk.new_annotation()
    desk.annotation_layer.paint((4, 5, 6), 1)
    other = desk.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id
    desk.session.project.save_view_state(ViewState(other))
    again = open_desk(desk.session.project.root)
    assert again.session.scan == lost
    again.close()


def test_an_undone_stroke_of_another_slice_does_not_come_back(desk, qtbot):
    desk.new_annotation()
    desk.go_to(0, 4)
    desk.annotation_layer.paint((4, 5, 6), 1)
    desk.go_to(0, 2)
    desk.annotation_layer.undo()
    qtbot.waitUntil(lambda: desk.session.annotation.save_state == "saved")
    assert not journal_of(desk).exists()
    assert not desk.session.project.annotation(desk.session.scan).labels.any()


def test_the_window_lives_while_the_annotation_is_written(desk, qtbot, monkeypatch):
    real = Project.save_annotation

    def slow(self, scan, annotation):
        time.sleep(0.5)
        real(self, scan, annotation)

    monkeypatch.setattr(Project, "save_annotation", slow)
    desk.new_annotation()
    desk.go_to(0, 4)
    desk.annotation_layer.paint((4, 5, 6), 1)
    qtbot.waitUntil(lambda: desk.autosave._writing is not None)
    desk.annotation_layer.paint((4, 2, 2), 1)  # while it is written
    assert strokes_of(desk)
    qtbot.waitUntil(lambda: desk.session.annotation.save_state == "saved", timeout=5000)
    saved = desk.session.project.annotation(desk.session.scan)
    assert np.array_equal(saved.labels, desk.annotation_layer.data) and not journal_of(desk).exists()


def test_a_disk_that_refuses_the_journal_is_told_and_the_strokes_stay(desk, qtbot, monkeypatch):
    desk.new_annotation()

    def full(log, stroke):
        raise UserError("The disk is full; free some space.", code="disk-full")

    with monkeypatch.context() as patch:
        patch.setattr(StrokeLog, "append", full)
        desk.annotation_layer.paint((4, 5, 6), 1)
    assert desk.said == ["The disk is full; free some space."]
    qtbot.waitUntil(lambda: desk.session.annotation.save_state == "saved")
    assert desk.session.project.annotation(desk.session.scan).labels[4, 5, 6] == 1


def test_a_viewer_that_may_only_look_writes_no_journal(desk):
    desk.new_annotation()
    desk.session.project.read_only = "Another window has this project."
    desk.annotation_layer.paint((4, 5, 6), 1)
    assert not journal_of(desk).exists()


def test_a_stroke_reaches_the_disk_within_a_second_while_somebody_paints(desk, qtbot):
    desk.new_annotation()
    with FaultyDisk() as disk:
        began = time.monotonic()
        for number in range(8):
            desk.annotation_layer.paint((4, number, 6), 1)
            qtbot.wait(150)  # shorter than the pause after which the annotation is written
        assert time.monotonic() - began > 1
        assert "replace" not in disk.operations and disk.operations.count("fsync") >= 3
        qtbot.waitUntil(lambda: desk.session.annotation.save_state == "saved")
        assert disk.operations[-1] in ("unlink", "fsync")


def test_saved_is_said_when_file_and_folder_are_on_the_disk(desk, qtbot):
    states = []
    desk.new_annotation()
    with FaultyDisk() as disk:
        desk.session.annotation.changed.connect(
            lambda: states.append((desk.session.annotation.save_state, tuple(disk.operations)))
        )
        desk.annotation_layer.paint((4, 5, 6), 1)
        qtbot.waitUntil(lambda: desk.session.annotation.save_state == "saved")
    before = states[-1][1]
    renamed = before.index("replace")
    assert before[renamed - 1] == "fsync" and before[renamed + 1] == "fsync"
    assert all(state != "saved" for state, _ in states[:-1])


def test_a_project_that_vanishes_is_told_once_and_saved_when_it_is_back(desk, qtbot, monkeypatch):
    desk.new_annotation()
    desk.autosave._again.setInterval(100)
    root = desk.session.project.root
    root.rename(root.with_name("moved"))
    desk.annotation_layer.paint((4, 5, 6), 1)
    qtbot.waitUntil(lambda: desk.session.annotation.save_state == "failed")
    qtbot.wait(500)
    assert len(desk.said) <= 2 and all("no longer there" in text for text in desk.said)
    assert not root.exists() and desk.annotation_layer.data[4, 5, 6] == 1
    root.with_name("moved").rename(root)
    qtbot.waitUntil(lambda: desk.session.annotation.save_state == "saved")
    assert Project.open(root).annotation(desk.session.scan).labels[4, 5, 6] == 1


def test_damage_is_told_in_one_sentence_and_the_rest_comes_back(desk):
    desk.new_annotation()
    desk.annotation_layer.brush_size = 1
    for row in (2, 5, 8):
        desk.annotation_layer.paint((4, row, 6), 1)
    content = bytearray(journal_of(desk).read_bytes())
    content[len(content) // 2] ^= 255
    journal_of(desk).write_bytes(content)
    again = open_desk(desk.session.project.root)
    damage, recovered = again.said
    assert "1 stroke on a cannot be read" in damage and "a.strokes.damaged-1" in damage
    assert "Recovered 2 unsaved strokes" in recovered
    assert again.annotation_layer.data[4, [2, 5, 8], 6].tolist() == [1, 0, 1]
    again.close()
    assert not [text for text in open_desk(desk.session.project.root).said if "cannot be read" in text]


def test_what_killed_processes_left_is_swept_when_a_project_is_opened(desk):
    ours = temporary_file(desk.session.project.root / "annotations" / "a.npz")
    left = ours.with_name(ours.name.replace(f"-{os.getpid()}-", "-999999999-"))
    left.parent.mkdir(exist_ok=True)
    left.touch()
    open_desk(desk.session.project.root).close()
    assert not left.exists()


def test_strokes_on_a_disk_that_is_slower_than_the_hand(desk, qtbot):
    desk.new_annotation()
    slow, autosave = threading.Event(), desk.autosave
    autosave._sync_thread.submit(slow.wait)  # as a disk that does not answer
    with qtbot.captureExceptions() as exceptions:
        for column in range(3):
            desk.annotation_layer.paint((4, 5, column), 1)
            qtbot.wait(SYNC_MS + 100)
        assert not autosave._syncing.done() and autosave._sync_again
        slow.set()
        qtbot.waitUntil(lambda: autosave._syncing is None and not autosave._sync_again, timeout=10_000)
    assert not exceptions and not desk.said and len(strokes_of(desk)) == 3
