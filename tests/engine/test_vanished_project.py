"""A project that is moved, deleted or replaced while it is open is said so, and no folder comes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medssl import engine
from medssl.core.errors import UserError
from medssl.core.estimate import Estimate, save
from medssl.core.events import Checkpoint, Event, Notice
from medssl.core.export.files import export_scan
from medssl.core.features.landmarks import Landmark, Landmarks, write_landmarks
from medssl.core.features.similarity import write_features
from medssl.core.jobs import PretrainJob
from medssl.core.labels.postprocess import Postprocessing, save_cleaned
from medssl.core.project.project import Annotation, LabelClass, Project
from medssl.nn.models import checkpoint
from medssl.tasks.training import patient_saver
from project_parts import SHAPE, code_of, painted
from small import job_of, make_project


def writes(project: Project, run: str, second_file: Path) -> tuple[Callable[[], object], ...]:
    """Everything that writes into a project."""
    features = np.zeros((*SHAPE, 4), np.float16)
    job = PretrainJob(project=str(project.root))
    return (
        lambda: project.save_annotation("scan", Annotation(painted())),
        lambda: project.annotation("scan"),
        lambda: project.set_classes(()),
        lambda: project.save_view_state({"scan": "scan"}),
        lambda: project.hold_out("scan"),
        lambda: project.add_scan(second_file),
        lambda: project.new_run("pretrain", {}, "x"),
        lambda: write_features(project, "scan", run, features, (1, 1, 1)),
        lambda: write_landmarks(project, Landmarks((Landmark("tip", "scan", (1, 2, 3)),))),
        lambda: save(project, job, Estimate(1.0, 1.0, 0.5, 0.0, 1, 1, "cpu", 1, "fp32")),
    )


def refused_by_all(project: Project, run: str, second_file: Path) -> None:
    for write in writes(project, run, second_file):
        with pytest.raises(UserError, match="no longer there") as error:
            write()
        assert code_of(error) == "project-gone" and str(project.root) in str(error.value)


@pytest.mark.parametrize("deleted", [False, True])
def test_nothing_is_written_where_a_project_was(
    small_project: Project, second_file: Path, deleted: bool
) -> None:
    run = small_project.new_run("pretrain", {}, "x").id
    kept = small_project.root.with_name("moved")
    small_project.root.rename(kept)
    if deleted:
        shutil.rmtree(kept)
    refused_by_all(small_project, run, second_file)
    for write in (
        lambda: small_project.save_prediction(run, "scan", painted()),
        lambda: save_cleaned(small_project, run, "scan", Postprocessing(), painted()),
        lambda: export_scan(small_project, "scan", None, small_project.root / "out" / "scan.nii.gz"),
        lambda: checkpoint.save(small_project.root / "runs" / run / "checkpoint.safetensors", {}, {}),
    ):
        with pytest.raises(UserError):
            write()
    assert not small_project.root.exists()


def test_nothing_is_written_into_another_project_at_the_same_path(
    small_project: Project, second_file: Path
) -> None:
    run = small_project.new_run("pretrain", {}, "x").id
    small_project.root.rename(small_project.root.with_name("moved"))
    other = Project.create(small_project.root, (LabelClass(7, "other", "#ffffff"),))
    before = {path: path.read_bytes() for path in other.root.rglob("*") if path.is_file()}
    refused_by_all(small_project, run, second_file)
    assert before == {path: path.read_bytes() for path in other.root.rglob("*") if path.is_file()}


def test_a_project_that_is_moved_back_is_written_again(small_project: Project) -> None:
    moved = small_project.root.with_name("moved")
    small_project.root.rename(moved)
    with pytest.raises(UserError):
        small_project.save_annotation("scan", Annotation(painted()))
    moved.rename(small_project.root)
    small_project.save_annotation("scan", Annotation(painted()))
    assert small_project.annotated() == ("scan",)


def test_a_drive_that_comes_back_with_other_numbers_has_the_same_project(small_project: Project) -> None:
    copy = small_project.root.with_name("copy")
    shutil.copytree(small_project.root, copy)
    shutil.rmtree(small_project.root)
    copy.rename(small_project.root)
    small_project.save_annotation("scan", Annotation(painted()))
    assert small_project.annotated() == ("scan",)


class Mover:
    """Moves the project away after its first checkpoint, and back once that was noticed."""

    def __init__(self, project: Project, comes_back: bool) -> None:
        self.root, self.moved = project.root, project.root.with_name("moved")
        self.comes_back, self.said = comes_back, list[str]()

    def emit(self, event: Event) -> None:
        if isinstance(event, Checkpoint) and event.step == 0:
            self.root.rename(self.moved)
        if isinstance(event, Notice) and "no longer there" in event.text:
            self.said.append(event.text)
            assert not self.root.exists()
            if self.comes_back:
                self.moved.rename(self.root)


def test_a_training_waits_for_a_project_that_is_moved_back(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=(12, 24, 24))
    mover = Mover(project, comes_back=True)
    result = engine.run(job_of("pgl", project, steps=3), mover.emit, lambda: False)
    assert len(mover.said) == 1 and "not saved" in mover.said[0]
    assert checkpoint.load(project.run(result["run"]).checkpoint)[1]["step"] == 3


def test_a_training_whose_project_stays_away_says_so_and_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_saver, "WAIT_S", 0.0)
    project = make_project(tmp_path, shape=(12, 24, 24))
    mover = Mover(project, comes_back=False)
    with pytest.raises(UserError, match="no longer there") as error:
        engine.run(job_of("pgl", project, steps=3), mover.emit, lambda: False)
    assert error.value.code == "project-gone" and not project.root.exists()
    (run,) = Project.open(mover.moved).runs()
    assert checkpoint.load(run.checkpoint)[1]["step"] == 0, "its last checkpoint is in the project, wherever"
