"""The whole loop in a real window, by mouse and keyboard alone, with the real engine.

MEDSSL_MINUTES=1.5 trains for longer than it takes to see that it works, MEDSSL_METHODS=all with every method.
"""

from __future__ import annotations

import os
from pathlib import Path

import napari
import nibabel
import numpy as np
import psutil
import pytest
import scenes
from medssl.benchmarking.simulated_annotator import choose_slices
from medssl.core.io.labels import read_labels
from medssl.core.methods import METHODS
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QMessageBox
from user_simulation import EventLoopLag, open_and_wait, wait_until
from user_window import WindowUser

from napari_medssl.engine import child_process
from napari_medssl.widgets.finetune import SHAPES_NAME

pytestmark = pytest.mark.viewer
MINUTES = float(os.environ.get("MEDSSL_MINUTES", "0.1"))
METHODS_HERE = METHODS if os.environ.get("MEDSSL_METHODS") == "all" else ("alice", "supervoxels")
"""Of all methods one that trains in two stages and one that starts from shapes; tests/engine/test_engine.py
trains each of them, without a window."""
PATIENCE = 240


@pytest.fixture
def scene(tmp_path) -> scenes.Scene:
    """A scan file, and what there is to paint on it."""
    folder = tmp_path / "scans"
    folder.mkdir()
    return scenes.hippocampus(folder) or scenes.small_phantom(folder)


@pytest.fixture
def window(make_napari_viewer):
    """A viewer of 1400 x 1000 with the dock."""
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1400, 1000)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    QTest.qWait(300)
    return viewer, dock


def job_ends(dock) -> None:
    wait_until(lambda: not dock.session.job.running, PATIENCE, "the job")


def training_begins(dock) -> None:
    wait_until(lambda: dock.session.job.step > 2 or not dock.session.job.running, PATIENCE, "the first steps")


