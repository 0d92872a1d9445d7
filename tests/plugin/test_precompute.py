"""Features of the scan that is opened, computed by themselves with the weights that ship: when, when not, and
how quietly. A script is the engine, but for one test."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core import shipped
from medssl.core.features.similarity import open_features, write_features
from medssl.core.files import sha256_of
from medssl.core.jobs import FeaturesJob, SuggestJob, kind_of
from medssl.core.project.project import Project
from napari.components import ViewerModel
from user_simulation import open_and_wait

from napari_medssl import layers
from napari_medssl.engine import child_process, precompute
from napari_medssl.engine.precompute import Precompute
from napari_medssl.explore import instant_preview
from napari_medssl.model import job_state
from napari_medssl.model.session import FIRST_CLASS
from napari_medssl.widgets import Dock, features
from napari_medssl.widgets.finetune import SHAPES_NAME

SHAPE = (10, 16, 18)
PATIENCE = 60_000
ENGINE = """
import os, sys, time
from pathlib import Path
import numpy as np
from medssl.core import jobs, events
from medssl.core.features.similarity import write_features
from medssl.core.project.project import Project

path = sys.argv[-1]
if path == "-":  # started ahead
    path = sys.stdin.readline().removeprefix("job ").strip()
    if not path or path == "stop":
        sys.exit()
job = jobs.read_job(Path(path))
project = Project.open(Path(job.project))
kind = jobs.kind_of(job)
with (project.root / "asked").open("a") as asked, (project.root / "pid").open("a") as pid:
    pid.write(f"{{os.getpid()}}\\n")
    asked.write(" ".join([kind, getattr(job, "weights", None) or "", *getattr(job, "scans", ())]) + "\\n")
def say(event):
    print(events.to_line(event), flush=True)
say(events.Started(""))
if kind == "features":
    {computing}
    for scan in job.scans:
        cells = [length // 2 for length in project.scans[scan].geometry.shape_zyx]
        vectors = np.random.default_rng(0).normal(size=(*cells, 8))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        write_features(project, scan, job.weights, vectors.astype(np.float16), (2, 2, 2))
        say(events.Preview(scan, ""))
say(events.Done())
"""
QUICK = "pass"
SLOW = "time.sleep(600)"
FAILS = "say(events.Failed('memory', 'There is too little memory.')); sys.exit(1)"
DIES = "os.kill(os.getpid(), 11)"
WAITS = "while not (project.root / 'go').exists(): time.sleep(0.02)"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two scans."""
    made = Project.create(tmp_path / "project", (FIRST_CLASS,))
    for number, name in enumerate("ab"):
        values = np.random.default_rng(number).normal(size=SHAPE[::-1]).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 3, 1])), tmp_path / f"{name}.nii")
        made.add_scan(tmp_path / f"{name}.nii")
    return made


@pytest.fixture
def make(qtbot, said, project, tmp_path, no_precompute, monkeypatch):
    """Makes a dock on the project's first scan; its engine computes as the line says."""
    monkeypatch.setattr(Precompute, "on", True)

    def with_engine(computing: str = QUICK, show: bool = True) -> Dock:
        script = tmp_path / "engine.py"
        script.write_text(ENGINE.format(computing=computing))
        made = Dock(ViewerModel(), command=(sys.executable, "-u", str(script)))
        qtbot.addWidget(made)
        made.show()
        if show:
            open_and_wait(made, project.root)
        return made

    return with_engine


def asked(project: Project) -> list[str]:
    path = project.root / "asked"
    return path.read_text().splitlines() if path.exists() else []


def ready(dock: Dock) -> bool:
    return dock.session.features_valid("shapes") and not dock.features.precompute.scan


def rest(qtbot) -> None:
    """Longer than it waits before it starts."""
    qtbot.wait(1000)


def test_opening_a_scan_computes_its_features_and_nothing_of_it_is_seen(make, qtbot, project, said):
    dock = make(WAITS)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    assert dock.features.status.text() == features.FEATURES_PENDING and dock.features.summary() == "computing"
    assert dock.session.job == job_state.JobState() and not dock.features.panel.isVisibleTo(dock.features)
    assert [step.isExpanded() for step in dock.steps] == [True] + [False] * 5
    assert dock.pretrain.start.isEnabled() and dock.features.compute_all.isEnabled()
    assert not dock.features.compute.isEnabled(), "that is what is being done"
    (project.root / "go").touch()
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    assert dock.features.summary() == "ready" and dock.features.status.text() == features.READY and not said
    assert dock.features.follow.isEnabled() and dock.features.compute.isEnabled()
    assert not project.runs() and dock.session.job == job_state.JobState()
    rest(qtbot)
    assert asked(project) == ["features shapes a"]


