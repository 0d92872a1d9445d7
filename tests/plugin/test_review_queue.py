"""Step 5's review queue: all scans segmented by the real engine, then the worst prediction first."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.core.project.project import LabelClass, Project
from medssl.core.project.review import is_accepted
from napari.components import ViewerModel
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QKeyEvent
from test_prediction_step import PATIENCE, run_with_weights
from user_simulation import open_and_wait, wait_until
from user_window import WindowUser

from napari_medssl.widgets import Dock
from napari_medssl.widgets.review import ALL_SEGMENTED

EXPECTED = {"a": 0.9, "b": 0.3, "c": 0.6}


@pytest.fixture
def project(tmp_path) -> Project:
    """Three scans, and a run with random weights that has segmented the first."""
    made = Project.create(tmp_path / "project", [LabelClass(1, "Liver", "#ff9e64")])
    for number, name in enumerate(EXPECTED):
        values = np.random.default_rng(number).normal(size=(12, 10, 8)).astype(np.float32)
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)
        made.add_scan(path)
    run_with_weights(made)
    return made


def save_expected(project: Project) -> str:
    """Predictions of all scans, with what the network expects of them."""
    (run,) = project.runs()
    for scan, value in EXPECTED.items():
        labels = np.zeros(project.scans[scan].geometry.shape_zyx, np.uint8)
        labels[2:6, 2:8, 2:6] = 1
        project.save_prediction(run.id, scan, labels, expected_dice={1: value})
    return run.id


@pytest.fixture
def made(qtbot, said, project) -> Dock:
    """A dock on three scans, the first of them on the screen."""
    save_expected(project)
    opened = Dock(ViewerModel())
    qtbot.addWidget(opened)
    opened.show()
    open_and_wait(opened, project.root)
    qtbot.waitUntil(lambda: len(opened.prediction.review.queue.items) == 3, timeout=10_000)
    return opened


def column_of(made: Dock, column: int) -> list[str]:
    table = made.prediction.review.table
    return [table.item(row, column).text() for row in range(table.rowCount())]


def shown(made: Dock, qtbot, scan: str) -> None:
    qtbot.waitUntil(lambda: made.session.scan == scan, timeout=10_000)


def test_the_worst_is_first_and_the_next_key_goes_through_the_queue(made, qtbot):
    review = made.prediction.review
    assert column_of(made, 0) == ["b", "c", "a"] and column_of(made, 1) == ["0.30", "0.60", "0.90"]
    assert review.table.item(0, 0).toolTip() == "b\nLiver: 0.30"
    assert review.table.currentRow() == 2 and made.session.scan == "a"
    for scan in ("b", "c", "a"):
        review.show_next()
        shown(made, qtbot, scan)


@pytest.mark.viewer
def test_n_shows_the_next_scan_and_shift_u_accepts_it_and_goes_on(make_napari_viewer, project):
    run = save_expected(project)
    viewer = make_napari_viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    open_and_wait(dock, project.root)
    user, session = WindowUser(viewer, dock), dock.session
    wait_until(lambda: len(dock.prediction.review.queue.items) == 3, 10, "the queue")
    assert session.scan == "a"
    user.key(Qt.Key.Key_N)
    wait_until(lambda: session.scan == "b", 10, "the worst")
    user.key_with(Qt.Key.Key_U, Qt.KeyboardModifier.ShiftModifier)
    wait_until(lambda: session.scan == "c", 10, "the next one")
    assert [scan for scan in EXPECTED if is_accepted(session.project, run, scan)] == ["b"]
    assert not session.annotation.complete and not session.annotated
    user.key(Qt.Key.Key_N)
    wait_until(lambda: session.scan == "a", 10, "the last one that is not accepted")


def test_a_click_in_the_queue_shows_the_scan(made, qtbot):
    made.prediction.review.table.selectRow(1)
    shown(made, qtbot, "c")


def test_a_letter_that_is_pressed_in_the_queue_is_a_key_of_the_viewer(made):
    press = QKeyEvent(QEvent.Type.KeyPress, Qt.Key.Key_N, Qt.KeyboardModifier.NoModifier, "n")
    made.prediction.review.table.keyPressEvent(press)
    assert not press.isAccepted()


def test_the_queue_is_not_filled_again_by_events_of_a_job_or_another_scan(made, qtbot):
    """With 500 scans that takes long, and a job has many events."""
    table = made.prediction.review.table
    first = table.item(0, 0)
    made.session.job_changed.emit()
    made.session.select("c")
    assert table.item(0, 0) is first and table.currentRow() == 1


def test_accepting_goes_on_and_puts_the_scan_last_and_nothing_is_annotated(made, qtbot, said):
    review, project = made.prediction.review, made.session.project
    review.show_next()
    shown(made, qtbot, "b")
    review.accept()
    shown(made, qtbot, "c")
    qtbot.waitUntil(lambda: column_of(made, 0) == ["c", "a", "b"], timeout=10_000)
    assert column_of(made, 2) == ["", "", "✓"] and review.state.text().startswith("1 of 3 accepted")
    assert is_accepted(project, project.runs()[0].id, "b") and not said
    assert not project.annotated(held_out=True) and not made.session.annotated
    menu = review.menu("b")
    assert menu.actions()[0].text() == "Review again" and not menu.actions()[1].isEnabled()
    menu.actions()[0].trigger()
    qtbot.waitUntil(lambda: column_of(made, 0) == ["b", "c", "a"], timeout=10_000)


def test_only_when_asked_a_prediction_becomes_an_annotation_that_one_undo_takes_back(made, qtbot, said):
    review = made.prediction.review
    review.menu("a").actions()[1].trigger()
    layer, annotation = made.workspace.annotation_layer, made.session.annotation
    shape = made.session.need_scan().geometry.shape_zyx
    assert np.count_nonzero(layer.data == 1) == 4 * 6 * 4 and len(annotation.complete) == shape[0]
    assert said[-1][0] == "info" and "learns from them" in said[-1][1]
    layer.undo()
    assert not layer.data.any() and annotation.complete == ()


def test_other_weights_empty_the_queue(made, qtbot):
    (run,) = made.session.project.runs()
    run.checkpoint.write_bytes(b"trained further")
    made.session.runs_changed.emit()
    qtbot.waitUntil(lambda: not made.prediction.review.queue.items, timeout=10_000)
    review = made.prediction.review
    assert review.table.rowCount() == 0 and review.segment_all.isEnabled()
    assert "3 of 3 scans have to be segmented." in made.prediction.status.text()


def test_all_scans_that_are_missing_are_segmented_by_one_job(qtbot, said, project):
    opened = Dock(ViewerModel())
    qtbot.addWidget(opened)
    open_and_wait(opened, project.root)
    review = opened.prediction.review
    qtbot.waitUntil(lambda: review.queue.missing == 3, timeout=10_000)  # one lacks what is expected of it
    review.segment_all.click()
    assert opened.session.job.running and not review.segment_all.isEnabled()
    assert "finished" in opened.prediction.panel.stop_button.toolTip()
    qtbot.waitUntil(lambda: not opened.session.job.running, timeout=PATIENCE)
    qtbot.waitUntil(lambda: len(review.queue.items) == 3 and not review.queue.missing, timeout=10_000)
    assert not review.segment_all.isEnabled() and review.segment_all.toolTip() == ALL_SEGMENTED and not said
    values = [item.quality for item in review.queue.items]
    assert values == sorted(values)
