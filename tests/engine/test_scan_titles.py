"""Sentences about a scan say the name that a person gave it, not the id of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.features.similarity import open_features
from medssl.core.labels.pairing import pair_labels
from medssl.core.labels.postprocess import Postprocessing, cleaned, read_cleaned
from medssl.core.project.probabilities import open_probabilities
from medssl.core.project.project import Annotation, Project
from medssl.core.project.removal import remove_scan
from medssl.core.project.review import accept
from medssl.tasks.segment.validation_slice import take_validation_slice
from small import Events, plan
from test_validation_slice import scans

NAME = "Patient 7"
Action = Callable[[Project, str], object]


@pytest.fixture
def project(small_project: Project, second_file: Path) -> Project:
    """Its scans "scan" and "other"; the first, renamed, has a channel and a run without predictions."""
    small_project.add_scan(second_file)
    small_project.add_channel("scan", other_values(small_project, 2), "t2")
    small_project.rename_scan("scan", NAME)
    return small_project


def other_values(project: Project, factor: float) -> Path:
    """A file on the scan's grid."""
    source = nibabel.load(project.scan("scan").source)
    path = project.root.parent / f"{factor}.nii"
    nibabel.save(nibabel.Nifti1Image(np.asarray(source.dataobj) * factor + 7, source.affine), path)
    return path


def _damaged_image(project: Project, run: str) -> object:
    (project.root / "scans" / "scan.npy").write_bytes(b"damaged")
    Path(project.scan("scan").source).unlink()
    return Project.open(project.root).image("scan")


@pytest.mark.parametrize(
    "action",
    [
        lambda project, run: accept(project, run, "scan"),
        lambda project, run: project.add_channel("scan", Path(project.scan("scan").source), "t1"),
        lambda project, run: project.add_channel("scan", other_values(project, 3), "t2"),
        lambda project, run: project.remove_channel("scan", ""),
        lambda project, run: project.scan("gone"),
        lambda project, run: cleaned(project, run, "scan", Postprocessing()),
        lambda project, run: read_cleaned(project, run, "scan"),
        lambda project, run: open_probabilities(project, run, "scan"),
        lambda project, run: open_features(project, "scan", run),
        _damaged_image,
    ],
    ids=[
        "review", "same image", "same name", "first channel", "no scan", "no prediction", "no clean-up",
        "no probabilities", "no features", "damaged image",
    ],
)  # fmt: skip
def test_an_error_says_the_name(project: Project, action: Action) -> None:
    run = project.new_run("finetune", {"job": "finetune"}, "x")
    run.checkpoint.write_bytes(b"weights")
    with pytest.raises(UserError, match=NAME):
        action(project, run.id)


def test_a_scan_that_comes_back_is_called_by_its_name(project: Project) -> None:
    project.save_annotation("scan", Annotation(np.ones((6, 9, 10), np.uint8), ()))
    source = Path(project.scan("scan").source)
    remove_scan(project, "scan")
    said: list[str] = []
    project.on_notice = said.append
    added = project.add_scan(source, name="Patient 8")
    assert added.title in said[0]


def test_label_files_that_fit_two_scans_name_both(tmp_path: Path) -> None:
    for path in ("p0/ct.nii.gz", "p1/ct.nii.gz", "labels/ct.nii.gz"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    sources = {"ct": tmp_path / "p0" / "ct.nii.gz", "ct-2": tmp_path / "p1" / "ct.nii.gz"}
    pairs = pair_labels(sources, tmp_path / "labels", {"ct-2": NAME})
    assert f"may belong to ct or {NAME};" in pairs.ambiguous["ct"]


def test_the_validation_slice_is_that_of_a_name() -> None:
    events = Events()
    take_validation_slice(scans(1, 3, 5, 7), plan(), None, events, {"scan-0": NAME})
    assert f"slice 3 of {NAME}." in events.of(Notice)[0].text
