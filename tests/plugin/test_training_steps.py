"""Steps 3 and 4 before and while they run: purposes, the estimate, the held slice, Continue; a script is the
engine."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core import recipes
from medssl.core.methods import METHODS
from medssl.core.project.project import Project, Run
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_medssl.engine import child_process
from napari_medssl.widgets import Dock
from napari_medssl.widgets.finetune import CONTINUE, RANDOM_NAME, SHAPES_NAME, STARTS, describe

ENGINE = """
import os, sys, time
from pathlib import Path
from medssl.core import jobs, estimate, events
from medssl.core.project.project import Project

job = jobs.read_job(Path(sys.argv[-1]))
project = Project.open(Path(job.project))
if isinstance(job, jobs.EstimateJob):
    with (project.root / "asked").open("a") as asked:
        asked.write("one\\n")
    {measuring}
    made = estimate.Estimate(0.1, 0.2, 0.5, 0.0, 1 << 30, 8 << 30, "cpu", 2, "bf16")
    estimate.save(project, jobs.job_of(job.training, "it"), made)
    print(events.to_line(events.Done()), flush=True)
    sys.exit()
kind = jobs.kind_of(job)
run = project.run(job.resume) if job.resume else project.new_run(kind, jobs.to_json(job), "test")
log = (run.folder / "events.jsonl").open("a")
def say(event):
    log.write(events.to_line(event) + "\\n"); log.flush()
    print(events.to_line(event), flush=True)
say(events.Started(run.id))
for step in range(3):
    say(events.Metric(step, {{"loss": 1 / (step + 1), "dice": step / 4}}))
    say(events.Progress("fine-tuning", step / 3, step, 10.0))
