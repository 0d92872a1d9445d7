"""What cannot be done, or goes wrong on the way, is one sentence, and costs no more than it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.jobs import ExportJob, FeaturesJob, FinetuneJob, PredictJob, PretrainJob
from medssl.core.project.project import Annotation, LabelClass, Project
from medssl.core.project.removal import remove_scan
from medssl.tasks.inference import predict
from small import SHAPE, Events, job_of, make_project, run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE)


def assert_refused(job: Any, code: str, *words: str) -> None:
    events = Events()
    with pytest.raises(UserError) as caught:
        run(job, events)
    assert caught.value.code == code, caught.value
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_one_sentence(tmp_path: Path, project: Project) -> None:
    root = str(project.root)
    empty = str(Project.create(tmp_path / "empty").root)
    assert_refused(PretrainJob(project=str(tmp_path / "nowhere")), "not-a-project", "nowhere")
    assert_refused(PretrainJob(project=empty, steps=1), "no-scans", "empty")
    assert_refused(FinetuneJob(project=empty, steps=1), "no-classes", "empty")
    assert_refused(PretrainJob(project=root, resume="0009-pretrain-pgl"), "no-run", "0009")
    assert_refused(PretrainJob(project=root, resume="shapes"), "no-run", "weights that ship")
    assert_refused(PretrainJob(project=root, method="dino", steps=1), "no-method", "dino", "pgl")
    assert_refused(PretrainJob(project=root, recipe="slow", steps=1), "no-recipe", "pgl", "slow", "quick")
    assert_refused(FinetuneJob(project=root, weights="0009-x", steps=1), "no-run", "0009-x")
    assert_refused(FinetuneJob(project=root, predict_scans=("who",), steps=1), "no-scan", "who")
    assert_refused(PredictJob(project=root, weights="0009-x"), "no-run", "0009-x")
    assert_refused(FeaturesJob(project=root, weights=""), "no-run")
    assert_refused(PretrainJob(project=root, steps=1, device="tpu7"), "no-device", "tpu7")
    assert_refused(PretrainJob(project=root, steps=1, device="meta"), "no-device", "meta")
    assert_refused(ExportJob(project=root), "bad-job", "folder")
    long = str(tmp_path / ("a" * 300))
    assert_refused(ExportJob(project=root, folder=long), "not-writable", "a shorter name")


def test_what_cannot_start_leaves_no_run(project: Project) -> None:
    before = [run.id for run in project.runs()]
    root = str(project.root)
    assert_refused(PretrainJob(project=root, method="dino", steps=1), "no-method")
    assert_refused(PretrainJob(project=root, recipe="slow", steps=1), "no-recipe")
    assert_refused(PretrainJob(project=root, steps=1, device="tpu7"), "no-device")
    assert_refused(job_of("pgl", project, settings={"colour": 1}), "bad-job", "colour")
    assert_refused(job_of("finetune", project, settings={"confidence_threshold": 1.5}), "bad-job")
    for zoom in ([1.25, 0.8], [2, 1]):
        assert_refused(
            job_of("finetune", project, settings={"zoom": zoom}), "bad-job", "smaller number first"
        )
    for zoom in ([1, 0], [0, 0], [-1, -1]):
        assert_refused(job_of("finetune", project, settings={"zoom": zoom}), "bad-job", "> 0.0")
    for name, huge in (("rotation", 1e308), ("displacement", 1e308), ("batch", 10**20)):
        assert_refused(job_of("finetune", project, settings={name: huge}), "bad-job", name)
    for number in (100_000, 10**12):
        assert_refused(job_of("finetune", project, settings={"threads": number}), "bad-job", "threads")
    assert [run.id for run in project.runs()] == before


def test_a_former_name_of_a_setting_is_answered_with_the_new_one(project: Project) -> None:
    job = job_of("finetune", project, settings={"sure": 0.5})
    assert_refused(job, "bad-job", "sure", "confidence_threshold")


def test_a_setting_that_nobody_knows_is_named(project: Project) -> None:
    assert_refused(job_of("pgl", project, settings={"colour": 1}), "bad-job", "colour")
    assert_refused(
        job_of("finetune", project, settings={"learning_rate": "high"}), "bad-job", "learning_rate"
    )


def test_a_project_without_annotation_cannot_be_fine_tuned(project: Project) -> None:
    for scan in project.annotated():
        project.save_annotation(scan, Annotation(np.zeros(SHAPE, np.uint8)))
    assert_refused(job_of("finetune", project), "no-annotation")


def test_background_alone_cannot_be_fine_tuned(project: Project) -> None:
    for scan in project.annotated():
        project.save_annotation(scan, Annotation(np.zeros(SHAPE, np.uint8), ((0, 3),)))
    assert_refused(job_of("finetune", project), "one-class")


def test_an_annotation_with_an_unknown_class_is_named(project: Project) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 4, 4] = 7
    scan = project.annotated()[0]
    project.save_annotation(scan, Annotation(labels, ((0, 3),)))
    assert_refused(job_of("finetune", project), "unknown-class", scan, "7")


def test_a_run_of_another_kind_cannot_be_resumed(project: Project) -> None:
    pretraining = run(job_of("pgl", project, steps=1))["run"]
    assert_refused(FinetuneJob(project=str(project.root), resume=pretraining), "wrong-run", pretraining)


def test_a_run_whose_classes_have_changed_cannot_be_resumed(project: Project) -> None:
    first = run(job_of("finetune", project, steps=1))["run"]
    project.set_classes((*project.classes, LabelClass(2, "other", "#00ff00")))
    resumed = FinetuneJob(project=str(project.root), resume=first, steps=2)
    assert_refused(resumed, "wrong-run", "classes")


def test_a_damaged_checkpoint_is_named(project: Project) -> None:
    first = run(job_of("pgl", project, steps=1))["run"]
    path = project.run(first).checkpoint
    path.write_bytes(path.read_bytes()[:1000])
    assert_refused(PretrainJob(project=str(project.root), resume=first), "damaged-checkpoint", str(path))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_is_short_for_predicting_is_one_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first = run(job_of("finetune", project, steps=1))["run"]

    def short(*given: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(predict, "segment", short)
    assert_refused(PredictJob(project=str(project.root), weights=first), "memory", "memory")


def test_a_full_disk_while_logging_does_not_end_a_training(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.open

    def full(self: Path, *given: Any, **named: Any) -> Any:
        if self.name == "events.jsonl":
            raise OSError(28, "No space left on device")
        return plain(self, *given, **named)

    monkeypatch.setattr(Path, "open", full)
    assert run(job_of("pgl", project, steps=1))["step"] == 1


def test_what_is_refused_when_its_run_has_begun_leaves_no_run(project: Project) -> None:
    """The plan and the network refuse what the type of a setting allows."""
    assert_refused(job_of("pgl", project, settings={"patch": [1, 2]}), "bad-job", "patch")
    background = np.zeros(SHAPE, np.uint8)
    for scan in project.annotated():
        project.save_annotation(scan, Annotation(background, ((0, 3),)))
    assert_refused(job_of("finetune", project), "one-class")
    assert not list((project.root / "runs").iterdir())


def test_a_run_that_is_refused_when_it_is_resumed_stays(project: Project) -> None:
    first = run(job_of("finetune", project, steps=1))["run"]
    project.set_classes((*project.classes, LabelClass(2, "other", "#00ff00")))
    assert_refused(FinetuneJob(project=str(project.root), resume=first, steps=2), "wrong-run", "classes")
    assert project.run(first).checkpoint.exists()


def test_a_resumed_run_predicts_the_scans_that_are_left(project: Project) -> None:
    painted, other = project.scans
    first = run(job_of("finetune", project, steps=1, predict_scans=(painted, other)))["run"]
    remove_scan(project, other)
    run(FinetuneJob(project=str(project.root), resume=first, steps=2))
    assert project.has_prediction(first, painted)
