"""Jobs from end to end: the same job gives the same weights, and a stop changes nothing but the time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl import checkpoint, engine, finetune, predict, pretrain
from medssl.config import FeaturesJob, FinetuneJob, PredictJob, PretrainJob, TrainingJob
from medssl.errors import UserError
from medssl.events import Done, Notice, Preview, Started, to_line
from medssl.project import Annotation, LabelClass, Project
from small import FINETUNE, SETTINGS, Events, make_project, never
from torch import Tensor

SHAPE = (12, 24, 24)
ROUNDS = {"rounds": [0.3, 0.7], "trusted_loss": 100.0}
KINDS = ["pgl", "mae", "finetune", "finetune-3d"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE)


def job_of(kind: str, project: Project, **changes: Any) -> TrainingJob:
    """A training of ten small steps; those that fine-tune learn from their own guesses after 3 and 7."""
    root = str(project.root)
    if kind == "pgl":
        return PretrainJob(**{"project": root, "steps": 10, "settings": SETTINGS, **changes})
    if kind == "mae":
        return PretrainJob(**{"project": root, "steps": 10, "method": "mae", "settings": FINETUNE, **changes})
    shape = {"dims": 3, "patch": [8, 16, 16]} if kind == "finetune-3d" else {}
    settings = {**FINETUNE, **ROUNDS, **shape}
    return FinetuneJob(**{"project": root, "steps": 10, "settings": settings, **changes})


def weights(project: Project, run: str) -> dict[str, Tensor]:
    """All that the checkpoint holds: networks, teacher or average, optimizer, generator."""
    return checkpoint.load(project.run(run).checkpoint)[0]


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    differ = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differ


def run(job: Any, events: Events | None = None, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
    return engine.run(job, events if events is not None else Events(), should_stop)


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_job_gives_bit_identical_weights(project: Project, kind: str) -> None:
    torch.manual_seed(1)
    first = run(job_of(kind, project, steps=5))
    torch.manual_seed(2)
    np.random.default_rng(3)
    second = run(job_of(kind, project, steps=5))
    assert first["run"] != second["run"]
    assert_equal(weights(project, first["run"]), weights(project, second["run"]))


@pytest.mark.parametrize("kind", ["pgl", "mae", "finetune"])
def test_another_seed_gives_other_weights(project: Project, kind: str) -> None:
    runs = [run(job_of(kind, project, steps=2, seed=seed))["run"] for seed in (0, 1)]
    one, two = (weights(project, each)["modules.network.encoder.0.conv1.conv.weight"] for each in runs)
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("kind", "stopped_at"), [("pgl", 4), ("mae", 4), ("finetune", 2), ("finetune", 5), ("finetune-3d", 5)]
)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(
    project: Project, kind: str, stopped_at: int
) -> None:
    """For fine-tuning before and after the network has begun to learn from its own guesses."""
    whole = run(job_of(kind, project))
    part = run(job_of(kind, project), should_stop=stop_after(stopped_at))
    assert (part["stopped"], part["step"]) == (True, stopped_at)
    kind_of_job = PretrainJob if kind in ("pgl", "mae") else FinetuneJob
    events = Events()
    resumed = run(kind_of_job(project=str(project.root), resume=part["run"]), events)
    assert resumed == {**resumed, "run": part["run"], "step": 10, "stopped": False}
    assert any(f"step {stopped_at}" in notice.text for notice in events.of(Notice))
    assert_equal(weights(project, whole["run"]), weights(project, part["run"]))


def test_fine_tuning_keeps_a_moving_average_that_is_none_of_the_weights(project: Project) -> None:
    stored = weights(project, run(job_of("finetune", project))["run"])
    name = "encoder.0.conv1.conv.weight"
    assert not torch.equal(stored[f"modules.network.{name}"], stored[f"modules.average.{name}"])


def test_a_finished_run_can_be_taken_further(project: Project) -> None:
    first = run(job_of("pgl", project, steps=2))
    more = run(PretrainJob(project=str(project.root), resume=first["run"], steps=4))
    assert (more["run"], more["step"]) == (first["run"], 4)


def test_a_run_that_was_cut_off_before_its_first_checkpoint_starts_anew(project: Project) -> None:
    whole = run(job_of("pgl", project, steps=2))
    cut_off = run(job_of("pgl", project, steps=2), should_stop=stop_after(1))
    project.run(cut_off["run"]).checkpoint.unlink()
    run(PretrainJob(project=str(project.root), resume=cut_off["run"]))
    assert_equal(weights(project, whole["run"]), weights(project, cut_off["run"]))


@pytest.mark.parametrize("kind", ["pgl", "finetune"])
def test_events_begin_with_started_end_with_done_and_are_kept(project: Project, kind: str) -> None:
    events = Events()
    changes: dict[str, Any] = {"steps": 2}
    if kind == "finetune":
        changes["predict_scans"] = tuple(project.scans)
    result = run(job_of(kind, project, **changes), events)
    assert isinstance(events[0], Started)
    assert events[0].run == result["run"]
    assert events[0].reasons
    assert events[-1] == Done(stopped=False, result=result)
    lines = (project.run(result["run"]).folder / "events.jsonl").read_text().splitlines()
    assert lines == [to_line(event) for event in events]
    assert [event.scan for event in events.of(Preview)] == list(changes.get("predict_scans", ()))


def test_a_stopped_fine_tuning_still_predicts(project: Project) -> None:
    scan = next(iter(project.scans))
    job = job_of("finetune", project, predict_scans=(scan,))
    result = run(job, should_stop=stop_after(1))
    assert result["stopped"]
    assert project.prediction(result["run"], scan) is not None


def test_the_card_says_what_the_weights_are(project: Project) -> None:
    result = run(job_of("pgl", project, steps=2))
    card = json.loads((project.run(result["run"]).folder / "card.json").read_text())
    assert (card["kind"], card["method"], card["step"]) == ("pretrain", "pgl", 2)
    assert card["plan"]["dims"] == 2
    assert card["scans"] == list(project.scans)
    assert card["job"]["settings"]["hidden"] == 16


@pytest.mark.parametrize("kind", ["pgl", "finetune"])
def test_held_out_scans_are_never_trained_on(project: Project, kind: str) -> None:
    kept = list(project.scans)[1]
    project.hold_out(kept)
    result = run(job_of(kind, project, steps=1))
    assert kept not in project.run(result["run"]).card["scans"]


@pytest.mark.parametrize("method", ["pgl", "mae"])
def test_fine_tuning_starts_from_pre_trained_weights(project: Project, method: str) -> None:
    weights_run = run(job_of(method, project, steps=1))["run"]
    events = Events()
    result = run(job_of("finetune", project, steps=0, weights=weights_run), events)
    before, after = weights(project, weights_run), weights(project, result["run"])
    same = {
        name.removeprefix("modules.network.")
        for name, tensor in checkpoint.pack(
            "modules.network", checkpoint.unpack("modules.network", after)
        ).items()
        if before[name].shape == tensor.shape and torch.equal(before[name], tensor)
    }
    parts = {"encoder", "decoder"} if method == "mae" else {"encoder"}
    filled = [name for name in checkpoint.unpack("modules.network", after) if name.split(".")[0] in parts]
    assert same >= set(filled)
    assert f"Starting from {len(filled)} of" in events.of(Notice)[0].text
    assert result["run"].endswith(f"from-{method}")


def test_fine_tuning_can_go_on_from_a_fine_tuning_with_its_head(project: Project) -> None:
    first = run(job_of("finetune", project, steps=2))["run"]
    events = Events()
    second = run(job_of("finetune", project, steps=0, weights=first), events)["run"]
    average = checkpoint.unpack("modules.average", weights(project, first))
    assert_equal(average, checkpoint.unpack("modules.network", weights(project, second)))


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
    assert_refused(PretrainJob(project=root, method="dino", steps=1), "no-method", "dino", "pgl")
    assert_refused(PretrainJob(project=root, recipe="slow", steps=1), "no-recipe", "pgl-slow")
    assert_refused(FinetuneJob(project=root, weights="0009-x", steps=1), "no-run", "0009-x")
    assert_refused(FinetuneJob(project=root, predict_scans=("who",), steps=1), "no-scan", "who")
    assert_refused(PredictJob(project=root, weights="0009-x"), "no-run", "0009-x")
    assert_refused(FeaturesJob(project=root, weights=""), "no-run")
    assert_refused(PretrainJob(project=root, steps=1, device="tpu7"), "no-device", "tpu7")


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
    assert_refused(PretrainJob(project=str(project.root), resume=first), "foreign-checkpoint", str(path))


@pytest.mark.parametrize("kind", ["pgl", "mae", "finetune"])
def test_short_memory_halves_the_batch_and_goes_on(
    project: Project, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = finetune.Finetuning if kind == "finetune" else pretrain.Pretraining
    plain = task.loss
    left = [2]

    def loss(self: Any, generator: torch.Generator, fraction: float) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, generator, fraction)

    monkeypatch.setattr(task, "loss", loss)
    job = job_of(kind, project, steps=3)
    events = Events()
    result = run(replace(job, settings={**job.settings, "batch": 4}), events)
    said = [notice.text for notice in events.of(Notice) if "Memory was short" in notice.text]
    assert [text.split("now ")[1][0] for text in said] == ["2", "1"]
    assert result["step"] == 3


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_is_short_for_predicting_is_one_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first = run(job_of("finetune", project, steps=1))["run"]

    def short(*given: Any) -> None:
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


def test_annotations_are_only_read(project: Project) -> None:
    folder = project.root / "annotations"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(job_of("finetune", project, steps=2, predict_scans=tuple(project.scans)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
