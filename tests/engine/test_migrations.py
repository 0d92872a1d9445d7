"""Projects, jobs and cards of version 0.1 under the names of today."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medssl.core import migrations
from medssl.core.features.landmarks import read_landmarks
from medssl.core.jobs import ExportJob, FinetuneJob, Plan, PredictJob, PretrainJob, from_json, job_of, to_json
from medssl.core.project.project import Project, ViewState
from medssl.nn.models import checkpoint
from medssl.tasks.inference.stored_location_prior import read_location_prior
from small import CPU, Events, run

FORMER = Path(__file__).parent / "data" / "project-of-version-0.1.zip"
"""Made by commit abb8153: three scans, two of them annotated and interpolated, a pre-training by mae+pgl with
settings of its own, a fine-tuning that was stopped after 6 of 10 steps, a prediction and a landmark."""
PRETRAINED, FINETUNED = "0001-pretrain-mae+pgl", "0002-finetune-from-mae+pgl"


@pytest.fixture
def former(tmp_path: Path) -> Project:
    with zipfile.ZipFile(FORMER) as archive:
        archive.extractall(tmp_path / "project")
    return Project.open(tmp_path / "project")


def test_jobs_plans_and_reports_are_read_under_their_new_names(former: Project) -> None:
    pretraining, finetuning = former.run(PRETRAINED), former.run(FINETUNED)
    job = job_of(pretraining.job, "the job")
    assert isinstance(job, PretrainJob)
    assert (job.settings["reconstruction"], job.settings["consistency"]) == (4.0, 1.0)
    assert pretraining.collapse_report["feature_std"] == pytest.approx(0.809, abs=1e-3)
    job = job_of(finetuning.job, "the job")
    assert isinstance(job, FinetuneJob)
    assert job.semi_supervised == "self_training"
    assert (job.settings["multiplanar"], job.settings["multiplanar_prob"]) == (True, 0.5)
    plan = from_json(Plan, finetuning.card["plan"], "the plan")
    assert plan.multiplanar
    assert plan.smoothing_sigma_mm == pytest.approx(2.185, abs=1e-3)
    assert finetuning.card["validation_slice"]["scan"] == "scan-0"


def test_annotations_and_landmarks_are_there(former: Project) -> None:
    annotation = former.annotation("scan-0")
    assert annotation is not None
    assert annotation.interpolated is not None
    assert np.flatnonzero(annotation.interpolated.any((1, 2))).tolist() == [4]
    landmarks = read_landmarks(former)
    assert [each.name for each in landmarks.points] == ["corner"]
    assert {each.scan for each in landmarks.matches} == {"scan-1", "scan-2"}


def test_the_viewer_opens_where_it_was_left(former: Project) -> None:
    path = former.root / "project.json"
    left = {"scan": "scan-1", "slices": {"scan-1": [0, 3]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "view_state": left}))
    former.hold_out("scan-2")
    opened = Project.open(former.root)
    assert opened.view_state == ViewState("scan-1", {"scan-1": (0, 3)})
    opened.save_view_state(ViewState("scan-2"))
    assert Project.open(former.root).view_state == ViewState("scan-2")


def test_the_fine_tuning_predicts_as_it_did(former: Project) -> None:
    before = former.prediction(FINETUNED, "scan-2")
    former.prediction_file(FINETUNED, "scan-2").unlink()
    run(PredictJob(str(former.root), device="cpu", weights=FINETUNED, scans=("scan-2",)))
    assert (former.prediction(FINETUNED, "scan-2") == before).mean() > 0.999
    assert read_location_prior(former.run(FINETUNED).checkpoint, CPU) is not None


def test_the_fine_tuning_goes_on_with_its_pseudo_labels(former: Project) -> None:
    said = Events()
    result = run(FinetuneJob(str(former.root), device="cpu", resume=FINETUNED), said)
    assert result["step"] == 10
    assert not result["stopped"]
    tensors, card = checkpoint.load(former.run(FINETUNED).checkpoint)
    assert any(name.startswith("modules.rounds.pseudo_labeller.") for name in tensors)
    assert {"multiplanar", "smoothing_sigma_mm"} <= card["plan"].keys()


def test_a_new_fine_tuning_starts_from_the_pre_training_and_is_exported(
    former: Project, tmp_path: Path
) -> None:
    known = job_of(former.run(FINETUNED).job, "the job")
    assert isinstance(known, FinetuneJob)
    made = run(replace(known, project=str(former.root), steps=2, predict_scans=()))["run"]
    run(ExportJob(str(former.root), device="cpu", folder=str(tmp_path / "out"), weights=made))
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3


def test_todays_jobs_stay_as_they_are() -> None:
    job = FinetuneJob("project", settings={"multiplanar": False, "confidence_threshold": 0.5})
    assert migrations.job(to_json(job)) == to_json(job)


def test_names_that_nobody_knows_are_left_for_the_reader_to_refuse() -> None:
    assert migrations.job({"unknown": 1, "settings": None}) == {"unknown": 1, "settings": None}