def test_features_that_are_there_are_not_computed_again(make, qtbot, project):
    dock = make()
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    for scan in "bab":
        dock.workspace.scan_loader.open(scan)
        qtbot.waitUntil(lambda scan=scan: dock.session.scan == scan and ready(dock), timeout=PATIENCE)
    assert asked(project) == ["features shapes a", "features shapes b"]
    again = make()
    rest(qtbot)
    assert ready(again) and len(asked(project)) == 2


def test_features_of_earlier_weights_of_the_program_are_computed_again(make, qtbot, project):
    write_features(project, "a", "shapes", np.ones((5, 8, 9, 1), np.float16), (2, 2, 2))
    about = project.root / "features" / "a-shapes.json"
    known = json.loads(about.read_text())
    about.write_text(json.dumps({**known, "weights": "of last year"}))
    dock = make()
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    assert asked(project) == ["features shapes a"]


def test_a_job_goes_before_and_the_features_come_after_it(make, qtbot, project, said):
    dock = make(SLOW)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    child = dock.background_jobs.child
    Path(dock.jobs._command[-1]).write_text(ENGINE.format(computing=QUICK))
    dock.pretrain.start.click()
    assert dock.background_jobs.child is None and not dock.features.precompute.scan
    qtbot.waitUntil(lambda: child not in child_process._running, timeout=PATIENCE)
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    assert asked(project) == ["features shapes a", "pretrain ", "features shapes a"]
    assert (dock.session.job.kind, dock.session.job.phase) == ("pretrain", "Finished") and not said


def test_nothing_starts_while_a_job_runs(make, qtbot, project):
    dock = make(SLOW)
    dock.features.compute.setEnabled(True)
    dock.features.start()
    assert dock.session.job.running
    dock.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: dock.session.scan == "b", timeout=PATIENCE)
    rest(qtbot)
    assert dock.background_jobs.child is None and set(asked(project)) <= {"features shapes a"}
    dock.jobs.stop()
    dock.jobs.stop()
    qtbot.waitUntil(lambda: asked(project)[-1:] == ["features shapes b"], timeout=PATIENCE)


def test_another_scan_takes_the_place_of_the_one_that_is_computed(make, qtbot, project):
    dock = make(SLOW)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    Path(dock.jobs._command[-1]).write_text(ENGINE.format(computing=QUICK))
    dock.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: dock.session.scan == "b" and ready(dock), timeout=PATIENCE)
    assert asked(project) == ["features shapes a", "features shapes b"]


def test_a_scan_that_has_features_lets_the_one_before_be_finished(make, qtbot, project):
    write_features(project, "b", "shapes", np.ones((5, 8, 9, 1), np.float16), (2, 2, 2))
    dock = make(WAITS)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    dock.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: dock.session.scan == "b", timeout=PATIENCE)
    assert dock.features.status.text() == features.READY and dock.features.summary() == "ready"
    (project.root / "go").touch()
    qtbot.waitUntil(lambda: not dock.features.precompute.scan, timeout=PATIENCE)
    assert open_features(project, "a", "shapes")


def test_whoever_chose_other_weights_gets_no_features_of_these(make, qtbot, project):
    run = project.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(b"weights")
    dock = make(SLOW)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    box = dock.features.weights

    def choose(name: str) -> None:
        box.setCurrentIndex(box.findText(name))
        box.activated.emit(box.currentIndex())

    choose("PGL pre-training (run 1)")
    assert dock.background_jobs.child is None, "what nobody wants any more is ended"
    dock.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: dock.session.scan == "b", timeout=PATIENCE)
    rest(qtbot)
    assert asked(project) == ["features shapes a"] and dock.features.compute.isEnabled()
    choose(SHAPES_NAME)
    qtbot.waitUntil(lambda: asked(project)[1:] == ["features shapes b"], timeout=PATIENCE)


def test_a_window_that_may_only_look_computes_nothing(make, qtbot, project):
    first = make()
    qtbot.waitUntil(lambda: ready(first), timeout=PATIENCE)
    second = make()
    assert second.session.read_only
    second.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: second.session.scan == "b", timeout=PATIENCE)
    rest(qtbot)
    assert asked(project) == ["features shapes a"] and not second.features.precompute.scan
    assert second.features.status.text() == features.NO_FEATURES, "it does not promise any"


