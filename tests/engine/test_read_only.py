"""References of scans, and projects that this process may only look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.features.landmarks import Landmarks, write_landmarks
from medssl.core.project.project import Annotation, Project, ViewState


def test_a_reference_is_kept_and_taken_away_again(small_project, tmp_path):
    small_project.set_reference("scan", tmp_path / "truth.nii.gz")
    again = Project.open(small_project.root)
    assert Path(again.scans["scan"].reference) == (tmp_path / "truth.nii.gz").resolve()
    again.set_reference("scan", None)
    assert Project.open(small_project.root).scans["scan"].reference == ""


def test_a_project_without_references_says_nothing_that_older_versions_do_not_know(small_project):
    (scan,) = json.loads((small_project.root / "project.json").read_text())["scans"]
    assert "reference" not in scan


def test_a_read_only_project_is_read_and_never_written(small_project, second_file):
    before = {path: path.read_bytes() for path in small_project.root.rglob("*") if path.is_file()}
    small_project.read_only = "Another window has it."
    labels = np.ones((6, 9, 10), np.uint8)
    for write in (
        lambda: small_project.save_annotation("scan", Annotation(labels)),
        lambda: small_project.set_classes(()),
        lambda: small_project.save_view_state(ViewState("scan")),
        lambda: small_project.hold_out("scan"),
        lambda: small_project.add_scan(second_file),
        lambda: small_project.new_run("pretrain", {}, "x"),
        lambda: write_landmarks(small_project, Landmarks()),
    ):
        with pytest.raises(UserError, match="Another window") as error:
            write()
        assert error.value.code == "read-only"
    assert small_project.image("scan").shape == labels.shape
    assert before == {path: path.read_bytes() for path in small_project.root.rglob("*") if path.is_file()}
