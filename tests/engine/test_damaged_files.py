"""Whatever happened to a file of ours, reading it gives what it says or one sentence, never a traceback."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from medssl.core import events, recipes
from medssl.core.errors import UserError
from medssl.core.estimate import Estimate, load, save
from medssl.core.export.files import export_scan
from medssl.core.features.landmarks import Landmark, Landmarks, read_landmarks, write_landmarks
from medssl.core.features.similarity import open_features
from medssl.core.jobs import FeaturesJob, Plan, from_json, read_job, to_json
from medssl.core.labels.postprocess import Postprocessing, postprocessing_of, save_cleaned
from medssl.core.project.project import Project, ViewState
from medssl.nn.models import checkpoint
from medssl.tasks.active_learning.suggest import newest_weights
from medssl.tasks.inference.predict import Trained
from medssl.tasks.plan import step_times
from medssl.tasks.start import load_for, load_weights
from small import CPU, Events, job_of, make_project, never, plan, run

WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**400, float("inf"), "x", "\ud800", [], ["x"], {}, {"x": 1}, [[1]],
)  # fmt: skip
SOME = 9
"""Every ninth damage where each takes a file of weights to be written and read."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a pre-training, a fine-tuning with its prediction, features and landmarks."""
    project = make_project(tmp_path_factory.mktemp("made"), shape=(12, 24, 24))
    scan = next(iter(project.scans))
    pretrained = run(job_of("pgl", project))["run"]
    tuned = run(job_of("finetune-none", project, weights=pretrained, predict_scans=(scan,)))["run"]
    run(FeaturesJob(str(project.root), weights=tuned, scans=(scan,), device="cpu"))
    labels = project.prediction(tuned, scan)
    assert labels is not None
    save_cleaned(project, tuned, scan, Postprocessing(largest=True), labels)
    write_landmarks(project, Landmarks((Landmark("tip", scan, (1, 2, 3)),)))
    save(project, job_of("pgl", project), Estimate(1.0, 1.0, 0.5, 0.0, 1, 1, "cpu", 1, "fp32"))
    step_times.remember_threads(project.root, plan(), 1)
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "project")
    return Project.open(tmp_path / "project")