@pytest.mark.timeout(900)
def test_from_a_file_to_an_exported_segmentation(window, scene, tmp_path):
    viewer, dock = window
    path, truth = scene.path, scene.truth
    user = WindowUser(viewer, dock)
    said: list[str] = []
    dock.session.message.connect(lambda severity, text: said.append(text) if severity == "error" else None)

    # open
    user.choose_file(dock.scans.files, path)
    wait_until(dock.scans.new_project.agree.isVisible, 20, "the question for a place")
    user.click(dock.scans.new_project.agree)
    wait_until(lambda: dock.session.scan is not None, 20, "opening the scan")
    assert (path.parent / "medssl-project" / "project.json").exists()

    # annotate five slices
    user.open_step(2)
    user.click(dock.annotate.new)
    for count in range(2, len(scene.names) + 1):
        user.click(dock.annotate.add)
        wait_until(lambda count=count: dock.annotate.classes.rowCount() == count, 20, "the new class")
    for row, name in enumerate(scene.names):
        user.rename_class(row, name)
    assert tuple(item.name for item in dock.session.project.classes) == scene.names
    layer = dock.workspace.annotation_layer
    while layer.brush_size > 1:
        user.key(Qt.Key.Key_BracketLeft)
    slices = list(choose_slices(truth, 5))
    for index in slices:
        user.complete_slice(truth, index)
    for index in slices:
        assert np.array_equal(layer.data[index], truth[index]), f"slice {index} was not painted as meant"
    assert dock.session.annotation.complete == tuple((0, index) for index in slices)
    user.go_to_slice(slices[2])

    # pre-train, stop, go on from the checkpoint
    user.open_step(3)
    user.set_minutes(
        dock.pretrain.minutes, round(3 * MINUTES, 1)
    )  # on a busy machine it must not end before the click
    user.click(dock.pretrain.start)
    training_begins(dock)
    user.click(dock.pretrain.panel.stop_button)
    job_ends(dock)
    assert dock.session.job.phase == "Stopped", said
    stopped_at = dock.session.job.step
    user.click(dock.pretrain.resume)
    lag = EventLoopLag()
    lag.start()
    training_begins(dock)
    wait_until(
        lambda: dock.session.job.fraction > 0.8 or not dock.session.job.running, PATIENCE, "pre-training"
    )
    lag.stop()
    job_ends(dock)
    assert dock.session.job.phase == "Finished" and dock.session.job.step > stopped_at, said
    assert len(dock.session.project.runs("pretrain")) == 1, "it went on, it did not start anew"
    print(
        f"\nviewer lag while training: p50 {lag.percentile(50):.1f} ms, p99 {lag.percentile(99):.1f} ms, "
        f"max {max(lag.late):.1f} ms of {len(lag.late)} ticks"
    )

    # fine-tune, overlay
    user.open_step(4)
    user.set_minutes(dock.finetune.minutes, MINUTES)
    assert dock.finetune.weights.currentText() == SHAPES_NAME
    user.choose(dock.finetune.weights, "PGL pre-training (run 1)")
    user.click(dock.finetune.start)
    job_ends(dock)
    prediction = dock.workspace.prediction_layer
    assert not said and prediction is not None and prediction.visible and prediction.data.any()
    first = prediction.data.copy()
    between = (slices[1] + slices[2]) // 2
    user.go_to_slice(between)

    # correct a slice, fine-tune again
    user.open_step(2)
    user.complete_slice(truth, between)
    wait_until(lambda: dock.session.annotation.save_state == "saved", 10, "the autosave")
    user.open_step(4)
    user.click(dock.finetune.start)
    job_ends(dock)
    assert not said and len(dock.session.predictions()) == 2
    assert np.array_equal(
        dock.session.project.prediction(dock.session.predictions()[1].id, dock.session.scan), first
    )

    # export
    user.open_step(5)
    out = tmp_path / "segmentation.nii.gz"
    user.choose_file(dock.prediction.export.one, out)
    wait_until(lambda: dock.prediction.export.one.isEnabled(), 20, "the export")
    written, scan = nibabel.load(out), nibabel.load(path)
    assert written.shape == scan.shape and np.array_equal(written.affine, scan.affine)
    exported = read_labels(out).array
    assert np.array_equal(exported[between], truth[between]), "strokes win over the prediction"
    assert not said

    # features
    user.dismiss_notifications()
    user.open_step(6)
    user.click(dock.features.compute)
    job_ends(dock)
    user.click(dock.features.follow)
    inside = np.argwhere(truth[between] == 1)
    middle = inside[np.linalg.norm(inside - inside.mean(0), axis=1).argmin()]
    user.click_voxel(dock.workspace.scan_layer, (between, *middle))
    wait_until(lambda: "similarity" in viewer.layers, 20, "the map")
    similarity = viewer.layers["similarity"]
    assert similarity.data.max() > 0.9
    assert lag.percentile(95) < 100, "the goal is 100 ms for the 99th; this leaves room for a busy machine"


@pytest.mark.timeout(1800)
def test_methods_of_the_list_train_and_none_collapses(window, tmp_path):
    """On a few scans; MEDSSL_PROJECT=folder takes those of a project, to which runs are then added."""
    viewer, dock = window
    dock.open(Path(os.environ.get("MEDSSL_PROJECT") or scenes.several(tmp_path)))
    wait_until(lambda: dock.session.scan is not None, 20, "opening the project's first scan")
    user = WindowUser(viewer, dock)
    said: list[str] = []
    dock.session.message.connect(lambda severity, text: said.append(text) if severity == "error" else None)
    user.open_step(3)
    assert [dock.pretrain.method.itemText(row) for row in range(dock.pretrain.method.count())] == [
        method.upper() for method in METHODS
    ]
    for method in METHODS_HERE:
        user.choose(dock.pretrain.method, method.upper())
        for minutes in (MINUTES, 10 * MINUTES):  # the second one where a busy machine takes no two steps
            user.set_minutes(dock.pretrain.minutes, minutes)
            user.click(dock.pretrain.start)
            job_ends(dock)
            run = dock.session.runs("pretrain")[0]
            assert (run.job["method"], run.job["recipe"]) == (method, "quick")
            assert dock.session.job.phase == "Finished" and not said
            losses = [loss for step, loss in dock.pretrain.panel.curve.points if step]
            if len(set(losses)) > 1:
                break
        assert len(set(losses)) > 1 and np.isfinite(losses).all()
        assert not run.collapsed, run.collapse_report
        moved = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {dock.session.job.step} steps"
        print(f"\n{method}: {moved}; {dock.pretrain.report.text()}")