@pytest.mark.parametrize(("computing", "words"), [(FAILS, "too little memory"), (DIES, "signal 11")])
def test_a_failure_is_one_sentence_and_not_repeated(make, qtbot, project, said, computing, words):
    dock = make(computing)
    qtbot.waitUntil(lambda: bool(said), timeout=PATIENCE)
    rest(qtbot)
    for scan in "ba":
        dock.workspace.scan_loader.open(scan)
        qtbot.waitUntil(lambda scan=scan: dock.session.scan == scan, timeout=PATIENCE)
        rest(qtbot)
        qtbot.waitUntil(lambda: not dock.features.precompute.scan, timeout=PATIENCE)
    assert asked(project) == ["features shapes a", "features shapes b"], "each scan once"
    ((severity, text),) = said
    assert severity == "warning" and words in text
    assert not dock.session.job.kind and dock.features.compute.isEnabled(), "the button is still there"


@pytest.fixture
def resources(tmp_path, monkeypatch) -> Path:
    """A copy of the weights that ship, to be damaged."""
    folder = tmp_path / "resources" / "weights"
    folder.mkdir(parents=True)
    for path in shipped.weights_file().parent.iterdir():
        shutil.copy(path, folder)
    monkeypatch.setattr(shipped, "resources", lambda: tmp_path / "resources")
    return folder


def _missing(folder: Path) -> None:
    (folder / "shapes.safetensors").unlink()


def _damaged(folder: Path) -> None:
    (folder / "shapes.safetensors").write_bytes(b"no weights")


def _without_card(folder: Path) -> None:
    (folder / "shapes.json").write_text("{}")


def _collapsed(folder: Path) -> None:
    card = {"sha256": sha256_of(folder / "shapes.safetensors"), "collapse_report": {"collapsed": True}}
    (folder / "shapes.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(_missing, "missing"), (_damaged, "damaged"), (_without_card, "missing"), (_collapsed, "collapsed")],
)
def test_weights_of_no_use_are_one_sentence_and_no_engine(
    make, qtbot, project, said, resources, spoil, words
):
    spoil(resources)
    dock = make()
    qtbot.waitUntil(lambda: bool(said), timeout=PATIENCE)
    dock.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: dock.session.scan == "b", timeout=PATIENCE)
    rest(qtbot)
    ((severity, text),) = said
    assert severity == "warning" and words in text and "weights" in text
    assert not asked(project) and dock.session.scan == "b" and not dock.session.job.kind


def test_a_click_that_comes_before_the_features_is_answered_with_them(make, qtbot, project, said):
    dock = make(WAITS)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    dock.steps[5].expand()
    dock.features.follow.click()
    dock.features.similarity.click((5, 9, 11))
    assert layers.find(dock.viewer.layers, layers.SIMILARITY) is None
    (project.root / "go").touch()
    qtbot.waitUntil(lambda: "a" in dock.features.similarity.matches, timeout=PATIENCE)
    assert layers.find(dock.viewer.layers, layers.SIMILARITY).visible and not said


def test_the_instant_preview_waits_for_them(make, qtbot, project):
    dock = make(WAITS)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    dock.annotate.new.click()
    dock.preview.toggle()
    assert dock.preview.status.text() == instant_preview.FEATURES_PENDING
    (project.root / "go").touch()
    qtbot.waitUntil(lambda: "two classes" in dock.preview.status.text(), timeout=PATIENCE)
    box = dock.features.weights
    run = project.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(b"weights")
    dock.session.reload_runs()
    box.setCurrentIndex(1)
    box.activated.emit(1)
    dock.preview.preview.ask()
    assert dock.preview.status.text() == instant_preview.OTHER_WEIGHTS
    dock.preview.toggle()


def test_estimates_and_features_take_turns(make, qtbot, project):
    dock = make(WAITS)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    dock.steps[2].toggleButton().click()
    rest(qtbot)
    assert dock.estimates.measuring and asked(project) == ["features shapes a"]
    (project.root / "go").touch()
    qtbot.waitUntil(lambda: asked(project)[1:] == ["estimate "], timeout=PATIENCE)
    assert ready(dock)


def test_background_jobs_take_turns_and_all_end_with_a_job(make, qtbot, project):
    dock = make(SLOW, show=False)
    dock.features.precompute.on = False
    open_and_wait(dock, project.root)
    ends: list[tuple[str, str, str]] = []
    root = str(project.root)
    for job in (FeaturesJob(root, weights="shapes", scans=("a",)), SuggestJob(root), SuggestJob(root)):
        dock.background_jobs.start(job, lambda *how, kind=kind_of(job): ends.append((kind, *how)))
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    dock.pretrain.start.click()
    assert ends == [("suggest", "stopped", ""), ("features", "stopped", "")]
    assert dock.background_jobs.child is None
    qtbot.waitUntil(lambda: not dock.session.job.running, timeout=PATIENCE)
    assert asked(project) == ["features shapes a", "pretrain "]


