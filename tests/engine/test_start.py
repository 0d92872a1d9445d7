"""What trainings and features start from: the weights that ship, random ones, a run's; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core import recipes, shipped, weights_file
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.features.similarity import open_features
from medssl.core.files import sha256_of
from medssl.core.jobs import FeaturesJob, FinetuneJob, PredictJob, PretrainJob
from medssl.core.json_files import write_json
from medssl.core.project.project import Project
from medssl.core.shipped import RANDOM, SHAPES
from medssl.nn import devices
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from medssl.tasks.plan import planner
from medssl.tasks.pretrain import pretrain
from medssl.tasks.start import load_start, load_weights, plan_from
from small import CPU, FINETUNE, SHAPE, Events, job_of, make_project, run

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1, "batch": 2}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, shape=SHAPE)


@pytest.fixture
def own_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the weights that ship, to be spoilt."""
    folder = tmp_path / "resources"
    shutil.copytree(recipes.resources() / "weights", folder / "weights")
    monkeypatch.setattr(shipped, "resources", lambda: folder)
    return folder / "weights"


def shipped_state(part: str) -> dict[str, torch.Tensor]:
    tensors, _ = checkpoint.load(shipped.weights_file())
    return checkpoint.unpack(part, tensors)


# --- what is started from ----------------------------------------------------------------------------------


def test_the_shipped_card_says_how_the_weights_are_made_again() -> None:
    card = shipped.card()
    assert card["command"].startswith("medssl pretrain --method shapes --seed ")
    assert card["step"] > 0 and card["machine"]["commit"] and card["date"] and card["scans"] == []
    assert sha256_of(shipped.weights_file()) == card["sha256"]


def test_the_shipped_weights_are_small() -> None:
    files = [*(recipes.resources() / "weights").glob("*")]
    assert sum(path.stat().st_size for path in files) < 12_000_000


def test_encoder_and_decoder_start_from_the_shipped_weights_and_the_head_does_not(project: Project) -> None:
    start = load_start(project, SHAPES)
    assert start is not None
    plan, _ = plan_from(project, list(project.scans), CPU, FIXED, start)
    network, fresh = build(plan, 2, seed=0), build(plan, 2, seed=0)
    pretrained = load_weights(network, plan, start, Events())
    wanted = shipped_state("modules.average")
    for name, tensor in network.state_dict().items():
        if name.startswith("head."):
            assert name not in pretrained and torch.equal(tensor, fresh.state_dict()[name])
        else:
            assert name in pretrained and torch.equal(tensor, wanted[name])


def test_the_plan_is_that_of_the_scans_with_the_network_of_the_weights(project: Project) -> None:
    plan, _ = plan_from(project, list(project.scans), CPU, FIXED, load_start(project, SHAPES))
    alone, _ = planner.choose(project, list(project.scans), CPU, FIXED)
    assert plan == alone  # on a CPU both are the network that fits every device


def test_a_fine_tuning_starts_from_shapes_unless_it_is_told_otherwise(project: Project) -> None:
    assert FinetuneJob("somewhere").weights == SHAPES
    events = Events()
    result = run(job_of("finetune-none", project, steps=2), events)
    assert result["run"].endswith("from-shapes")
    assert any("from shapes" in notice.text for notice in events.of(Notice))


def test_no_weights_in_an_old_job_file_are_random_weights(project: Project) -> None:
    runs = [run(job_of("finetune-none", project, steps=2, weights=each))["run"] for each in (None, RANDOM)]
    assert all(name.endswith("from-random") for name in runs)
    one, two = (checkpoint.load(project.run(name).checkpoint, "modules.network")[0] for name in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("method", "recipe", "start"), [
    ("pgl", "quick", SHAPES), ("pgl", "paper", RANDOM), ("shapes", "quick", RANDOM),
])  # fmt: skip
def test_quick_recipes_start_from_shapes_and_published_ones_from_random(
    method: str, recipe: str, start: str
) -> None:
    job = PretrainJob("somewhere", method=method, recipe=recipe)
    assert pretrain.with_weights(job).weights == start
    asked = PretrainJob("somewhere", method=method, recipe=recipe, weights="0001-pretrain-mae")
    assert pretrain.with_weights(asked) == asked


def test_a_pre_training_starts_where_its_start_stands(project: Project) -> None:
    """With a rate of nearly 0 nothing moves: what comes out is what went in."""
    settings = {**job_of("mae", project).settings, "learning_rate": 1e-12, "weight_decay": 0.0}
    result = run(job_of("mae", project, steps=1, settings=settings, weights=SHAPES))
    tensors, card = checkpoint.load(project.run(result["run"]).checkpoint)
    assert card["job"]["weights"] == SHAPES
    state, wanted = checkpoint.unpack("modules.network", tensors), shipped_state("modules.average")
    body = [name for name in state if not name.startswith("head.")]
    assert all(torch.allclose(state[name], wanted[name], atol=1e-10) for name in body)


