"""Dice by hand, and runs compared with label files."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.labels.evaluate import Scores, evaluate, match_labels
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
    references = match_labels(project, write_labels(tmp_path / "labels"))
    scores = evaluate(project, project.runs()[0].id, references)
    assert scores.of_class(1) == pytest.approx(2 * 30 / (60 + 30))
    assert math.isnan(scores.of_class(2))


def test_labels_on_another_grid_are_refused(project: Project, tmp_path: Path) -> None:
    references = match_labels(project, write_labels(tmp_path / "labels", np.diag([2.0, 2.0, 4.0, 1.0])))
    with pytest.raises(UserError, match=r"case\.nii\.gz lies on another voxel grid"):
        evaluate(project, project.runs()[0].id, references)


def test_a_scan_without_a_prediction_is_refused(project: Project, tmp_path: Path) -> None:
    references = match_labels(project, write_labels(tmp_path / "labels"))
    other = project.new_run("finetune", {"job": "finetune"}, "finetune")
    with pytest.raises(UserError, match="has no prediction"):
        evaluate(project, other.id, references)


def test_a_folder_without_fitting_labels_is_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label file named like a scan"):
        match_labels(project, tmp_path / "project")
