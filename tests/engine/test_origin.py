"""Results of earlier weights or of another image are never passed off as present ones."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.features.similarity import open_features, write_features
from medssl.core.jobs import ExportJob, FinetuneJob
from medssl.core.labels.evaluate import evaluate
from medssl.core.labels.postprocess import Postprocessing, cleaned, postprocessing_of, save_cleaned
from medssl.core.project.annotation import Annotation
from medssl.core.project.annotation_file import write_annotation
from medssl.core.project.project import Project
from medssl.tasks.inference import predict
from project_parts import SHAPE, code_of, painted
from small import job_of, make_project, run


@pytest.fixture
def predicted(small_project: Project) -> str:
    """A run with weights and a prediction of the scan."""
    made = small_project.new_run("finetune", {"job": "finetune"}, "from-random")
    made.checkpoint.write_bytes(b"weights")
    small_project.save_prediction(made.id, "scan", painted())
    return made.id


def train_further(project: Project, run_id: str) -> None:
    project.run(run_id).checkpoint.write_bytes(b"trained further")


def test_a_prediction_of_the_present_weights_is_read(small_project: Project, predicted: str) -> None:
    assert small_project.has_prediction(predicted, "scan")
    assert np.array_equal(small_project.prediction(predicted, "scan"), painted())


def test_a_prediction_of_earlier_weights_is_refused_by_all_who_read_it(
    small_project: Project, predicted: str, tmp_path: Path
) -> None:
    save_cleaned(small_project, predicted, "scan", Postprocessing(largest=True), painted())
    train_further(small_project, predicted)
    assert not small_project.has_prediction(predicted, "scan")
    assert postprocessing_of(small_project, predicted, "scan") is None
    for read in (
        lambda: small_project.prediction(predicted, "scan"),
        lambda: small_project.segmentation("scan", predicted),
        lambda: cleaned(small_project, predicted, "scan", Postprocessing(largest=True)),
        lambda: evaluate(small_project, predicted, {"scan": tmp_path / "labels.nii.gz"}),
        lambda: export_scan(small_project, "scan", predicted, tmp_path / "out.nii.gz"),
    ):
        with pytest.raises(UserError, match=f"earlier weights of {predicted}; predict it again") as error:
            read()
        assert code_of(error) == "outdated"
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_prediction_of_another_image_is_refused(small_project: Project, predicted: str) -> None:
    scan = small_project.scans["scan"]
    small_project.scans["scan"] = replace(scan, image_sha256="0" * 64)
    assert not small_project.has_prediction(predicted, "scan")


def test_results_of_weights_that_were_replaced_meanwhile_are_outdated(
    small_project: Project, predicted: str
) -> None:
    before = small_project.run(predicted).weights_sha256
    train_further(small_project, predicted)
    small_project.save_prediction(predicted, "scan", painted(), before)
    write_features(small_project, "scan", predicted, np.ones((*SHAPE, 2), np.float16), (1, 1, 1), before)
    assert not small_project.has_prediction(predicted, "scan")
    with pytest.raises(UserError, match="outdated"):
        open_features(small_project, "scan", predicted)


def test_a_prediction_of_a_former_version_counts_unless_the_weights_are_newer(
    small_project: Project, predicted: str
) -> None:
    path, weights = small_project.prediction_file(predicted, "scan"), small_project.run(predicted).checkpoint
    write_annotation(path, Annotation(painted()), SHAPE)  # without an origin
    os.utime(weights, (1000, 1000))
    os.utime(path, (1000, 1000))
    assert small_project.has_prediction(predicted, "scan")
    os.utime(weights, (1001, 1001))
    assert not small_project.has_prediction(predicted, "scan")
    weights.unlink()
    assert small_project.has_prediction(predicted, "scan")


def test_a_damaged_prediction_is_none(small_project: Project, predicted: str) -> None:
    path = small_project.prediction_file(predicted, "scan")
    path.write_bytes(path.read_bytes()[:40])
    assert not small_project.has_prediction(predicted, "scan")
    with pytest.raises(UserError) as error:
        small_project.prediction(predicted, "scan")
    assert code_of(error) == "unreadable"


def test_an_export_after_resuming_predicts_again_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path, shape=(12, 24, 24))
    scan = list(project.scans)[1]  # not annotated
    tuned = run(job_of("finetune-none", project, steps=2))["run"]
    earlier = np.ones((12, 24, 24), np.uint8)
    project.save_prediction(tuned, scan, earlier)
    segmented = []
    segment = predict.segment
    monkeypatch.setattr(predict, "segment", lambda *of, **named: segmented.append(1) or segment(*of, **named))
    export = ExportJob(
        str(project.root), device="cpu", folder=str(tmp_path / "out"), weights=tuned, scans=(scan,)
    )
    for expected in (0, 1, 1):
        run(export)
        assert len(segmented) == expected
        written = nibabel.load(tmp_path / "out" / f"{scan}_segmentation.nii.gz").get_fdata()
        exported = project.scans[scan].geometry.to_canonical(written)
        assert np.array_equal(exported, earlier) == (expected == 0)
        if expected == 0:
            run(FinetuneJob(str(project.root), device="cpu", resume=tuned, steps=4))
    assert np.array_equal(exported, project.prediction(tuned, scan))
