"""Networks for other programs: ONNX files in agreement with ours, anonymous, and refusals in one sentence."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import sys
import zipfile
from pathlib import Path
from typing import Any

import medssl
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from channels import CHANNELS
from channels import make_project as make_channels
from filelock import FileLock
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.jobs import ExportWeightsJob
from medssl.core.labels.classes import rename_class
from medssl.core.project.elsewhere import Elsewhere, set_elsewhere
from medssl.core.project.locks import training_lock
from medssl.core.project.project import LabelClass, Project, Run
from medssl.nn.models import checkpoint
from medssl.nn.models.dynunet import dynunet_state, to_dynunet
from medssl.nn.models.unet import Network, build
from medssl.tasks.inference.predict import Trained
from medssl.tasks.weights_out import bundle
from medssl.tasks.weights_out.bundle import bundle_files
from medssl.tasks.weights_out.description import description
from monai.bundle import ConfigParser
from small import Events, job_of, make_project, plan, run, seeded
from test_migrations import FINETUNED, FORMER
from torch import Tensor
from typer.testing import CliRunner

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
"""Largest difference of a probability between onnxruntime and torch."""
Made = tuple[Project, Run]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A project in a folder with a person's name, and a network of slices."""
    project = make_project(tmp_path_factory.mktemp("jane-doe"), seeds=(0, 1), shape=(12, 24, 24), slices=6)
    return project, project.run(run(job_of("finetune", project, steps=3))["run"])


def exported(made: Made, path: Path, events: Events | None = None) -> dict[str, Any]:
    return run(ExportWeightsJob(str(made[0].root), weights=made[1].id, path=str(path)), events)