run.checkpoint.write_bytes(b"weights")
say(events.Checkpoint(3, str(run.checkpoint)))
say(events.Notice("Axial slice 4 of a, which it did not learn from: Dice 0.50."))
{ending}
"""
ENDS = "say(events.Done())"
DIES = "os.kill(os.getpid(), 9)"
SLOW = "time.sleep(60)"


@pytest.fixture
def make(qtbot, said, tmp_path):
    """Makes a dock with one scan open; its engine measures and ends as the two lines say."""

    def with_engine(ending: str = ENDS, measuring: str = "") -> Dock:
        script = tmp_path / "engine.py"
        script.write_text(ENGINE.format(ending=ending, measuring=measuring))
        made = Dock(ViewerModel(), command=(sys.executable, "-u", str(script)))
        qtbot.addWidget(made)
        made.show()
        values = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
        path = tmp_path / "a.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)
        made.scans.add([path])
        qtbot.waitUntil(lambda: not made.scans.adder.busy and made.session.scan == "a", timeout=10_000)
        return made

    return with_engine


def painted(made: Dock) -> Dock:
    made.annotate.new.click()
    made.workspace.annotation_layer.paint((4, 5, 6), 1)
    made.annotate.complete.click()
    made.workspace.autosave.flush()
    return made


def ran(qtbot, made: Dock, button) -> Dock:
    button.click()
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=30_000)
    return made


def options(box) -> list[str]:
    return [box.itemText(n) for n in range(box.count())]


def measured(qtbot, made: Dock, step: int) -> str:
    made.steps[step].toggleButton().click()
    forecast = made.steps[step].body.estimate
    assert forecast.text() == "Measuring the time per step…"
    qtbot.waitUntil(lambda: "steps in" in forecast.text(), timeout=30_000)
    return forecast.text()


# --- what it is for ----------------------------------------------------------------------------------


def test_the_first_choice_is_what_it_is_for_and_it_says_so_in_a_line(make):
    step = make().pretrain
    assert options(step.purpose) == ["Quick look", "Overnight", "As in the paper"]
    for number, purpose in enumerate(recipes.PRETRAINING):
        step.purpose.setCurrentIndex(number)
        assert purpose.about in step.about.text() and step.minutes.value() == purpose.minutes


def test_every_method_can_be_chosen_and_says_what_it_is_for(make):
    step = make().pretrain
    assert [step.method.itemData(n) for n in range(step.method.count())] == list(METHODS)
    assert step.method.currentData() == "pgl"
    for which in ("quick", "paper"):
        step.purpose.setCurrentIndex(2 if which == "paper" else 0)
        for number, method in enumerate(METHODS):
            if f"{method}-{which}" not in recipes.names():
                continue
            step.method.setCurrentIndex(number)
            line = recipes.read(f"{method}-{which}").purpose
            assert line in step.about.text()
            assert line == step.method.itemData(number, Qt.ItemDataRole.ToolTipRole)


def test_a_method_without_published_numbers_is_not_trained_by_them(make):
    step = make().pretrain
    (number,) = (n for n, method in enumerate(METHODS) if f"{method}-paper" not in recipes.names())
    step.method.setCurrentIndex(number)
    assert step.method.currentIndex() == number
    step.purpose.setCurrentText("As in the paper")
    assert step.method.currentIndex() == 0 and not step.method.model().item(number).isEnabled()
    assert recipes.read("pgl-paper").purpose in step.about.text()
    step.purpose.setCurrentText("Overnight")
    assert step.method.model().item(number).isEnabled()


def test_purpose_and_method_are_the_job_s(make, qtbot):
    made = make()
    made.pretrain.purpose.setCurrentText("As in the paper")
    made.pretrain.method.setCurrentText("MAE")
    ran(qtbot, made, made.pretrain.start)
    (run,) = made.session.runs("pretrain")
    assert (run.job["method"], run.job["recipe"], run.job["minutes"]) == ("mae", "paper", 1440)


def test_the_paper_s_fine_tuning_is_the_contrast_between_classes(make, qtbot, said):
    made = painted(make())
    made.finetune.purpose.setCurrentText("As in the paper")
    ran(qtbot, made, made.finetune.start)
    assert not said
    (run,) = made.session.runs("finetune")
    assert (run.job["semi_supervised"], run.job["recipe"]) == ("pseudo_contrast", "paper")


# --- the estimate ------------------------------------------------------------------------------------


def test_an_open_step_says_what_the_training_will_come_to(make, qtbot):
    made = make()
    text = measured(qtbot, made, 2)
    assert text.startswith("About 2,200 steps in 5 min, on CPU with 2 threads in bf16; needs 1.0 GB.")
    made.pretrain.minutes.setValue(0.5)
    assert made.pretrain.estimate.text().endswith("Fewer than 300 steps: expect little.")
    assert not made.session.project.runs() and not made.session.job.running


def test_what_was_measured_is_not_measured_again(make, qtbot):
    made = make()
    measured(qtbot, made, 2)
    again = make()
    again.steps[2].toggleButton().click()
    assert "steps in" in again.pretrain.estimate.text()
    again.pretrain.purpose.setCurrentText("Overnight")
    assert "steps in 8 h" in again.pretrain.estimate.text()
    assert (again.session.project.root / "asked").read_text() == "one\n"


def test_a_closed_step_measures_nothing(make, qtbot):
    made = make()
    made.pretrain.method.setCurrentText("MAE")
    qtbot.wait(1000)
    assert not made.estimates.measuring and not (made.session.project.root / "asked").exists()


def test_fine_tuning_is_estimated_once_something_is_painted(make, qtbot):
    made = make()
    made.steps[3].toggleButton().click()
    assert made.finetune.estimate.text().startswith("Nothing is annotated yet")
    painted(made)
    made.steps[2].toggleButton().click()
    assert "steps in 3 min" in measured(qtbot, made, 3)


def test_a_measurement_gives_way_to_the_training(make, qtbot, said):
    made = make(measuring=SLOW)
    made.steps[2].toggleButton().click()
    asked = made.session.project.root / "asked"
    qtbot.waitUntil(asked.exists, timeout=30_000)
    child = made.background_jobs.child
    ran(qtbot, made, made.pretrain.start)
    assert made.session.job.phase == "Finished" and not said
    qtbot.waitUntil(lambda: child not in child_process._running, timeout=10_000)


def test_a_measurement_that_fails_says_why_and_is_not_repeated(make, qtbot, said):
    made = make(measuring="sys.exit(1)")
    made.steps[2].toggleButton().click()
    qtbot.waitUntil(lambda: (made.session.project.root / "asked").exists(), timeout=30_000)
    qtbot.waitUntil(lambda: not made.estimates.measuring, timeout=30_000)
    assert "exit code 1" in made.pretrain.estimate.text()
    made.pretrain.minutes.setValue(7)
    assert not made.estimates.measuring and not said
    assert (made.session.project.root / "asked").read_text() == "one\n"


REFUSES = """
    if not (project.root / "agrees").exists():
        failed = events.Failed("few", "One slice is too little; complete another one.")
        print(events.to_line(failed), flush=True)
        sys.exit(1)
