"""Dice by hand, and runs compared with label files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.labels.evaluate import Scores, evaluate, evaluate_usable
from medssl.core.labels.metrics import dice
from medssl.core.project.project import LabelClass, Project

CLASSES = (LabelClass(1, "liver", "#ff0000"), LabelClass(2, "spleen", "#00ff00"))
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def test_dice_by_hand() -> None:
    prediction = np.array([[[1, 1, 0, 2]]])
    reference = np.array([[[1, 0, 0, 2]]])
    assert dice(prediction, reference, [1, 2]) == {1: pytest.approx(2 / 3), 2: 1.0}


def test_a_class_in_neither_has_no_dice_and_one_that_is_missed_has_zero() -> None:
    result = dice(np.array([0, 0]), np.array([0, 2]), [1, 2])
    assert math.isnan(result[1])
    assert result[2] == 0.0


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        dice(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), [1])


def test_means_leave_out_what_is_not_there() -> None:
    scores = Scores(CLASSES, {"a": {1: 0.5, 2: math.nan}, "b": {1: 0.7, 2: 0.9}})
    assert scores.of_class(2) == 0.9
    assert scores.of_scan("a") == 0.5
    assert scores.mean == pytest.approx((0.5 + 0.8) / 2)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One scan, one run that predicted it as liver in its lower half."""
    values = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "case.nii.gz")
    made = Project.create(tmp_path / "project", CLASSES)
    scan = made.add_scan(tmp_path / "case.nii.gz")
    run = made.new_run("finetune", {"job": "finetune"}, "finetune")
    prediction = np.zeros((4, 5, 6), dtype=np.uint8)
    prediction[:2] = 1
    made.save_prediction(run.id, scan.id, prediction)
    return made


def write_labels(folder: Path, affine: np.ndarray = AFFINE) -> Path:
    """Liver in the lowest slice: of the 60 voxels predicted, 30 are right."""
    folder.mkdir(exist_ok=True)
    labels = np.zeros((6, 5, 4), dtype=np.uint8)
    labels[..., 0] = 1
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "case.nii.gz")
    return folder


def test_a_run_is_compared_with_files_of_the_scans_names(project: Project, tmp_path: Path) -> None:
    references = {"case": write_labels(tmp_path / "labels") / "case.nii.gz"}
    scores = evaluate(project, project.runs()[0].id, references)
    assert scores.of_class(1) == pytest.approx(2 * 30 / (60 + 30))
    assert math.isnan(scores.of_class(2))


def test_labels_on_another_grid_are_refused(project: Project, tmp_path: Path) -> None:
    references = {"case": write_labels(tmp_path / "labels", np.diag([2.0, 2.0, 4.0, 1.0])) / "case.nii.gz"}
    with pytest.raises(UserError, match=r"case\.nii\.gz lies on another voxel grid"):
        evaluate(project, project.runs()[0].id, references)


def test_a_scan_without_a_prediction_is_refused(project: Project, tmp_path: Path) -> None:
    references = {"case": write_labels(tmp_path / "labels") / "case.nii.gz"}
    other = project.new_run("finetune", {"job": "finetune"}, "finetune")
    with pytest.raises(UserError, match="has no prediction"):
        evaluate(project, other.id, references)


def save(path: Path, labels: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), path)
    return path


def test_values_are_the_classes_that_an_import_has_made_of_them(project: Project, tmp_path: Path) -> None:
    """The file says 500 for liver, as an imported file did; 2 stays the class with this id."""
    project.set_classes((replace(CLASSES[0], values=(500,)), CLASSES[1]))
    labels = np.zeros((6, 5, 4), np.int16)
    labels[..., :2], labels[0, 0, 3] = 500, 2
    scores = evaluate(
        Project.open(project.root), project.runs()[0].id, {"case": save(tmp_path / "l.nii", labels)}
    )
    assert scores.values == {"case": {1: 1.0, 2: 0.0}} and scores.notes == {"case": ()}


def test_labels_that_are_no_class_are_named_and_missing_classes_do_not_count(
    project: Project, tmp_path: Path
) -> None:
    labels = np.zeros((6, 5, 4), np.int16)
    labels[..., :2], labels[0, 0, 3] = 300, 2
    scores = evaluate(project, project.runs()[0].id, {"case": save(tmp_path / "l.nii", labels)})
    assert math.isnan(scores.values["case"][1]) and scores.values["case"][2] == 0
    assert scores.notes["case"] == ("300 is no class of the project",)


def test_a_file_without_any_class_is_refused_and_left_out_of_the_mean(
    project: Project, tmp_path: Path
) -> None:
    run = project.runs()[0].id
    labels = np.zeros((6, 5, 4), np.int16)
    labels[..., :2] = 300
    strange = save(tmp_path / "strange.nii", labels)
    with pytest.raises(UserError, match="300") as error:
        evaluate_usable(project, run, {"case": strange})
    assert error.value.code == "no-class"
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(1).normal(size=(6, 5, 4)), AFFINE), tmp_path / "b.nii"
    )
    other = project.add_scan(tmp_path / "b.nii")
    project.save_prediction(run, other.id, np.zeros((4, 5, 6), np.uint8))
    good = write_labels(tmp_path / "labels") / "case.nii.gz"
    scores = evaluate_usable(project, run, {"case": good, other.id: strange})
    assert list(scores.values) == ["case"] and "300" in scores.left_out[other.id]
    assert scores.mean == pytest.approx(2 * 30 / (60 + 30))
