""" "Next slice": asks the engine, goes through its list and says why; a script stands for the engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.project.project import LabelClass, Project
from napari.components import ViewerModel

from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.model.session import Session
from napari_medssl.widgets.annotate import Annotate
from napari_medssl.workspace import Workspace

SHAPE = (8, 10, 12)
"""(X, Y, Z) of the files."""
PLACES = [("b", 0, 7), ("b", 1, 3), ("a", 0, 2)]
ENGINE = """
import json, sys
from pathlib import Path
job = json.loads(Path(sys.argv[-1]).read_text())
with (Path(job["project"]) / "asked").open("a") as file:
    file.write(job["job"] + " ")
def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
say("started", run="")
"""
ANSWERS = """
sentence = "Here the model is least sure between One and Two."
say("progress", phase="scoring slices", fraction=0.5)
say("done", result={"run": None, "stopped": False, "suggestions": [
    dict(scan=scan, axis=axis, index=index, reason=sentence, expected_error_mm2=3.0, novelty=0.25)
    for scan, axis, index in PLACES]})
"""
WAITS = """
sys.stdin.readline()
say("done", stopped=True, result={"run": None, "stopped": True, "suggestions": []})
"""
REFUSES = """
say("failed", code="no-scans", text="There is no scan; add one.")
sys.exit(1)
"""


@pytest.fixture
def workspace(qtbot, tmp_path):
    """Makes step 2 on a project of the scans a and b, a on the screen, with an engine that does `ending`."""
    made = []

    def with_engine(ending: str = ANSWERS) -> Annotate:
        script = tmp_path / "engine.py"
        script.write_text(ENGINE + f"PLACES = {PLACES!r}\n" + ending)
        project = Project.create(tmp_path / "project", (LabelClass(1, "One", "#ff0000"),))
        for seed, name in enumerate("ab"):
            values = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 4, 1.0])), tmp_path / f"{name}.nii")
            project.add_scan(tmp_path / f"{name}.nii")
        session = Session()
        workspace = Workspace(ViewerModel(), session)
        jobs = JobRunner(session, (sys.executable, "-u", str(script)))
        step = Annotate(session, workspace, jobs)
        step.said = []
        session.message.connect(lambda severity, text: step.said.append(text))
        qtbot.addWidget(step)
        step.show()
        session.open(project.root)
        made.append((workspace, jobs))
        return step

    yield with_engine
    for workspace, jobs in made:
        jobs.leave()
        workspace.close()


def press(qtbot, step: Annotate) -> None:
    """Press the button, and wait for the engine where it is asked."""
    step.next.button.click()
    loader = step.workspace.scan_loader
    qtbot.waitUntil(lambda: not step.session.job.running and loader.pending is None, timeout=20_000)


def here(step: Annotate) -> tuple[str, int, int]:
    axis, index = step.workspace.slice_on_screen()
    return (step.session.scan, axis, index)


def asked(step: Annotate) -> int:
    return len((step.session.project.root / "asked").read_text().split())


def test_it_opens_the_scan_and_the_slice_in_its_orientation_and_says_why(qtbot, workspace):
    step = workspace()
    press(qtbot, step)
    assert here(step) == PLACES[0]
    assert step.next.reason == "Here the model is least sure between One and Two."
    assert step.next.reason in step.next.status.text()
    assert not step.next.panel.isVisible() and step.next.button.isEnabled()


def test_the_brush_is_in_the_hand_on_arrival(qtbot, workspace):
    step = workspace()
    press(qtbot, step)
    layer = step.workspace.annotation_layer
    assert layer.mode == "paint" and layer.data.shape == SHAPE[::-1]


def test_one_answer_is_gone_through_press_by_press_and_then_asked_for_anew(qtbot, workspace):
    step = workspace()
    seen = []
    for _ in range(4):
        press(qtbot, step)
        seen.append(here(step))
    assert seen == [*PLACES, PLACES[0]]
    assert asked(step) == 2


def test_a_slice_that_was_completed_since_is_left_out(qtbot, workspace):
    step = workspace()
    press(qtbot, step)
    step.session.annotation.mark(1, 3, True)
    press(qtbot, step)
    assert here(step) == PLACES[2]


def test_strokes_of_the_scan_that_is_left_are_saved(qtbot, workspace):
    step = workspace()
    step.new.click()
    step.workspace.annotation_layer.paint((4, 5, 6), 1)
    press(qtbot, step)
    assert step.session.scan == "b" and step.session.project.annotation("a").labels[4, 5, 6] == 1


def test_the_reason_goes_when_another_slice_is_on_the_screen(qtbot, workspace):
    step = workspace()
    press(qtbot, step)
    step.workspace.go_to(0, 1)
    assert not step.next.reason
    step.workspace.go_to(0, 7)
    assert step.next.reason


def test_a_newer_model_is_asked_anew(qtbot, workspace):
    step = workspace()
    press(qtbot, step)
    run = step.session.project.new_run("finetune", {"job": "finetune"}, "newer")
    run.checkpoint.write_bytes(b"weights")
    step.session.reload_runs()
    press(qtbot, step)
    assert asked(step) == 2 and here(step) == PLACES[0]


def test_the_wait_is_shown_and_can_be_stopped(qtbot, workspace):
    step = workspace(WAITS)
    step.next.button.click()
    assert step.next.panel.isVisible() and not step.next.button.isEnabled()
    qtbot.waitUntil(lambda: step.session.job.run == "", timeout=20_000)
    step.next.panel.stop_button.click()
    qtbot.waitUntil(lambda: not step.session.job.running, timeout=20_000)
    assert step.said == ['The search was stopped too early; press "Next slice" again.']
    assert not step.next.panel.isVisible() and step.next.button.isEnabled()


def test_what_the_engine_refuses_is_one_sentence(qtbot, workspace):
    step = workspace(REFUSES)
    press(qtbot, step)
    assert step.said == ["There is no scan; add one."]


def test_a_suggested_scan_that_is_gone_is_one_sentence_and_the_next_press_goes_on(qtbot, workspace):
    step = workspace(ANSWERS.replace("in PLACES", "in [('gone', 0, 1), ('b', 0, 7)]"))
    press(qtbot, step)
    assert len(step.said) == 1 and "gone" in step.said[0] and step.said[0].endswith(".")
    press(qtbot, step)
    assert here(step) == ("b", 0, 7)


def test_without_a_scan_there_is_nothing_to_press(qtbot, workspace, tmp_path):
    session = Session()
    workspace = Workspace(ViewerModel(), session)
    step = Annotate(session, workspace, JobRunner(session))
    qtbot.addWidget(step)
    assert not step.next.button.isEnabled()
    workspace.close()


def test_a_job_without_a_run_keeps_its_log_in_the_project(qtbot, workspace):
    step = workspace("print('hello', file=sys.stderr)\n" + ANSWERS)
    press(qtbot, step)
    root: Path = step.session.project.root
    assert "hello" in (root / "run.log").read_text() and not (root / "runs").exists()
    assert json.loads((root / "job.json").read_text())["job"] == "suggest"