"""


def test_the_estimate_comes_back_when_what_was_refused_has_changed(make, qtbot, said):
    made = painted(make(measuring=REFUSES))
    made.steps[3].toggleButton().click()
    forecast = made.finetune.estimate
    qtbot.waitUntil(lambda: "One slice is too little" in forecast.text(), timeout=30_000)
    (made.session.project.root / "agrees").touch()
    made.workspace.annotation_layer.paint((5, 5, 6), 1)
    made.workspace.autosave.flush()
    qtbot.waitUntil(lambda: "steps in" in forecast.text(), timeout=30_000)
    assert not said


def test_the_estimate_comes_back_after_a_job_that_was_refused(make, qtbot):
    made = make(ending="say(events.Failed('memory', 'Too little memory.'))", measuring=REFUSES)
    made.steps[2].toggleButton().click()
    forecast = made.pretrain.estimate
    qtbot.waitUntil(lambda: "One slice is too little" in forecast.text(), timeout=30_000)
    (made.session.project.root / "agrees").touch()
    ran(qtbot, made, made.pretrain.start)
    qtbot.waitUntil(lambda: "steps in" in forecast.text(), timeout=30_000)


def test_a_setting_that_does_not_fit_is_named_until_it_fits(make, qtbot):
    made = make()
    measured(qtbot, made, 2)
    made.pretrain.advanced.toggleButton().click()
    made.pretrain.advanced.set("learning_rate", -1.0)
    assert "learning_rate" in made.pretrain.estimate.text()
    made.pretrain.advanced.set("learning_rate", 0.001)
    qtbot.waitUntil(lambda: "steps in" in made.pretrain.estimate.text(), timeout=30_000)


@pytest.mark.parametrize("step", [2, 3])
def test_the_start_button_stays_where_it_is_when_a_training_starts_and_ends(make, qtbot, step):
    made = painted(make("time.sleep(1)\n" + ENDS))
    made.resize(345, 900)
    made.steps[step].expand()
    start = made.steps[step].body.start

    def place():
        last = None
        while (now := start.mapTo(made, start.rect().topLeft())) != last:  # until the layout has settled
            last = now
            qtbot.wait(200)
        return now

    before = place()
    start.click()
    assert made.session.job.running and place() == before
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=30_000)
    assert place() == before


# --- Dice on a held slice ----------------------------------------------------------------------------


def test_loss_and_dice_are_drawn_and_the_last_word_is_the_dice(make, qtbot):
    made = painted(make())
    ran(qtbot, made, made.finetune.start)
    curve = made.finetune.panel.curve
    assert curve.points == [(0, 1), (1, 0.5), (2, 1 / 3)] and curve.dice == [(0, 0), (1, 0.25), (2, 0.5)]
    assert "Dice 0.50" in made.finetune.panel._notice.text()


def test_a_slice_is_held_back_by_itself_only_where_there_are_many(make):
    made = painted(make())
    hold = made.finetune.hold
    assert not hold.isChecked()
    for index in range(5):
        made.session.annotation.mark(0, 5 + index, True)
    assert hold.isChecked() and made.finetune._new_job().settings == {"validation_slice": True}
    hold.click()
    made.session.annotation.mark(0, 11, True)
    assert not hold.isChecked() and made.finetune._new_job().settings == {}


# --- rounds, Continue, and an engine that dies ---------------------------------------------------------


def test_a_round_starts_anew_unless_continue_is_chosen_and_says_so(make, qtbot):
    made = painted(make())
    step = made.finetune
    assert options(step.weights) == [SHAPES_NAME, RANDOM_NAME]
    ran(qtbot, made, made.pretrain.start)
    ran(qtbot, made, step.start)
    assert made.session.runs("finetune")[0].job["weights"] == "shapes"
    assert options(step.weights) == [
        SHAPES_NAME,
        "PGL pre-training (run 1)",
        RANDOM_NAME,
        f"{CONTINUE} (run 2)",
    ]
    assert step.weights.currentIndex() == 0
    starts = (
        "Starts anew from the bundled weights, with all annotations.",
        "Starts anew from your pre-trained weights, with all annotations.",
        "Starts anew from random weights, with all annotations.",
        "Continues from the weights of that fine-tuning, with all annotations.",
    )
    for number, start in enumerate(starts):
        step.weights.setCurrentIndex(number)
        assert step.about.text().endswith(start)
    ran(qtbot, made, step.start)
    newest = made.session.runs("finetune")[0]
    assert newest.job["weights"] == "0002-finetune-test"
    assert step.weights.currentText() == f"{CONTINUE} (run 3)", "it stays the last one"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_newer_pre_training_changes_no_choice(make, qtbot, number):
    made = painted(make())
    ran(qtbot, made, made.pretrain.start)
    box = made.finetune.weights
    box.setCurrentIndex(number)
    chosen = box.currentText()
    ran(qtbot, made, made.pretrain.start)
    assert options(box)[1:3] == ["PGL pre-training (run 2)", "PGL pre-training (run 1)"]
    assert box.currentText() == chosen
    ran(qtbot, made, made.finetune.start)
    wanted = ("shapes", "0001-pretrain-test", "random")[number]
    assert made.session.runs("finetune")[0].job["weights"] == wanted


def test_another_project_begins_with_the_weights_that_ship(make, qtbot, tmp_path):
    made = painted(make())
    ran(qtbot, made, made.pretrain.start)
    made.finetune.weights.setCurrentIndex(1)
    other = Project.create(tmp_path / "other")
    run = other.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "test")
    run.checkpoint.write_bytes(b"weights")
    made.session.open(other.root)
    assert options(made.finetune.weights)[1] == "PGL pre-training (run 1)"
    assert made.finetune.weights.currentText() == SHAPES_NAME


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "random weights"),
        ({"weights": None}, "random weights"),
        ({"weights": "random"}, "random weights"),
        ({"weights": "shapes"}, "shapes"),
        ({"weights": "0001-pretrain-pgl"}, "pre-training"),
        ({"weights": "0002-finetune-from-pgl"}, "the previous fine-tuning"),
    ],
)
def test_a_fine_tuning_says_what_it_started_from(tmp_path, weights, words):
    run = Run("0007-finetune-x", "finetune", tmp_path, {"job": "finetune", **weights})
    assert describe(run) == f"Run 7, from {words}"


def test_pre_training_says_what_it_starts_from(make):
    from medssl.tasks.pretrain.pretrain import with_weights

    step = make().pretrain
    for purpose, said in (("Quick look", "the bundled weights"),
                          ("As in the paper", "random weights")):  # fmt: skip
        step.purpose.setCurrentText(purpose)
        assert step.about.text().endswith(f"Starts from {said}.")
        job = step._new_job()
        assert job.weights is None and STARTS[with_weights(job).weights] == said, "and so the engine does"


@pytest.mark.parametrize("which", ["pretrain", "finetune"])
def test_an_engine_that_is_killed_leaves_strokes_a_sentence_and_continue(make, qtbot, said, which):
    made = painted(make(DIES))
    step = getattr(made, which)
    ran(qtbot, made, step.start)
    ((severity, text),) = said
    assert severity == "error" and "press Continue" in text and "the annotation is saved" in text
    assert made.session.project.annotation("a").labels[4, 5, 6] == 1
    assert step.resume.isEnabled() and step.start.isEnabled()
    script = Path(made.jobs._command[-1])
    script.write_text(ENGINE.format(ending=ENDS, measuring=""))
    ran(qtbot, made, step.resume)
    assert made.session.job.phase == "Finished" and len(made.session.runs(which)) == 1
    assert not step.resume.isEnabled()
