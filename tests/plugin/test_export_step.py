"""The export buttons, with the real engine: one scan while the window lives on, all scans by a job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.project.project import LabelClass, Project
from napari.components import ViewerModel
from qtpy.QtWidgets import QFileDialog
from scenes import add_scans
from user_simulation import open_and_wait

from napari_medssl.widgets import Dock

PATIENCE = 120_000


@pytest.fixture
def made(qtbot, said, tmp_path) -> Dock:
    """A dock on two scans that a run has predicted."""
    project = Project.create(tmp_path / "project", [LabelClass(1, "Liver", "#ff9e64")])
    add_scans(project, tmp_path, "ab")
    run = project.new_run("finetune", {"job": "finetune"}, "from-random")
    run.checkpoint.write_bytes(b"weights")
    for scan in project.scans.values():
        project.save_prediction(run.id, scan.id, np.ones(scan.geometry.shape_zyx, np.uint8))
    opened = Dock(ViewerModel())
    qtbot.addWidget(opened)
    open_and_wait(opened, project.root)
    return opened


def save_as(made: Dock, qtbot, monkeypatch, path: Path) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    made.prediction.export.one.click()
    assert not made.prediction.export.one.isEnabled()
    qtbot.waitUntil(made.prediction.export.one.isEnabled, timeout=PATIENCE)


def test_the_ending_of_the_name_says_how_it_is_written(made, qtbot, said, monkeypatch, tmp_path):
    save_as(made, qtbot, monkeypatch, tmp_path / "out.nrrd")
    assert (tmp_path / "out.nrrd").read_bytes().startswith(b"NRRD")
    assert (tmp_path / "out.nrrd.json").exists()
    assert said == [("info", "Saved out.nrrd.")]


def test_what_cannot_be_written_is_one_sentence(made, qtbot, said, monkeypatch, tmp_path):
    save_as(made, qtbot, monkeypatch, tmp_path / "out.dcm")
    ((severity, text),) = said
    assert severity == "error" and "not read from DICOM" in text


def test_annotations_are_exported_without_any_prediction(made, qtbot, said, monkeypatch, tmp_path):
    step = made.prediction.export
    step.annotations_only.setChecked(True)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    made.annotate.new_annotation()
    labels = made.workspace.annotation_layer.data
    made.annotate.edits.apply(np.array([5]), np.array([1], np.uint8))
    save_as(made, qtbot, monkeypatch, tmp_path / "one.nii.gz")
    assert np.count_nonzero(np.asarray(nibabel.load(tmp_path / "one.nii.gz").dataobj)) == 1
    step.menu.actions()[0].trigger()
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=PATIENCE)
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["a_segmentation.nii.gz"]
    written = nibabel.load(tmp_path / "out" / "a_segmentation.nii.gz")
    assert np.count_nonzero(np.asarray(written.dataobj)) == np.count_nonzero(labels) == 1


def test_a_scan_without_a_prediction_needs_the_box_ticked(made, qtbot, said, monkeypatch, tmp_path):
    for path in made.session.project.root.glob("runs/*/predictions/*.npz"):
        path.unlink()
    made.workspace.predictions.show_newest()
    made.prediction.refresh()
    assert made.prediction.export.isVisibleTo(made.prediction)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "out.nii.gz"), ""))
    made.prediction.export.one.click()
    assert "tick Annotations only" in said[-1][1]


def test_all_scans_go_into_a_folder(made, qtbot, said, monkeypatch, tmp_path):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    made.prediction.export.menu.actions()[0].trigger()
    assert not made.prediction.export.every.isEnabled()
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=PATIENCE)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a_segmentation.nii.gz", "b_segmentation.nii.gz", "volumes.csv"} <= names
    assert not said and made.session.job.notices[-1].startswith("Exported 2 scans and volumes.csv to")
    assert "Export finished. Exported 2 scans" in made.prediction.status.text()


def test_surfaces_of_all_scans_are_written_where_they_are_asked_for(made, qtbot, said, monkeypatch, tmp_path):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    made.prediction.export.surfaces.trigger()
    made.prediction.export.menu.actions()[0].trigger()
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=PATIENCE)
    names = {path.name for path in (tmp_path / "out").glob("*.stl")}
    assert not said and names == {"a_1_Liver.stl", "b_1_Liver.stl"}


def test_opening_the_dock_does_not_load_what_reads_and_writes_files():
    late = "highdicom", "pydicom", "SimpleITK", "nibabel", "scipy.ndimage", "scipy.special"
    program = f"import sys, napari_medssl.widgets; print([each for each in {late} if each in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert result.stdout.strip() == "[]", result.stderr
