"""The step "Prediction": its buttons, boxes and lists, with the real engine behind what it computes."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.core import jobs
from medssl.core.jobs import Plan
from medssl.core.json_files import read_json, write_json
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.project import LabelClass, Project
from medssl.core.project.training_data import training_data
from medssl.nn.models import checkpoint
from napari.components import ViewerModel
from user_simulation import open_and_wait

from napari_medssl import layers
from napari_medssl.predict.predictions import PredictionKey
from napari_medssl.predict.uncertainty_layer import ROLE, UNCERTAINTY, class_colors, uncertainty_colors
from napari_medssl.widgets import Dock
from napari_medssl.widgets.prediction import NO_PREDICTION, NOT_SEGMENTED, SEGMENTED

PATIENCE = 120_000


def run_with_weights(project: Project) -> str:
    """A fine-tuning with random weights, and the prediction of its first scan."""
    from medssl.nn.models.unet import build

    plan = Plan(2, 0, (0.0, 1.0, 1.0), (3, 16, 16), 4, (4, 8, 8), ((1, 1), (2, 2), (2, 2)), threads=1)
    network = build(plan, len(project.classes) + 1, 0)
    run = project.new_run("finetune", {"job": "finetune"}, "from-random")
    classes = [{"id": item.id, "name": item.name} for item in project.classes]
    card = {"kind": "finetune", "plan": jobs.to_json(plan), "classes": classes, "step": 0}
    checkpoint.save(run.checkpoint, checkpoint.pack("modules.network", network.state_dict()), card)
    scan = next(iter(project.scans.values()))
    labels = np.zeros(scan.geometry.shape_zyx, np.uint8)
    labels[2:6, 2:8, 2:8], labels[7, 9, 11] = 1, 1
    project.save_prediction(run.id, scan.id, labels)
    return run.id


@pytest.fixture
def made(qtbot, said, tmp_path) -> Dock:
    """A dock on a scan that a run with random weights has predicted."""
    project = Project.create(tmp_path / "project", [LabelClass(1, "Liver", "#ff9e64")])
    values = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), tmp_path / "a.nii.gz")
    project.add_scan(tmp_path / "a.nii.gz")
    run_with_weights(project)
    opened = Dock(ViewerModel())
    qtbot.addWidget(opened)
    opened.show()
    open_and_wait(opened, project.root)
    qtbot.waitUntil(lambda: opened.workspace.predictions.shown is not None, timeout=10_000)
    return opened


def test_a_list_that_is_open_stays_as_it_is_while_a_job_reports(made):
    step, gone = made.prediction, []
    for box in (step.display_box, step.prediction_box):
        box.model().rowsRemoved.connect(lambda *rows: gone.append(rows))
    made.session.job_changed.emit()
    assert not gone and step.display_box.count() == 3 and step.prediction_box.count() == 1


def test_what_is_unsure_is_computed_when_it_is_asked_for_and_then_kept(made, qtbot, said):
    step = made.prediction
    step.display_box.activated.emit(step.display_box.findData(UNCERTAINTY))
    assert made.session.job.running and step.panel.isVisibleTo(step)
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=PATIENCE)
    layer = layers.find(made.viewer.layers, ROLE)
    assert not said and layer.visible and layer.data.max() > 100 and layer.name == "uncertainty"
    assert made.workspace.prediction_layer.contour == 1
    step.display_box.activated.emit(step.display_box.findData(1))
    assert layer.name == "probability of Liver" and not made.session.job.running
    step.display_box.activated.emit(0)
    assert not layer.visible and made.workspace.prediction_layer.contour == 0
    assert step.display_box.currentText() == "Classes"


def test_the_boxes_show_at_once_what_cleaning_makes_of_it(made, qtbot, said):
    step, layer = made.prediction, made.workspace.prediction_layer
    before = int(np.count_nonzero(layer.data))
    step.largest.click()
    qtbot.waitUntil(lambda: bool(made.workspace.predictions.changes), timeout=10_000)
    assert np.count_nonzero(layer.data) < before
    assert "not saved yet: Liver −0.01 ml" in step.difference.text() and step.apply_button.isEnabled()
    step.largest.click()
    qtbot.waitUntil(lambda: np.count_nonzero(layer.data) == before, timeout=10_000)
    assert not step.apply_button.isEnabled() and not said


def test_apply_makes_a_prediction_of_its_own(made, qtbot, said):
    step, predictions = made.prediction, made.workspace.predictions
    step.min_volume.setValue(0.02)
    qtbot.waitUntil(lambda: bool(predictions.changes), timeout=10_000)
    step.apply_button.click()
    qtbot.waitUntil(lambda: predictions.shown.cleaned, timeout=10_000)
    assert predictions.postprocessing == Postprocessing(drop_ml=0.02) and not said
    assert [step.prediction_box.itemText(n) for n in range(2)] == [
        "Run 1, from random weights, cleaned up", "Run 1, from random weights",
    ]  # fmt: skip
    assert step.min_volume.value() == 0 and step.summary() == "2 predictions"
    step.flip.click()
    assert predictions.shown == PredictionKey(predictions.shown_run)


def test_one_button_takes_the_slice_over(made, qtbot, said):
    made.workspace.go_to(0, 3)
    made.prediction.accept.click()
    assert made.session.annotation.complete == ((0, 3),) and not said
    assert np.array_equal(made.workspace.annotation_layer.data[3], made.workspace.prediction_layer.data[3])


def test_what_needs_a_prediction_is_grey_before_there_is_one_and_gone_before_a_fine_tuning(made):
    run, step = made.session.project.run(made.workspace.predictions.shown_run), made.prediction
    (run.folder / "predictions" / "a.npz").unlink()
    made.session.select("a")
    step.refresh()
    assert not step.accept.isEnabled() and step.accept.toolTip() == NOT_SEGMENTED == step.status.text()
    run.checkpoint.unlink()
    made.session.reload_runs()
    assert not step.accept.isVisibleTo(step) and step.status.text() == NO_PREDICTION


def test_a_scan_unlike_those_of_the_training_is_named(made):
    step, project = made.prediction, made.session.project
    assert "voxels of" not in step.status.text()
    card = project.run(made.workspace.predictions.shown_run).folder / "card.json"
    data = {**training_data(project.scans.values()), "spacing_mm": [[1, 0.5, 0.5], [1, 0.5, 0.5]]}
    write_json(card, {**read_json(card), "training_data": data})
    step.refresh()
    assert "voxels of 1.5 x 1.5 x 4 mm" in step.status.text()


def test_colours_grow_from_nothing_to_the_class(qtbot):
    colors = class_colors("#ff9e64").map(np.array([0.0, 1.0]))
    assert colors[0, 3] == 0 and colors[1] == pytest.approx([1, 0x9E / 255, 0x64 / 255, 1], abs=0.01)
    unsure = uncertainty_colors().map(np.array([0.0, 1.0]))
    assert unsure[0, 3] == 0 and unsure[1, 3] == 1 and unsure[1, :3].sum() > 2


def test_another_scan_is_segmented_with_the_newest_fine_tuning(made, qtbot, said, tmp_path):
    step, project = made.prediction, made.session.project
    assert not step.segment.isEnabled() and step.segment.toolTip() == SEGMENTED
    values = np.random.default_rng(1).normal(size=(12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), tmp_path / "b.nii.gz")
    other = project.add_scan(tmp_path / "b.nii.gz")
    made.session.select(other.id)
    assert step.segment.isEnabled()
    step.segment.click()
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=PATIENCE)
    assert made.workspace.predictions.shown is not None and not step.segment.isEnabled(), said
