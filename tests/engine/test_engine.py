"""Jobs from end to end: the same job gives the same weights, and a stop changes nothing but the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.events import Done, Notice, Preview, Progress, Started, to_line
from medssl.core.features.similarity import open_features
from medssl.core.io.labels import read_labels
from medssl.core.jobs import FeaturesJob, FinetuneJob, PretrainJob
from medssl.core.methods import METHODS
from medssl.core.project.project import LabelClass, Project
from medssl.nn.models import checkpoint
from small import FINETUNE, SHAPE, Events, job_of, make_project, run, stop_after
from torch import Tensor

KINDS = [*METHODS, "finetune", "finetune-3d", "finetune-pseudo_contrast"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE)


def weights(project: Project, run: str) -> dict[str, Tensor]:
    """All that the checkpoint holds: networks, teacher or average, optimizer, generator."""
    return checkpoint.load(project.run(run).checkpoint)[0]


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    differ = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differ


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_job_gives_bit_identical_weights(project: Project, kind: str) -> None:
    torch.manual_seed(1)
    first = run(job_of(kind, project, steps=5))
    torch.manual_seed(2)
    np.random.default_rng(3)
    second = run(job_of(kind, project, steps=5))
    assert first["run"] != second["run"]
    assert_equal(weights(project, first["run"]), weights(project, second["run"]))


@pytest.mark.parametrize("kind", [*METHODS, "finetune"])
def test_another_seed_gives_other_weights(project: Project, kind: str) -> None:
    runs = [run(job_of(kind, project, steps=2, seed=seed))["run"] for seed in (0, 1)]
    one, two = (weights(project, each)["modules.network.encoder.0.conv1.conv.weight"] for each in runs)
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("kind", "stopped_at"),
    [
        *((method, 4) for method in METHODS),
        ("alice", 1),
        ("finetune", 2),
        ("finetune", 5),
        ("finetune-3d", 5),
        ("finetune-none", 5),
        ("finetune-pseudo_contrast", 2),
        ("finetune-pseudo_contrast", 5),
        ("finetune-3d-both", 5),
    ],
)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(
    project: Project, kind: str, stopped_at: int
) -> None:
    """For fine-tuning before and after the network has begun to learn from its pseudo-labels, for Alice
    before and after the matcher is trained."""
    said = Events()
    whole = run(job_of(kind, project), said)
    before = ("superpixels", "supervoxels", "MoCo's loss")  # it is asked after each of these, too
    prepared = sum(
        any(each in str(event) for each in before) for event in said if isinstance(event, Notice | Progress)
    )
    part = run(job_of(kind, project), should_stop=stop_after(prepared + stopped_at))
    assert (part["stopped"], part["step"]) == (True, stopped_at)
    kind_of_job = PretrainJob if kind in METHODS else FinetuneJob
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
    assert card["scans"] == [scan.sha256 for scan in project.scans.values()]
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
    assert f"{len(filled)} of" in events.of(Notice)[0].text
    assert result["run"].endswith(f"from-{method}")


def test_fine_tuning_can_go_on_from_a_fine_tuning_with_its_head(project: Project) -> None:
    first = run(job_of("finetune", project, steps=2))["run"]
    events = Events()
    second = run(job_of("finetune", project, steps=0, weights=first), events)["run"]
    average = checkpoint.unpack("modules.average", weights(project, first))
    assert_equal(average, checkpoint.unpack("modules.network", weights(project, second)))


def test_annotations_are_only_read(project: Project) -> None:
    folder = project.root / "annotations"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(job_of("finetune", project, steps=2, predict_scans=tuple(project.scans)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.data
@pytest.mark.parametrize("method", ["pgl", "mae"])
def test_real_scans_of_different_sizes_go_all_the_way(tmp_path: Path, data: Path, method: str) -> None:
    folder = data / "Task04_Hippocampus"
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))[:3]
    project = Project.create(tmp_path / "project", (LabelClass(1, "anterior", "#ff0000"),))
    project.set_classes((*project.classes, LabelClass(2, "posterior", "#00ff00")))
    scans = [project.add_scan(path).id for path in images]
    labels = read_labels(folder / "labelsTr" / images[0].name).array
    project.save_annotation(scans[0], annotate(labels, choose_slices(labels, 5)))
    before = run(job_of(method, project, steps=2))["run"]
    settings = {**FINETUNE, "rounds": [0.5], "start_below_loss": 100.0, "confidence_threshold": 0.0}
    job = FinetuneJob(
        project=str(project.root), steps=4, settings=settings, weights=before, predict_scans=tuple(scans)
    )
    after = run(job)["run"]
    run(FeaturesJob(project=str(project.root), weights=after, scans=(scans[1],)))
    for scan in scans:
        predicted = project.prediction(after, scan)
        assert predicted is not None
        assert predicted.shape == project.scans[scan].geometry.shape_zyx
        assert predicted.max() <= 2
    assert (
        open_features(project, scans[1], after).array.shape[:3] == project.scans[scans[1]].geometry.shape_zyx
    )
