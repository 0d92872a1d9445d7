"""medssl init --labels: label files become annotations, or references of scans that are held out."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import Result
from medssl.cli import app
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project
from typer.testing import CliRunner

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
SHAPE = (8, 7, 6)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def labels(high: int = 500) -> np.ndarray:
    """Two labels in slices 2 and 3, (i, j, k)."""
    values = np.zeros(SHAPE, np.int16)
    values[2:6, 2:5, 2:4], values[4, 3, 2] = high, 2
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three patients with a ct.nii.gz each; the third has labels on another grid."""
    for number in range(3):
        values = np.random.default_rng(number).normal(size=SHAPE)
        save(tmp_path / "scans" / f"p{number}" / "ct.nii.gz", values.astype(np.float32))
        save(tmp_path / "labels" / f"p{number}" / "seg.nii.gz", labels())
    save(tmp_path / "labels" / "p2" / "seg.nii.gz", np.ones((9, 9, 9), np.uint8))
    return tmp_path


def init(folder: Path, *arguments: str) -> Result:
    given = ["init", folder / "project", folder / "scans", "--labels", folder / "labels", *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in given])


@pytest.mark.parametrize(
    "complete, slices",
    [("labelled", [2, 3]), ("ends", list(range(6))), ("all", list(range(6))), ("none", [])],
)
def test_labels_become_annotations(folder: Path, complete: str, slices: list[int]) -> None:
    result = init(folder, "--complete", complete)
    assert result.exit_code == 1 and "another voxel grid" in result.output  # of the third patient
    project = Project.open(folder / "project")
    assert project.annotated() == ("p0-ct", "p1-ct")
    annotation = project.annotation("p1-ct")
    assert annotation is not None
    expected = project.scans["p1-ct"].geometry.to_canonical(np.where(labels() == 500, 1, labels()))
    assert np.array_equal(annotation.labels, expected)
    assert annotation.complete == tuple((0, index) for index in slices)
    assert [(item.id, item.values) for item in project.classes] == [(2, ()), (1, (500,))]


def test_held_out_scans_get_reference_labels_and_no_annotation(folder: Path) -> None:
    init(folder, "--hold-out", "ct*")
    project = Project.open(folder / "project")
    assert project.annotated(held_out=True) == ()
    assert [bool(scan.reference) for scan in project.scans.values()] == [True, True, False]


def test_an_annotation_is_never_overwritten(folder: Path) -> None:
    init(folder)
    project = Project.open(folder / "project")
    painted = np.full(project.scans["p0-ct"].geometry.shape_zyx, 2, np.uint8)
    project.save_annotation("p0-ct", Annotation(painted))
    assert "p0-ct is annotated already" in " ".join(init(folder).output.split())
    annotation = project.annotation("p0-ct")
    assert annotation is not None and np.array_equal(annotation.labels, painted)


def test_evaluate_leaves_out_what_cannot_be_compared(folder: Path) -> None:
    """Predictions are perfect; a patient without labels and one on another grid do not count."""
    init(folder)
    project = Project.open(folder / "project")
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    run.checkpoint.touch()
    for scan in project.scans:
        annotation = project.annotation("p0-ct")
        assert annotation is not None
        project.save_prediction(run.id, scan, annotation.labels)
    (folder / "labels" / "p1" / "seg.nii.gz").unlink()
    given = ["evaluate", str(project.root), "--labels", str(folder / "labels")]
    result = CliRunner().invoke(app, given)
    text = " ".join(result.output.split())
    assert result.exit_code == 1 and "another voxel grid" in text and "No label file: p1-ct." in text
    assert "mean │ 1.000 │ 1.000 │ 1.000" in text