def test_a_dock_that_goes_takes_its_engine_along(make, qtbot, project):
    dock = make(SLOW)
    qtbot.waitUntil(lambda: asked(project) == ["features shapes a"], timeout=PATIENCE)
    child = dock.background_jobs.child
    dock.background_jobs.start(SuggestJob(str(project.root)), lambda *how: None)
    dock._leave()
    assert dock.background_jobs.child is None, "nor does the next one start"
    qtbot.waitUntil(lambda: child not in child_process._running, timeout=PATIENCE)


# --- an engine that is started ahead of the first scan ------------------------------------------------


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(child_process.StandbyEngine, "on", True)


def test_an_engine_starts_while_the_first_scan_is_being_read(make, qtbot, project, tmp_path, ahead, said):
    dock = make(show=False)
    dock.open(project.root)
    waiting = dock.jobs.standby._child
    assert dock.session.scan is None and waiting is not None
    qtbot.waitUntil(lambda: waiting.process_id() > 0, timeout=PATIENCE)
    process = waiting.process_id()
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    assert (project.root / "pid").read_text() == f"{process}\n" and dock.jobs.standby._child is None
    assert asked(project) == ["features shapes a"] and not said
    dock.workspace.scan_loader.open("b")
    qtbot.waitUntil(lambda: dock.session.scan == "b" and ready(dock), timeout=PATIENCE)
    dock._leave()
    again = make(show=False)
    again.open(project.root)
    assert again.jobs.standby._child is None, "nothing is to be computed"


def test_an_engine_starts_with_the_dock_and_waits_for_the_first_project(make, qtbot, project, ahead, said):
    dock = make(show=False)
    qtbot.waitUntil(lambda: dock.jobs.standby._child is not None, timeout=PATIENCE)
    waiting = dock.jobs.standby._child
    assert dock.session.project is None
    qtbot.waitUntil(lambda: waiting.process_id() > 0, timeout=PATIENCE)
    process = waiting.process_id()
    dock.open(project.root)
    assert dock.jobs.standby._child is waiting
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    assert (project.root / "pid").read_text() == f"{process}\n" and dock.jobs.standby._child is None
    assert not said


def test_an_engine_that_is_started_ahead_takes_a_job_that_comes_before(make, qtbot, project, ahead, said):
    dock = make(show=False)
    dock.open(project.root)
    waiting = dock.jobs.standby._child
    dock.session.select("a")
    dock.pretrain.start.click()
    assert dock.jobs._child is waiting
    qtbot.waitUntil(lambda: ready(dock), timeout=PATIENCE)
    assert asked(project) == ["pretrain ", "features shapes a"] and not said


def test_no_engine_waits_for_long_or_in_a_read_only_window(
    make, qtbot, project, tmp_path, ahead, monkeypatch
):
    first = make()
    qtbot.waitUntil(lambda: ready(first), timeout=PATIENCE)
    (project.root / "features" / "a-shapes.json").unlink()
    second = make(show=False)
    second.open(project.root)
    assert second.session.read_only and second.jobs.standby._child is None
    monkeypatch.setattr(precompute, "MAX_STANDBY_MS", 300)
    third = make(show=False)
    third.session.open(tmp_path / "empty")
    waiting = third.jobs.standby._child
    assert waiting is not None
    qtbot.waitUntil(lambda: waiting not in child_process._running, timeout=PATIENCE)
    assert third.jobs.standby._child is None


def test_the_real_engine_leads_to_a_map(qtbot, said, project, no_precompute, ahead, monkeypatch):
    """From an opened scan to a similarity map, nothing trained, by the child that users get."""
    monkeypatch.setattr(Precompute, "on", True)
    dock = Dock(ViewerModel())
    qtbot.addWidget(dock)
    open_and_wait(dock, project.root)
    qtbot.waitUntil(lambda: ready(dock), timeout=300_000)
    cache = open_features(project, "a", "shapes")
    assert np.allclose(np.linalg.norm(cache.array.astype(np.float32), axis=-1), 1, atol=0.01)
    dock.features.follow.click()
    dock.features.similarity.click((5, 9, 11))
    qtbot.waitUntil(lambda: "a" in dock.features.similarity.matches, timeout=PATIENCE)
    match = dock.features.similarity.matches["a"]
    assert match.score > 0.99 and layers.find(dock.viewer.layers, layers.SIMILARITY).visible
    assert not said and not project.runs() and not (project.root / "runs" / "shapes" / "job.json").exists()
    qtbot.waitUntil(lambda: dock.background_jobs.child is None, timeout=PATIENCE)