def damaged(value: Any) -> Iterator[Any]:
    """The value with each of its parts dropped, and replaced by what does not belong there."""

    def places(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for name, part in parts:
            yield from places(part, (*path, name))

    for path in places(value, ()):
        if not path:
            yield from WRONG
            continue
        for wrong in (*WRONG, ...):
            other = copy.deepcopy(value)
            within = other
            for name in path[:-1]:
                within = within[name]
            if wrong is ...:
                del within[path[-1]]
            else:
                within[path[-1]] = wrong
            yield other


def cut(text: bytes) -> Iterator[bytes]:
    """The text ending too early, and with a byte that is no text."""
    for end in {0, 1, len(text) // 3, len(text) // 2, len(text) - 3}:
        yield text[:end]
    yield text[: len(text) // 2] + b"\xff\x00" + text[len(text) // 2 :]


def survives(read: Callable[[], object]) -> bool:
    """Whether it could be read; a refusal has to be one sentence."""
    try:
        read()
    except UserError as error:
        assert "\n" not in str(error) and str(error).rstrip().endswith("."), str(error)
        return False
    return True


def fuzz(path: Path, *reads: Callable[[], object]) -> int:
    """Damage a JSON file in all ways, and read it after each; returns how often a reader refused."""
    whole = path.read_bytes()
    assert all(survives(read) for read in reads)
    texts = [*cut(whole), *(json.dumps(each).encode() for each in damaged(json.loads(whole)))]
    refused = 0
    for text in texts:
        path.write_bytes(text)
        refused += sum(not survives(read) for read in reads)
    path.write_bytes(whole)
    return refused


def test_a_damaged_project_file(project: Project) -> None:
    def everything() -> None:
        opened = Project.open(project.root)
        for scan in opened.scans:
            opened.image(scan)
            opened.annotation(scan)
        opened.runs()

    assert fuzz(project.root / "project.json", everything) > 300


def test_a_damaged_job_file(project: Project) -> None:
    tuned = project.runs("finetune")[0]

    def listed() -> None:
        for each in project.runs():
            str(each.job.get("method", "")).upper()

    assert fuzz(tuned.folder / "job.json", lambda: read_job(tuned.folder / "job.json"), listed) > 100


def test_a_damaged_job_file_of_a_run_that_goes_on(project: Project) -> None:
    tuned = project.runs("finetune")[0]
    job = job_of("finetune-none", project, resume=tuned.id)
    path = tuned.folder / "job.json"
    whole = json.loads(path.read_text())
    for name in ("settings", "semi_supervised", "weights", "steps", "recipe"):
        for wrong in ([3], "x"):
            path.write_text(json.dumps({**whole, name: wrong}))
            survives(lambda: run(job))


def test_a_damaged_card(project: Project) -> None:
    tuned = project.runs("finetune")[0]
    scan = next(iter(project.scans))
    reads = (
        lambda: newest_weights(project),
        lambda: project.run(tuned.id).collapse_report,
        lambda: export_scan(project, scan, tuned.id, project.root / "out.nii.gz", Postprocessing()),
    )
    assert fuzz(tuned.folder / "card.json", *reads) > 50


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_damaged_card_inside_the_weights(project: Project, kind: str) -> None:
    whole = project.runs(kind)[0]
    network, of, _ = load_for(project, whole, CPU)
    tensors, card = checkpoint.load(whole.checkpoint)

    def begin() -> None:
        load_weights(network, of, checkpoint.load(whole.checkpoint), Events())

    refused = 0
    card = {name: part for name, part in card.items() if name not in ("health", "settings")}
    for each in list(damaged(card))[::SOME]:
        if not isinstance(each, dict):
            continue  # save makes a dictionary of it
        body = checkpoint.as_bytes(tensors, each)
        whole.checkpoint.write_bytes(body)
        reads = (
            lambda: load_for(project, whole, CPU),
            begin,
            lambda: Trained.of(whole.checkpoint, "it", "cpu"),
        )
        refused += sum(not survives(read) for read in reads)
    assert refused > 200 / SOME


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", ["plan", "job", "step", "elapsed_s", "classes", "method"])
def test_a_training_whose_card_lacks_something_goes_on_or_says_so(
    project: Project, kind: str, name: str
) -> None:
    whole = project.runs(kind)[0]
    tensors, card = checkpoint.load(whole.checkpoint)
    card.pop(name, None)
    checkpoint.save(whole.checkpoint, tensors, card)
    job = job_of("pgl" if kind == "pretrain" else "finetune-none", project, resume=whole.id)
    went_on = survives(lambda: run(job, should_stop=never))
    assert went_on == ((kind, name) in {("pretrain", "classes"), ("finetune", "method")})


def test_a_damaged_plan() -> None:
    refused = sum(
        not survives(lambda each=each: from_json(Plan, each, "the plan")) for each in damaged(to_json(plan()))
    )
    assert refused > 100


def test_what_is_kept_to_save_time_is_made_anew(project: Project) -> None:
    root, scan = project.root, next(iter(project.scans))
    tuned = project.runs("finetune")[0].id
    job = job_of("pgl", project)
    about = next((root / "features").glob("*.json"))
    cleaned = next(each for each in root.rglob("*.json") if "prediction_sha256" in each.read_text())
    project.save_view_state(ViewState(scan, {scan: (0, 3)}))
    assert fuzz(root / "view-state.json", lambda: Project.open(root)) == 0
    assert fuzz(root / "estimates.json", lambda: load(project, job)) == 0
    assert fuzz(step_times.file_of(root), lambda: step_times.known_threads(root, plan())) == 0
    assert fuzz(cleaned, lambda: postprocessing_of(project, tuned, scan)) == 0
    assert fuzz(about, lambda: open_features(project, scan, tuned)) > 10


def test_damaged_landmarks(project: Project) -> None:
    assert fuzz(project.root / "landmarks.json", lambda: read_landmarks(project)) > 30


SAID = (
    events.Started("0001-pretrain-pgl", {"dims": 2}, ["why"]),
    events.Progress("training", 0.5, 3, 1.0),
    events.Metric(3, {"loss": 0.5}),
    events.SlicePreview("a", 0, 3, (4, 4), "eJw="),
    events.Done(True, {"run": "0001"}),
    events.Failed("memory", "Too little."),
)


@pytest.mark.parametrize("event", SAID, ids=lambda event: type(event).__name__)
def test_a_damaged_line_of_events(event: events.Event) -> None:
    line = events.to_line(event)
    assert events.from_line(line) == event
    lines = [json.dumps(each) for each in damaged(json.loads(line))] + [
        line[:end] for end in range(len(line))
    ]
    refused = sum(not survives(lambda text=text: events.from_line(text)) for text in lines)
    assert refused > len(lines) / 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "purpose =",
        "purpose = 3\n[loop]\nx = 1",
        "loop = 3\npurpose = 'a'",
        "[loop]\n",
        "purpose='a'\nmethods=1",
    ],
)
def test_a_damaged_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "pgl-quick.toml").write_text(text)
    monkeypatch.setattr(recipes, "resources", lambda: tmp_path)
    assert not survives(lambda: recipes.read("pgl-quick"))