def test_closing_the_window_while_training_leaves_no_engine(window, scene):
    viewer, dock = window
    path = scene.path
    dock.scans.add([path])
    wait_until(lambda: dock.session.scan is not None and not dock.scans.adder.busy, 20, "opening")
    dock.workspace.new_annotation()
    dock.workspace.annotation_layer.paint((3, 3, 3), 1)
    user = WindowUser(viewer, dock)
    user.open_step(3)
    user.click(dock.pretrain.start)
    training_begins(dock)
    engine, project = psutil.Process(dock.jobs.process_id()), dock.session.project
    viewer.close()
    wait_until(lambda: not engine.is_running(), 10, "ending the engine")
    assert not child_process._running
    assert project.annotation(next(iter(project.scans))).labels[3, 3, 3]
    (run,) = project.runs("pretrain")
    assert run.checkpoint.exists()


def answer(text: str) -> list[str]:
    """Press a button of the question that opens next; the list gets what it says."""
    said: list[str] = []

    def press(tries: int = 100) -> None:
        box = QApplication.activeModalWidget()
        if isinstance(box, QMessageBox):
            said.append(f"{box.text()} {box.informativeText()}")
            next(each for each in box.buttons() if each.text() == text).click()
        elif tries:
            QTimer.singleShot(50, lambda: press(tries - 1))

    QTimer.singleShot(50, press)
    return said


def test_a_user_who_closes_the_window_while_training_is_asked(scene, qapp, napari_app):
    viewer = napari.Viewer()  # which the user closes here, not the fixture
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    dock.scans.add([scene.path])
    wait_until(lambda: dock.session.scan is not None and not dock.scans.adder.busy, 20, "opening")
    user = WindowUser(viewer, dock)
    user.open_step(3)
    user.click(dock.pretrain.start)
    training_begins(dock)
    dock.workspace.new_annotation()
    dock.workspace.annotation_layer.paint((3, 3, 3), 1)
    engine, project = psutil.Process(dock.jobs.process_id()), dock.session.project
    frame, scan = dock.window().windowHandle(), next(iter(project.scans))
    said = answer("Go on")
    frame.close()
    assert "Pre-training" in said[0] and "Continue resumes it" in said[0]
    QTest.qWait(300)
    assert dock.window().isVisible() and dock.session.job.running and engine.is_running()
    assert project.annotation(scan).labels[3, 3, 3], "strokes are saved before the question"
    dock.workspace.annotation_layer.paint((4, 4, 4), 1)
    said = answer("Stop and close")
    frame.close()
    wait_until(lambda: not engine.is_running(), 10, "ending the engine")
    assert len(said) == 1 and project.annotation(scan).labels[4, 4, 4]
    (run,) = project.runs("pretrain")
    assert run.checkpoint.exists()


def test_closing_the_dock_alone_saves_and_lets_go(window, scene):
    viewer, dock = window
    dock.scans.add([scene.path])
    wait_until(lambda: dock.session.scan is not None and not dock.scans.adder.busy, 20, "opening")
    dock.workspace.new_annotation()
    layer, project = dock.workspace.annotation_layer, dock.session.project
    layer.paint((3, 3, 3), 1)
    viewer.window.remove_dock_widget(dock)
    assert project.annotation(next(iter(project.scans))).labels[3, 3, 3]
    assert dock.session.closed and not layer.editable
    _, again = viewer.window.add_plugin_dock_widget("napari-medssl")
    assert again is not dock
    open_and_wait(again, project.root)
    assert again.workspace.annotation_layer.editable and again.workspace.annotation_layer.data[3, 3, 3]


def test_a_project_is_opened_in_a_viewer_of_its_own(scene, qapp, napari_app):
    from medssl.core.project.project import Project

    from napari_medssl import view

    project = Project.create(scene.path.parent / "project")
    project.add_scan(scene.path)
    viewer = view(project.root)
    wait_until(lambda: viewer.layers, 60, "reading the scan")
    assert [layer.name for layer in viewer.layers] == list(project.scans)
    viewer.close()
    QTest.qWait(50)