def test_a_run_of_before_weights_shipped_goes_on_as_one_from_random_weights(project: Project) -> None:
    name = run(job_of("mae", project, steps=2, weights=RANDOM))["run"]
    stored = project.run(name)
    tensors, card = checkpoint.load(stored.checkpoint)
    old = {key: value for key, value in card["job"].items() if key != "weights"}
    checkpoint.save(stored.checkpoint, tensors, {**card, "job": old})
    write_json(stored.folder / "job.json", {**old, "project": str(project.root)})
    events = Events()
    run(PretrainJob(str(project.root), resume=name, steps=4), events)
    assert project.run(name).card["job"]["weights"] == RANDOM
    assert not any("from shapes" in notice.text for notice in events.of(Notice))


def test_features_need_no_training(project: Project) -> None:
    scan = next(iter(project.scans))
    run(FeaturesJob(str(project.root), device="cpu", weights=SHAPES, scans=(scan,)))
    cache = open_features(project, scan, SHAPES)
    assert cache.array.shape[:3] == project.image(scan).shape
    assert project.runs() == []  # nothing has been trained


def test_a_fine_tuning_of_random_weights_predicts_beside_the_shipped_ones(project: Project) -> None:
    """What was trained before weights shipped, with whatever network, goes on predicting."""
    wide = {**FINETUNE, "context": 5}
    trained = run(job_of("finetune-none", project, steps=2, weights=RANDOM, settings=wide))["run"]
    scan = next(iter(project.scans))
    run(PredictJob(str(project.root), device="cpu", weights=trained, scans=(scan,)))
    assert project.has_prediction(trained, scan)


# --- what does not fit -------------------------------------------------------------------------------------


def test_3d_says_that_it_starts_from_random_weights(project: Project) -> None:
    events = Events()
    run(job_of("finetune-3d-none", project, steps=1), events)
    said = [notice.text for notice in events.of(Notice)]
    assert any("starts from random weights" in text for text in said)


def test_other_neighbouring_slices_leave_out_only_what_reads_them(project: Project) -> None:
    start = load_start(project, SHAPES)
    assert start is not None
    plan, _ = plan_from(project, list(project.scans), CPU, {**FIXED, "context": 5}, start)
    network = build(plan, 2, seed=0)
    pretrained = load_weights(network, plan, start, Events())
    left = {name for name in network.state_dict() if name not in pretrained and not name.startswith("head.")}
    assert left and all(name.startswith("encoder.0.") for name in left)


def test_missing_weights_are_one_sentence_with_a_way_out(project: Project, own_resources: Path) -> None:
    (own_resources / "shapes.safetensors").unlink()
    with pytest.raises(UserError, match="missing") as caught:
        run(job_of("finetune-none", project, steps=1))
    assert caught.value.code == "shipped-weights" and "--weights random" in str(caught.value)
    run(job_of("finetune-none", project, steps=1, weights=RANDOM))


@pytest.mark.parametrize("spoil", ["byte", "card"])
def test_damaged_weights_are_recognised_by_their_hash(
    project: Project, own_resources: Path, spoil: str
) -> None:
    path = own_resources / "shapes.safetensors"
    if spoil == "byte":
        body = bytearray(path.read_bytes())
        body[-1000] ^= 1
        path.write_bytes(body)
    else:
        path.with_suffix(".json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        run(FeaturesJob(str(project.root), device="cpu", weights=SHAPES))
    assert caught.value.code == "shipped-weights" and "--weights random" in str(caught.value)


def test_weights_of_a_newer_version_are_refused(project: Project, own_resources: Path) -> None:
    path = own_resources / "shapes.safetensors"
    tensors, card = checkpoint.load(path)
    path.write_bytes(checkpoint.as_bytes(tensors, {**card, "format": weights_file.FORMAT + 1}))
    about = path.with_suffix(".json")
    about.write_text(json.dumps({**json.loads(about.read_text("utf-8")), "sha256": sha256_of(path)}), "utf-8")
    with pytest.raises(UserError) as caught:
        run(job_of("finetune-none", project, steps=1))
    assert caught.value.code == "newer-version"


def test_bf16_is_not_needed_to_use_the_weights(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fast_bf16", lambda device: False)
    plan, _ = plan_from(project, list(project.scans), CPU, {"threads": 1}, load_start(project, SHAPES))
    assert plan.precision == "fp32"
