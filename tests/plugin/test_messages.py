"""What the dock says stays until it is no longer true: the next attempt, or the end of what it is about."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.project.project import Project
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_medssl.error_handling import catch_errors
from napari_medssl.io import reader, writer
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.messages import Messages
from napari_medssl.model.session import Session
from napari_medssl.predict.predictions import ONE_PREDICTION
from napari_medssl.widgets.messages import MessageLabel
from napari_medssl.widgets.review import NO_OTHER


def write_image(path, values):
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)
    return path


def shown(dock) -> list[str]:
    return dock.feedback.messages.shown


def wait_for_scans(qtbot, dock) -> None:
    qtbot.waitUntil(lambda: not dock.scans.adder.busy, timeout=10_000)


# --- the rule ----------------------------------------------------------------------------------------


def test_an_attempt_ends_the_sentences_of_its_step_and_a_subject_those_of_all_steps():
    messages = Messages()
    messages.step_of_job = {"finetune": 3}
    messages.tell("error", "One failed.")
    messages.tell("error", "The training failed.", ["finetune"], job="finetune")
    messages.tell("warning", "The disk is full.", ["disk-full"])
    messages.tell("info", "Saved.")
    assert [message.text for message in messages.shown] == ["One failed.", "The disk is full."]
    messages.end("disk-full")
    assert [message.text for message in messages.shown] == ["One failed."]
    messages.open_step(3)
    messages.attempt()
    assert not messages.shown
    messages.open_step(0)
    messages.end("One failed.")
    assert not messages.shown


def test_the_same_sentence_stands_once_in_a_step_with_its_last_subject():
    messages = Messages()
    messages.tell("error", "It failed.", ["a"])
    messages.tell("error", "It failed.", ["b"])
    messages.end("a")
    assert [message.text for message in messages.shown] == ["It failed."]
    messages.end("b")
    assert not messages.shown


def test_an_action_with_a_subject_ends_what_was_said_when_it_failed_before():
    session = Session()

    def fail():
        raise UserError("It does not work.", code="bad")

    catch_errors(session, fail, "clicks")
    session.messages.open_step(4)
    catch_errors(session, lambda: None)
    session.messages.open_step(0)
    assert len(session.messages.shown) == 1
    session.messages.open_step(4)
    catch_errors(session, lambda: None, "clicks")
    session.messages.open_step(0)
    assert not session.messages.shown


def test_the_next_task_of_a_worker_ends_what_was_said_about_the_last_one(qtbot):
    session = Session()
    worker = LatestOnlyWorker(session)

    def fail():
        raise UserError("It cannot be read.", code="unreadable")
        yield

    worker.submit(fail, lambda _: None)
    qtbot.waitUntil(lambda: len(session.messages.shown) == 1, timeout=10_000)
    qtbot.waitUntil(lambda: not worker.busy, timeout=10_000)
    session.messages.open_step(2)
    worker.submit(lambda: iter([1]), lambda _: None)
    session.messages.open_step(0)
    assert not session.messages.shown
    qtbot.waitUntil(lambda: not worker.busy, timeout=10_000)


def test_a_button_beside_the_steps_is_an_attempt_in_the_open_one(qtbot):
    messages, bar = Messages(), QWidget()
    qtbot.addWidget(bar)
    press = QPushButton("Three planes")
    QVBoxLayout(bar).addWidget(press)
    label = MessageLabel(messages)
    qtbot.addWidget(label)
    label.watch(bar)
    messages.open_step(2)
    messages.tell("error", "There is no scan.")
    assert label.shown == ["There is no scan."]
    press.click()
    assert not label.shown


# --- no longer true ----------------------------------------------------------------------------------


def test_a_project_that_is_back_is_no_longer_said_to_be_gone_in_any_step(dock, project, tmp_path):
    project.root.rename(tmp_path / "away")
    dock.project_lock.poll()
    dock.steps[2].expand()
    dock.pretrain.start.click()
    assert "no longer there" in shown(dock)[0]
    (tmp_path / "away").rename(project.root)
    dock.project_lock.poll()
    assert not shown(dock)
    dock.steps[0].expand()
    assert not shown(dock)


def test_another_project_has_none_of_the_sentences_of_the_last_one(dock, qtbot, tmp_path, second_file):
    dock.steps[3].expand()
    dock.finetune.start.click()
    assert shown(dock)[0].startswith("Nothing is annotated yet")
    Project.create(tmp_path / "second").add_scan(second_file)
    dock.steps[0].expand()
    dock.open(tmp_path / "second")
    qtbot.waitUntil(lambda: dock.session.scan == "other", timeout=10_000)
    dock.steps[3].expand()
    assert not shown(dock)


def test_nothing_is_annotated_until_something_is(dock):
    dock.steps[3].expand()
    dock.finetune.start.click()
    assert shown(dock)[0].startswith("Nothing is annotated yet")
    dock.workspace.new_annotation()
    dock.workspace.annotation_layer.paint((2, 3, 4), 1)
    dock.workspace.autosave.flush()
    assert not shown(dock)


def test_the_2d_view_and_the_scan_are_asked_for_until_they_are_on_the_screen(dock):
    dock.steps[1].expand()
    dock.workspace.new_annotation()
    dims = dock.viewer.dims
    dims.ndisplay = 3
    dock.annotate.toggle_complete()
    assert "2D view" in shown(dock)[0]
    dims.ndisplay = 2
    assert not shown(dock)


def test_a_job_that_ended_no_longer_has_to_be_stopped(dock):
    dock.session.begin("pretrain")
    dock.open(dock.session.project.root)
    assert "still running" in shown(dock)[0]
    dock.session.end("done", "")
    assert not shown(dock)


def test_what_failed_is_forgotten_when_its_job_starts_again_from_another_step(dock):
    dock.session.begin("finetune")
    dock.session.end("failed", "There is too little memory.")
    dock.steps[3].expand()
    assert shown(dock) == ["There is too little memory."]
    dock.session.begin("pretrain")
    dock.session.end("done", "")
    assert shown(dock), "which was another job"
    dock.steps[1].expand()
    dock.session.begin("finetune")
    dock.session.end("done", "")
    dock.steps[3].expand()
    assert not shown(dock)


def test_a_disk_that_was_full_is_forgotten_once_the_annotation_is_saved(dock, monkeypatch):
    dock.workspace.new_annotation()
    dock.workspace.annotation_layer.paint((2, 3, 4), 1)

    def refuse(*of):
        raise UserError("The disk is full; free some space.", code="disk-full")

    dock.steps[3].expand()
    with monkeypatch.context() as patch:
        patch.setattr(Project, "save_annotation", refuse)
        dock.finetune.start.click()
    assert shown(dock) == ["The disk is full; free some space."]
    dock.steps[0].expand()
    dock.workspace.autosave.flush()
    dock.steps[3].expand()
    assert not shown(dock)


def test_a_click_that_is_followed_is_an_attempt(dock, qtbot):
    search, scan = dock.features.similarity, dock.workspace.scan_layer
    dock.steps[5].expand()
    dock.session.notify("error", "This scan has no features yet.")

    def click(*keys):
        event = SimpleNamespace(
            type="mouse_press", pos=(5, 5), modifiers=keys, position=scan.data_to_world((2, 3, 4))
        )
        steps = search._on_mouse(dock.viewer, event)
        next(steps)
        event.type = "mouse_release"
        assert next(steps, None) is None

    click("Control")
    assert shown(dock) == ["Click a positive example before a negative one."]
    dock.steps[0].expand()
    search.pending_scan = dock.session.scan
    click()
    dock.steps[5].expand()
    assert not shown(dock), "a click that succeeds while another step is open ends it, too"


def test_a_note_about_a_layer_goes_with_the_layer(dock):
    layer = dock.viewer.add_image(np.zeros((4, 4, 4)), units=("furlong",) * 3, name="odd")
    assert len(shown(dock)) == 1
    dock.viewer.layers.remove(layer)
    assert not shown(dock)


def test_undo_ends_what_it_has_taken_back(dock):
    dock.session.notify("warning", "Recovered a stroke; Ctrl+Z removes it.", ["last-undoable"])
    dock.steps[1].expand()
    dock.workspace.undo.undo()
    dock.steps[0].expand()
    assert not shown(dock)


# --- reasons stay ------------------------------------------------------------------------------------


def test_what_was_left_out_or_is_no_scan_stays(dock, qtbot, tmp_path, said):
    folder = tmp_path / "more"
    folder.mkdir()
    values = np.random.default_rng(1).normal(size=(12, 10, 8)).astype(np.float32)
    write_image(folder / "b.nii.gz", values)
    write_image(folder / "b_mask.nii.gz", (values > 1).astype(np.uint8))
    (folder / "c.nii.gz").symlink_to(folder / "b.nii.gz")
    dock.scans.add([folder])
    wait_for_scans(qtbot, dock)
    texts = shown(dock)
    assert any(text.startswith("Left out: ") for text in texts), texts
    assert any("b_mask" in text for text in texts) and {severity for severity, _ in said} == {"warning"}
    dock.scans.files.pressed.emit()
    assert not shown(dock)


def test_a_label_without_a_class_is_named_until_another_one_is_selected(dock):
    dock.workspace.new_annotation()
    layer = dock.workspace.annotation_layer
    layer.selected_label = 7
    assert shown(dock) == ["Label 7 has no class; add a class in step 2 to paint it."]
    assert layer.selected_label == 1
    layer.selected_label = 2
    assert not shown(dock)


def test_why_a_key_of_the_review_does_nothing_stays_until_it_would(dock, project):
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    run.checkpoint.write_bytes(b"weights")
    project.save_prediction(run.id, "scan", np.ones((6, 9, 10), np.uint8))
    dock.session.reload_runs()
    dock.workspace.predictions.show_newest()
    dock.steps[4].expand()
    dock.prediction.go_back()
    dock.prediction.review.show_next()
    assert shown(dock) == [ONE_PREDICTION, NO_OTHER]
    dock.prediction.review.queue.changed.emit()
    second = project.new_run("finetune", {"job": "finetune"}, "finetune")
    second.checkpoint.write_bytes(b"other")
    project.save_prediction(second.id, "scan", np.ones((6, 9, 10), np.uint8))
    dock.session.reload_runs()
    dock.workspace.predictions.show(second.id)
    assert not shown(dock)


def test_what_napari_s_own_open_and_save_say_stays_in_an_open_dock(dock, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan at all")
    reader.read(str(bad))
    assert len(shown(dock)) == 1 and "bad.nii.gz" in shown(dock)[0]
    values = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    reader.read(str(write_image(tmp_path / "good.nii.gz", values)))
    assert not shown(dock)
    with pytest.raises(UserError):
        writer.write_labels(str(tmp_path / "gone" / "a.nii.gz"), np.zeros((3, 3, 3), np.uint8), {})
    before = shown(dock)
    assert "no voxel size" in before[0] and "gone is no longer there" in before[1]
    dock._leave()
    reader.read(str(bad))
    assert shown(dock) == before, "a dock that was closed listens no more"