@pytest.mark.parametrize("dims", [2, 3])
def test_dynunet_has_each_weight_once_and_gives_the_same_logits(dims: int) -> None:
    small = plan(dims)
    network = build(small, 3, 0).eval()
    dynunet, state = to_dynunet(network, small), dynunet_state(network)
    assert set(state) == {name for name in dynunet.state_dict() if not name.startswith("skip_layers.")}
    image = torch.randn(2, small.in_channels, *(8, 16, 32)[-dims:], generator=seeded())
    with torch.inference_mode():
        torch.testing.assert_close(dynunet(image), network(image), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def of_windows(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A 3D network."""
    project = make_project(tmp_path_factory.mktemp("windows"), shape=(12, 24, 24), slices=6)
    return project, project.run(run(job_of("finetune-3d", project, steps=2))["run"])


@pytest.fixture(scope="module")
def of_channels(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A network that takes two images of a scan."""
    project, _ = make_channels(tmp_path_factory.mktemp("channels"))
    job = job_of("finetune-none", project, steps=2)
    return project, project.run(run(job)["run"])


@pytest.fixture(scope="module")
def of_former_version(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("former")
    with zipfile.ZipFile(FORMER) as archive:
        archive.extractall(folder)
    project = Project.open(folder)
    return project, project.run(FINETUNED)


@pytest.fixture(scope="module", params=["made", "of_windows", "of_channels", "of_former_version"])
def onnx_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """A network and its ONNX file; the job has said how far it agrees."""
    source, events = request.getfixturevalue(request.param), Events()
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    difference = exported(source, path, events)["difference"]
    assert 0 <= difference < TOLERANCE
    assert f"within {difference:.1g} of those here" in events.of(Notice)[-1].text
    return source, path


def test_onnxruntime_agrees_on_images_of_any_size(onnx_file: tuple[Made, Path]) -> None:
    (_, source), path = onnx_file
    trained = Trained.of(source.checkpoint, source.id, "cpu")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sides = (1, 7, 41)[-trained.plan.dims :]
    for batch, size in ((1, sides), (3, tuple(reversed(sides))), (1, (32,) * len(sides))):
        image = torch.randn(batch, trained.plan.in_channels, *size, generator=seeded(1))
        with torch.inference_mode():
            expected = trained.network(image).softmax(1).numpy()
        found = session.run(None, {"image": image.numpy()})[0]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < TOLERANCE


def test_the_metadata_say_how_to_feed_it(onnx_file: tuple[Made, Path]) -> None:
    (project, source), path = onnx_file
    model, card = onnx.load(path), source.card
    facts = {item.key: json.loads(item.value) for item in model.metadata_props}
    background, *classes = facts["classes"]
    assert background == {"channel": 0, "id": 0, "name": "background"}
    assert classes == [{"channel": number, **item} for number, item in enumerate(card["classes"], 1)]
    assert facts["spacing_mm"] == card["plan"]["spacing_mm"]
    batch, channels, *sides = model.graph.input[0].type.tensor_type.shape.dim
    assert channels.dim_value == len(facts["input_channels"])
    names = ["slices", "rows", "columns"][-len(sides) :]
    assert [side.dim_param for side in (batch, *sides)] == ["batch", *names]
    expected = {scan.modality for scan in project.scans.values()}
    assert {image["modality"] for image in facts["images"]} == expected
    if len(facts["images"]) == 2:
        assert [image["name"] for image in facts["images"]] == list(CHANNELS)
        assert facts["input_channels"][::3] == ["t1, slice -1", "t2, slice -1"]
    elif facts["dimensions"] == 2:
        assert facts["input_channels"] == ["image, slice -1", "image, the slice", "image, slice +1"]
        assert facts["axes_grow_towards"] == ["superior", "anterior", "right"]


def test_nothing_in_the_files_tells_of_scans_people_or_machines(onnx_file: tuple[Made, Path]) -> None:
    (project, source), path = onnx_file
    trained = Trained.of(source.checkpoint, source.id, "cpu")
    contents = {"onnx": path.read_bytes(), **bundle_files(trained, description(trained, project))}
    places = [project.root, path.parent, sys.prefix, Path(medssl.__file__).parent, Path.home()]
    secrets = ["jane-doe", *project.scans, *(scan.sha256 for scan in project.scans.values())]
    secrets += [platform.node(), *map(str, places)]
    secrets = [text for text in secrets if len(text) > 5]  # "p0" is somewhere in megabytes of numbers
    found = [(name, it) for name, body in contents.items() for it in secrets if it.encode() in body]
    assert not found
    known = source.card["classes"][0]["name"].encode()
    assert all(known in contents[name] for name in ("onnx", "configs/metadata.json", "docs/README.md"))


def refused(made: Made, path: Path, code: str, *words: str) -> None:
    """The job is refused in one sentence, and writes nothing."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        exported(made, path)
    text = str(caught.value)
    assert caught.value.code == code and "\n" not in text and text.endswith(".")
    assert all(word in text for word in words), text
    assert sorted(path.parent.rglob("*")) == before


def test_a_name_that_is_taken_or_says_another_format_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "taken.onnx").touch()
    (tmp_path / "bundle").mkdir()
    refused(made, tmp_path / "taken.onnx", "exists", "taken.onnx")
    refused(made, tmp_path / "bundle", "exists", "bundle")
    refused(made, tmp_path / "network.pt", "unsupported", ".onnx", "bundle")
    refused(made, tmp_path / "taken.onnx" / "below.onnx", "not-writable")


def test_runs_that_cannot_leave_are_refused(made: Made, tmp_path: Path) -> None:
    project, finetuned = made
    pretrained = project.run(run(job_of("pgl", project, steps=2))["run"])
    refused((project, pretrained), tmp_path / "a.onnx", "not-finetuned", pretrained.id)
    refused((project, project.run("shapes")), tmp_path / "a.onnx", "not-finetuned", "shapes")
    with training_lock(finetuned.folder):
        refused(made, tmp_path / "a.onnx", "locked")
    unfinished = project.new_run("finetune", finetuned.job, "unfinished")
    refused((project, unfinished), tmp_path / "a.onnx", "no-checkpoint")
    missing = Run("0099-finetune-x", "finetune", tmp_path, {})
    refused((project, missing), tmp_path / "a.onnx", "no-run", "0099-finetune-x")


def test_a_run_that_another_computer_trains_does_not_leave(made: Made, tmp_path: Path) -> None:
    set_elsewhere(made[1], Elsewhere("gpu1", "0" * 32))
    try:
        refused(made, tmp_path / "bundle", "elsewhere", "gpu1")
    finally:
        set_elsewhere(made[1], None)


def test_weights_leave_a_project_that_may_only_be_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(FileLock, "acquire", fail)
    exported(made, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "models").is_dir()


def test_a_name_that_is_too_long_is_refused(made: Made, tmp_path: Path) -> None:
    refused(made, tmp_path / ("a" * 300), "not-writable", "a shorter name")


def test_a_class_leaves_under_the_name_that_it_has_now(made: Made) -> None:
    project, source = made
    trained = Trained.of(source.checkpoint, source.id, "cpu")
    rename_class(project, 1, "liver")
    try:
        facts = description(trained, project)
    finally:
        rename_class(project, 1, "block")
    assert facts["classes"][1] == {"channel": 1, "id": 1, "name": "liver"}
    project.set_classes([LabelClass(2, "other", "#00ff00")])
    try:
        assert description(trained, project)["classes"][1]["name"] == "block"
    finally:
        project.set_classes([LabelClass(1, "block", "#ff0000")])


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_not_installed_is_named_with_the_command(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    refused(made, tmp_path / "a.onnx", "no-onnx", f"needs {name};", 'pip install "napari-medssl[onnx]"')


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("network.onnx", errno.ENOSPC, "disk-full"),
        ("bundle", errno.ENOSPC, "disk-full"),
        ("bundle", errno.EIO, "not-writable"),
    ],
)
def test_a_disk_that_fails_leaves_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    refused(made, tmp_path / name, code, str(tmp_path / name))


@pytest.mark.parametrize("error", [0.1, math.nan])
def test_what_computes_something_else_is_not_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    def shifted(network: Network) -> dict[str, Tensor]:
        return {name: weight + error for name, weight in dynunet_state(network).items()}

    monkeypatch.setattr(bundle, "dynunet_state", shifted)
    refused(made, tmp_path / "bundle", "disagree")


def test_one_normalisation_for_ct_and_other_scans_is_said(made: Made, tmp_path: Path) -> None:
    project, source = made
    tensors, card = checkpoint.load(source.checkpoint)
    mixed = project.new_run("finetune", source.job, "mixed")
    card["training_data"]["modalities"] = ["ct", "mr"]
    checkpoint.save(mixed.checkpoint, tensors, {**card, "run": mixed.id})
    events = Events()
    exported((project, mixed), tmp_path / "bundle", events)
    assert any("normalises all scans as CT" in event.text for event in events.of(Notice))
    exported(made, tmp_path / "other", events := Events())
    assert not any("normalises" in event.text for event in events.of(Notice))


def test_a_name_that_monai_would_execute_is_a_text(made: Made) -> None:
    trained = Trained.of(made[1].checkpoint, made[1].id, "cpu")
    facts = description(trained, made[0])
    facts["classes"][1]["name"] = "$1 / 0"
    files = bundle_files(trained, facts)
    parser = ConfigParser()
    parser.read_meta(json.loads(files["configs/metadata.json"]))
    meta = parser.get_parsed_content("_meta_")
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] == " $1 / 0"
    with pytest.raises(RuntimeError):
        ConfigParser({"name": "$1 / 0"}).get_parsed_content("name")


def test_the_command_writes_and_says_the_difference(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "bundle"
    arguments = ["export-weights", str(made[0].root), "--weights", made[1].id[:4], "--out", str(path)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(path) and path.is_dir()
    assert "its scores are within" in result.stderr
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, UserError) and again.exception.code == "exists"
