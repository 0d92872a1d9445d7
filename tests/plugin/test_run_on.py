"""Where trainings run: the choice in steps 3 and 4, what is started, left and taken up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from loopback_sshd import HOST, Server
from medssl.core import events
from medssl.core.jobs import FeaturesJob, FinetuneJob, PredictJob
from medssl.core.project.elsewhere import Elsewhere, elsewhere, set_elsewhere
from medssl.core.project.project import Project
from napari.components import ViewerModel
from user_simulation import open_and_wait, wait_until

from napari_medssl.engine import child_process
from napari_medssl.model import preferences, run_host
from napari_medssl.widgets import Dock
from napari_medssl.widgets.messages import RESEARCH_USE
from napari_medssl.widgets.run_on import HERE

ENGINE = """
import sys
from pathlib import Path
folder = Path(sys.argv[-1]).parent
(folder / "arguments").write_text(" ".join(sys.argv[1:-1]))
print('{"event":"notice","text":"ready"}', flush=True)
lines = iter(sys.stdin.readline, "")
(folder / "said").write_text(next((line for line in lines if not line.startswith("show")), ""))
print('{"event":"done","stopped":true}', flush=True)
"""


@pytest.fixture
def hosts(monkeypatch) -> None:
    """An ssh configuration with two hosts."""
    monkeypatch.setattr(run_host, "ssh_hosts", lambda: ("gpu1", "gpu2"))


@pytest.fixture
def open_dock(qtbot, said, project: Project, tmp_path: Path):
    """Opens docks with the project, whose engine says what it was started with."""
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)
    made: list[Dock] = []

    def open_one(command: tuple[str, ...] = (sys.executable, "-u", str(script))) -> Dock:
        dock = Dock(ViewerModel(), command)
        qtbot.addWidget(dock)
        dock.show()
        open_and_wait(dock, project.root)
        made.append(dock)
        return dock

    yield open_one
    for dock in made:
        dock._leave()


def ready(dock: Dock) -> None:
    wait_until(lambda: "ready" in dock.session.job.notices, 20, "the engine")


def test_without_hosts_there_is_nothing_to_choose(open_dock):
    dock = open_dock()
    for step in (dock.pretrain, dock.finetune):
        assert step.run_on.parent() is None
        assert not step.run_on.isVisible()


def test_the_choice_is_the_same_in_both_steps_and_is_kept(hosts, open_dock):
    dock = open_dock()
    box = dock.pretrain.run_on
    assert [box.itemText(number) for number in range(box.count())] == [HERE, "gpu1", "gpu2"]
    assert box.parent() is dock.pretrain
    box.setCurrentText("gpu2")
    assert dock.finetune.run_on.currentText() == "gpu2"
    again = open_dock()
    assert again.pretrain.run_on.currentText() == "gpu2"
    for line in (dock.feedback.job_line, again.feedback.job_line):
        assert "run on gpu2" in line.text()
    box.setCurrentText(HERE)
    assert dock.feedback.job_line.text() == RESEARCH_USE


def test_a_host_that_is_no_longer_configured_is_not_chosen(hosts, open_dock, monkeypatch):
    preferences.set_number("brush_mm", 3.0)
    open_dock().pretrain.run_on.setCurrentText("gpu2")
    monkeypatch.setattr(run_host, "ssh_hosts", lambda: ("gpu1",))
    assert open_dock().jobs.host.chosen == ""
    assert preferences.number("brush_mm") == 3.0


def test_trainings_and_predictions_run_there_and_features_here(hosts, open_dock, project):
    dock, root = open_dock(), str(project.root)
    dock.finetune.run_on.setCurrentText("gpu1")
    for job, arguments in (
        (FinetuneJob(root), "--on gpu1"),
        (PredictJob(root, weights="0001-finetune-x"), "--on gpu1"),
        (FeaturesJob(root, weights="shapes"), ""),
    ):
        dock.jobs.start(job)
        ready(dock)
        assert (project.root / "arguments").read_text() == arguments
        assert not dock.finetune.run_on.isEnabled()
        dock.jobs.stop()
        wait_until(lambda: not dock.session.job.running, 20, "the end")
        assert (project.root / "said").read_text() == "stop\n"
    assert dock.finetune.run_on.isEnabled()


def test_continue_goes_on_where_the_run_is(hosts, open_dock, project):
    run = project.new_run("finetune", {"job": "finetune", "project": ""}, "from-shapes")
    run.checkpoint.write_bytes(b"weights")
    set_elsewhere(run, Elsewhere("gpu2", "0" * 32))
    dock = open_dock()
    dock.finetune.resume.click()
    ready(dock)
    assert (project.root / "arguments").read_text() == "--on gpu2"
    dock.jobs.stop()
    wait_until(lambda: not dock.session.job.running, 20, "the end")


def test_estimates_are_of_this_computer(hosts, open_dock):
    dock = open_dock()
    dock.steps[2].expand()
    dock.pretrain.run_on.setCurrentText("gpu1")
    assert "gpu1" in dock.pretrain.estimate.text()
    assert not dock.estimates.measuring
    dock.pretrain.run_on.setCurrentText(HERE)
    assert "gpu1" not in dock.pretrain.estimate.text()
    assert dock.estimates.measuring


def test_no_engine_is_started_ahead_of_a_job_of_another_computer(hosts, open_dock, monkeypatch):
    monkeypatch.setattr(child_process.StandbyEngine, "on", True)
    dock = open_dock()
    dock.pretrain.run_on.setCurrentText("gpu1")
    dock.workspace.new_annotation()
    dock.workspace.annotation_layer.paint((3, 4, 5), 1)
    assert dock.jobs.standby.take() is None
    dock.pretrain.run_on.setCurrentText(HERE)
    dock.workspace.annotation_layer.paint((3, 5, 6), 1)
    wait_until(lambda: dock.jobs.standby._child is not None, 20, "an engine")


def test_what_is_sent_or_received_is_not_taken_for_the_share_of_the_training(hosts, open_dock):
    dock = open_dock()
    session, line = dock.session, dock.feedback.job_line
    for kind, phase, shown in (
        ("finetune", "sending", "sending 40%"),
        ("finetune", "fine-tuning", "40%"),
        ("finetune", "receiving", "receiving 40%"),
        ("finetune", "prediction", "prediction 40%"),
        ("pretrain", "comparing", "comparing 40%"),
        ("predict", "sending", "sending 40%"),
        ("predict", "prediction", "40%"),
    ):
        session.begin(kind, "gpu1")
        session.handle_event(events.Progress(phase, 0.4))
        assert line.text().startswith(f"{session.job.title}: {shown}&")
        for step in (dock.pretrain, dock.finetune):
            assert step.kind != kind or step.summary() == shown


def test_a_closed_window_leaves_the_job_going(hosts, open_dock, project):
    dock = open_dock()
    dock.pretrain.run_on.setCurrentText("gpu1")
    dock.jobs.start(FinetuneJob(str(project.root)))
    ready(dock)
    dock._leave()
    wait_until(lambda: not child_process._running, 20, "the end of the relay")
    assert (project.root / "said").read_text() == ""


@pytest.mark.slow
def test_a_training_on_a_real_host_is_cut_taken_up_and_its_prediction_is_shown(
    server: Server, open_dock, project, monkeypatch
):
    monkeypatch.setattr(run_host, "ssh_hosts", lambda: (HOST,))
    dock = open_dock(child_process.COMMAND)
    dock.workspace.new_annotation()
    for index in (2, 3):
        dock.workspace.go_to(0, index)
        dock.workspace.annotation_layer.paint((index, 4, 5), 1)
        dock.workspace.toggle_complete()
    dock.steps[3].expand()
    dock.finetune.run_on.setCurrentText(HOST)
    dock.finetune.minutes.setValue(0.2)
    cut: list[int] = []

    def cut_once(event: events.Event) -> None:
        if isinstance(event, events.Metric) and not cut:
            cut.append(server.cut())

    dock.jobs.event_received.connect(cut_once)
    dock.finetune.start.click()
    wait_until(lambda: not dock.session.job.running, 200, "the training")
    job = dock.session.job
    assert job.error == ""
    assert cut and any("broke" in text for text in job.notices)
    assert any("connected again" in text for text in job.notices)
    run = dock.session.runs("finetune")[0]
    assert elsewhere(run) is None
    assert project.has_prediction(run.id, dock.session.scan)
    layer = dock.workspace.predictions.layer
    assert layer is not None
    assert np.array_equal(np.asarray(layer.data), project.prediction(run.id, dock.session.scan))
