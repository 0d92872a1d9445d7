"""The dock without a window: what its buttons do, with a small script in the engine's place."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from napari.components import ViewerModel
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton

from napari_medssl.annotate import keys
from napari_medssl.interactive import server
from napari_medssl.io import reader, samples
from napari_medssl.model.job_factory import pretrain_job
from napari_medssl.widgets import Dock, dock, style
from napari_medssl.widgets.components import OWN_TIP
from napari_medssl.widgets.finetune import RANDOM_NAME, SHAPES_NAME
from napari_medssl.widgets.interactive import InteractivePanel
from napari_medssl.widgets.messages import RESEARCH_USE

ENGINE = """
import json, sys, time
from pathlib import Path
from medssl.core import jobs, events
from medssl.core.project.annotation import Annotation
from medssl.core.project.annotation_file import write_annotation
from medssl.core.project.project import Project
import numpy as np

job = jobs.read_job(Path(sys.argv[-1]))
project = Project.open(Path(job.project))
kind = jobs.kind_of(job)
resume = getattr(job, "resume", None)
run = project.run(resume) if resume else project.new_run(kind, jobs.to_json(job), "test")
log = (run.folder / "events.jsonl").open("a")
def say(event):
    line = events.to_line(event)
    log.write(line + "\\n"); log.flush()
    print(line, flush=True)
say(events.Started(run.id))
for step in range(3):
    say(events.Metric(step, {"loss": 1 / (step + 1)}))
    say(events.Progress("Training", step / 3, step, 10.0))
run.checkpoint.write_bytes(b"weights")
say(events.Checkpoint(3, str(run.checkpoint)))
"""
ENDS = """
if kind == "finetune":
    (scan,) = job.predict_scans
    labels = np.ones(project.scans[scan].geometry.shape_zyx, np.uint8)
    say(events.Preview(scan, str(project.save_prediction(run.id, scan, labels))))
say(events.Done())
"""
COLLAPSES = """
words = "This pre-training has collapsed."
say(events.Notice(words))
card = {"kind": kind, "collapse_report": {"collapsed": True, "words": words}}
(run.folder / "card.json").write_text(json.dumps(card))
say(events.Done())
"""
WAITS = """
sys.stdin.readline()
say(events.Done(stopped=True))
"""
FAILS = """
say(events.Failed("memory", "There is too little memory; close other programs."))
sys.exit(1)
"""


@pytest.fixture
def make(qtbot, said, tmp_path):
    """Makes a dock whose engine is ENGINE plus some ending, with one scan open; the one before is closed."""
    last: list[Dock] = []

    def with_engine(ending: str = ENDS) -> Dock:
        for each in last:
            each._leave()
        script = tmp_path / "engine.py"
        script.write_text(ENGINE + ending)
        made = Dock(ViewerModel(), command=(sys.executable, "-u", str(script)))
        last[:] = [made]
        qtbot.addWidget(made)
        made.show()
        made.scans.add([write_scan(tmp_path / "a.nii.gz")])
        qtbot.waitUntil(lambda: not made.scans.adder.busy, timeout=10_000)
        return made

    return with_engine


def write_scan(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=(12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)
    return path


def painted(made: Dock) -> Dock:
    made.annotate.new.click()
    made.workspace.annotation_layer.paint((4, 5, 6), 1)
    made.annotate.complete.click()
    return made


def wait_for_end(qtbot, made: Dock) -> None:
    qtbot.waitUntil(lambda: not made.session.job.running, timeout=30_000)


# --- scans -------------------------------------------------------------------------------------------


def test_the_project_is_made_beside_the_first_scan(make, tmp_path):
    made = make()
    assert made.session.project.root == tmp_path / "medssl-project"
    assert made.scans.table.rowCount() == 1 and made.scans.summary() == "1 scan"


def test_opening_the_same_scan_again_opens_the_same_project(make, tmp_path):
    painted(make()).workspace.leave()
    assert make().session.annotated == {"a"}


def test_one_bad_file_of_two_is_told_and_the_other_is_in(make, qtbot, said, tmp_path):
    made = make()
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan at all")
    made.scans.add([bad, write_scan(tmp_path / "b.nii.gz", 1)])
    qtbot.waitUntil(lambda: not made.scans.adder.busy, timeout=10_000)
    assert set(made.session.project.scans) == {"a", "b"}
    ((severity, text),) = said
    assert severity == "error" and "bad.nii.gz" in text


def test_a_click_in_the_table_shows_the_scan(make, qtbot, tmp_path):
    made = make()
    made.scans.add([write_scan(tmp_path / "b.nii.gz", 1)])
    qtbot.waitUntil(lambda: not made.scans.adder.busy, timeout=10_000)
    assert made.session.scan == "b"
    made.scans.table.selectRow(0)
    assert made.session.scan == "a"


def test_sample_data_without_a_file_can_be_a_scan(qtbot, said, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    viewer = ViewerModel()
    ((data, arguments, _),) = samples.phantom()
    phantom = viewer.add_image(data, **arguments)
    made = Dock(viewer)
    qtbot.addWidget(made)
    assert (
        made.scans.use_open_layers.isVisibleTo(made.scans)
        and made.scans.use_open_layers.text() == "Use 1 open layer"
    )
    made.scans.use_open_layers.click()
    assert made.scans.new_project.place == tmp_path / "medssl-project"
    made.scans.new_project.agree.click()
    qtbot.waitUntil(lambda: made.session.scan is not None and not made.scans.adder.busy, timeout=20_000)
    assert made.workspace.scan_layer is phantom
    assert list(viewer.layers) == [phantom, made.workspace.annotation_layer] and made.steps[1].isExpanded()
    assert not made.scans.use_open_layers.isVisibleTo(made.scans) and not said


def test_a_layer_opened_by_a_relative_name_is_known_again(qtbot, said, tmp_path, monkeypatch):
    write_scan(tmp_path / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    viewer = ViewerModel()
    data, arguments, _ = reader.read_one(Path("a.nii.gz"))
    opened = viewer.add_image(data, **arguments)
    made = Dock(viewer)
    qtbot.addWidget(made)
    made.scans.use_open_layers.click()
    made.scans.new_project.agree.click()
    qtbot.waitUntil(lambda: made.session.scan is not None and not made.scans.adder.busy, timeout=20_000)
    assert made.workspace.scan_layer is opened and not said
    assert list(viewer.layers) == [opened, made.workspace.annotation_layer]


# --- annotate ----------------------------------------------------------------------------------------


def test_new_annotation_takes_the_brush_for_the_first_class(make):
    made = make()
    made.annotate.new.click()
    layer = made.workspace.annotation_layer
    assert (layer.mode, layer.selected_label) == ("paint", 1) and made.annotate.tools.brush.isChecked()


def test_an_added_class_is_in_the_brush_and_in_the_project(make, qtbot):
    made = make()
    made.annotate.new.click()
    made.annotate.add.click()
    qtbot.waitUntil(lambda: made.workspace.annotation_layer.selected_label == 2, timeout=20000)
    assert [item.id for item in made.session.project.classes] == [1, 2]


def test_a_renamed_class_is_in_the_project(make):
    made = make()
    made.annotate.classes.item(0, 1).setText("Liver")
    assert made.session.project.classes[0].name == "Liver"


def test_sure_background_and_eraser(make):
    made = make()
    made.annotate.new.click()
    made.annotate.tools.sure.click()
    assert made.workspace.annotation_layer.selected_label == 255
    made.annotate.tools.eraser.click()
    assert made.workspace.annotation_layer.mode == "erase"


def test_the_complete_button_speaks_of_the_slice_on_the_screen(make):
    made = painted(make())
    assert made.annotate.complete.text() == "✓  Axial slice 4 is complete"
    made.workspace.go_to(2, 7)
    assert made.annotate.complete.text() == "Mark sagittal slice 7 complete"
    assert not made.annotate.complete.isChecked()


def test_a_number_in_the_list_goes_to_its_slice(make):
    made = painted(make())
    made.workspace.go_to(2, 7)
    made.annotate.list.linkActivated.emit("0:4")
    assert made.workspace.slice_on_screen() == (0, 4)


def test_our_keys_are_not_napari_s(make):
    taken = {
        str(key)
        for name, each in default_shortcuts.items()
        if any(word in name for word in ("labels", "image", "dims", "view", "layers", "label", "brush"))
        for key in each
    }
    assert not {*make().keys.actions} - {keys.PAINT, keys.ERASE, keys.UNDO, keys.REDO} & taken


# --- train -------------------------------------------------------------------------------------------


def test_pre_training_runs_and_its_weights_are_offered(make, qtbot, said):
    made = make()
    made.pretrain.start.click()
    wait_for_end(qtbot, made)
    assert made.session.job.phase == "Finished" and not said
    assert made.pretrain.panel.curve.points == [(0, 1), (1, 0.5), (2, 1 / 3)]
    assert made.finetune.weights.itemText(1) == "PGL pre-training (run 1)"
    assert not made.pretrain.resume.isEnabled()


def test_a_collapsed_pre_training_says_so_and_is_not_offered(make, qtbot, said):
    made = make(COLLAPSES)
    made.pretrain.start.click()
    wait_for_end(qtbot, made)
    texts = [made.finetune.weights.itemText(n) for n in range(made.finetune.weights.count())]
    assert texts == [SHAPES_NAME, RANDOM_NAME]
    assert "collapsed" in made.pretrain.panel._notice.text()
    assert made.pretrain.summary() == "PGL collapsed" and not said
    again = make()
    assert again.pretrain.report.text() == "This pre-training has collapsed."
    assert again.pretrain.report.isVisibleTo(again.pretrain)


def test_a_pre_training_before_a_collapsed_one_is_still_offered(make, qtbot):
    for ending in (ENDS, COLLAPSES):
        made = make(ending)
        made.pretrain.start.click()
        wait_for_end(qtbot, made)
    assert len(made.session.runs("pretrain")) == 2
    texts = [made.finetune.weights.itemText(n) for n in range(made.finetune.weights.count())]
    assert texts == [SHAPES_NAME, "PGL pre-training (run 1)", RANDOM_NAME]


def test_a_stopped_pre_training_goes_on_in_the_same_run(make, qtbot):
    made = make(WAITS)
    made.pretrain.start.click()
    qtbot.waitUntil(lambda: made.session.job.step == 2, timeout=20_000)
    made.pretrain.panel.stop_button.click()
    wait_for_end(qtbot, made)
    assert made.session.job.phase == "Stopped"
    made = make(ENDS)
    assert made.pretrain.resume.isEnabled()
    made.pretrain.resume.click()
    wait_for_end(qtbot, made)
    assert made.session.job.phase == "Finished" and len(made.session.runs("pretrain")) == 1


def test_fine_tuning_saves_the_strokes_first_and_shows_the_prediction(make, qtbot, said):
    made = painted(make())
    made.finetune.start.click()
    assert made.session.project.annotation("a").labels[4, 5, 6] == 1
    wait_for_end(qtbot, made)
    assert made.workspace.prediction_layer.visible and np.all(made.workspace.prediction_layer.data == 1)
    assert made.prediction.prediction_box.count() == 1 and not said


def test_fine_tuning_without_strokes_is_one_sentence(make, said):
    made = make()
    made.finetune.start.click()
    ((severity, text),) = said
    assert severity == "error" and "Nothing is annotated yet" in text and not made.session.job.running


def test_what_the_engine_could_not_do_is_one_sentence(make, qtbot, said):
    made = make(FAILS)
    made.pretrain.start.click()
    wait_for_end(qtbot, made)
    assert said == [("error", "There is too little memory; close other programs.")]
    assert made.session.job.phase == "Failed" and made.pretrain.start.isEnabled()


def test_one_job_at_a_time(make, qtbot):
    made = make(WAITS)
    made.pretrain.start.click()
    assert not made.finetune.start.isEnabled() and not made.features.compute.isEnabled()
    with pytest.raises(UserError, match="still running"):
        made.jobs.start(pretrain_job(made.session, "pgl", "quick", 1))
    qtbot.waitUntil(lambda: made.session.job.step == 2, timeout=20_000)
    made.jobs.stop()
    wait_for_end(qtbot, made)


def test_a_defect_is_a_sentence_and_no_traceback(make, said, monkeypatch):
    made = make()
    monkeypatch.setattr(made.workspace, "new_annotation", lambda: 1 / 0)
    made.annotate.new.click()
    assert said[0][0] == "error" and "ZeroDivisionError" in said[0][1]


# --- what stays -------------------------------------------------------------------------------------


def test_a_failure_stays_in_its_step_until_the_next_attempt(make, qtbot):
    made = make()
    made.steps[3].expand()
    made.finetune.start.click()
    made.finetune.start.click()
    ((sentence,), shown) = made.feedback.messages.shown, made.feedback.messages
    assert sentence.startswith("Nothing is annotated yet") and shown.isVisible() and sentence in shown.text()
    made.steps[1].expand()
    assert not shown.shown and not shown.isVisible()
    made.annotate.new.click()
    made.steps[3].expand()
    assert shown.shown == [sentence] and shown.isVisible()
    made.workspace.annotation_layer.paint((4, 5, 6), 1)
    made.finetune.start.click()
    assert not shown.shown
    wait_for_end(qtbot, made)


def test_nothing_moves_when_a_sentence_comes_or_goes(make, qtbot):
    made = make()
    made.resize(345, 800)
    made.steps[3].expand()

    def places():
        qtbot.wait(50)
        return [step.mapTo(made, step.rect().topLeft()).y() for step in made.steps], made.scroll_area.height()

    before = places()
    made.finetune.start.click()
    with_sentence = places()
    assert with_sentence[0] == before[0]
    made.session.messages.attempt()
    assert places() == with_sentence, "the room is kept until another step is opened"


def test_a_key_is_an_attempt(make):
    made = painted(make())
    made.steps[1].expand()
    made.workspace.viewer.dims.ndisplay = 3
    made.annotate.toggle_complete()
    assert "2D view" in made.feedback.messages.shown[0]
    made.workspace.viewer.dims.ndisplay = 2
    press = next(action for key, action in made.viewer.keymap.items() if str(key) == dock.COMPLETE_KEY)
    press(made.viewer)
    assert not made.feedback.messages.shown


def test_a_click_in_a_table_is_an_attempt(make, qtbot):
    made = make()
    made.session.notify("error", "This scan cannot be read.")
    table = made.scans.table
    middle = table.visualItemRect(table.item(0, 1)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    assert not made.feedback.messages.shown


def test_many_failures_are_counted_and_a_long_path_does_not_widen_the_dock(make):
    made = make()
    paths = [f"/{'scans/' * 30}{number}.nii.gz" for number in range(5)]
    for path in paths:
        made.session.notify("error", f"{path} cannot be read.")
    messages = made.feedback.messages
    assert len(messages.shown) == 5 and "2 earlier messages" in messages.text()
    assert all(path in messages.toolTip() for path in paths)
    assert messages.minimumSizeHint().width() < dock.WIDTH


def test_a_job_that_fails_is_seen_from_every_step_and_says_why_in_its_own(make, qtbot, said):
    made = make(FAILS)
    made.pretrain.start.click()
    wait_for_end(qtbot, made)
    feedback = made.feedback
    assert feedback.job_line.text().startswith("Pre-training failed.") and not feedback.messages.shown
    feedback.job_line.linkActivated.emit("step")
    assert made.steps[2].isExpanded()
    assert feedback.messages.shown == ["There is too little memory; close other programs."]
    made.steps[0].expand()
    assert feedback.job_line.text() == RESEARCH_USE, "it has been seen"


def test_a_finished_job_is_shown_in_every_step_until_its_own_is_opened(make, qtbot):
    made = make()
    made.pretrain.start.click()
    wait_for_end(qtbot, made)
    line = made.feedback.job_line
    for step in (0, 1, 3, 4, 5):
        made.steps[step].expand()
        assert line.text().startswith("Pre-training finished.") and line.isVisible()
    line.linkActivated.emit("step")
    assert made.steps[2].isExpanded() and line.text() == RESEARCH_USE
    made.steps[0].expand()
    assert line.text() == RESEARCH_USE, "it has been seen"


def test_a_running_job_is_seen_from_every_other_step(make, qtbot):
    made = make(WAITS)
    made.pretrain.start.click()
    qtbot.waitUntil(lambda: made.session.job.step == 2, timeout=20_000)
    assert made.feedback.job_line.text().startswith("Pre-training: 67%, 10 s left")
    made.steps[2].expand()
    assert made.feedback.job_line.text() == RESEARCH_USE, "the step itself says more"
    made.jobs.stop()
    wait_for_end(qtbot, made)


# --- what is grey ------------------------------------------------------------------------------------


def grey_without_reason(made: Dock) -> list[str]:
    """Texts of the disabled buttons whose tooltip does not say why."""
    grey = (each for each in made.findChildren(QAbstractButton) if not each.isEnabledTo(each.parentWidget()))
    return [each.text() for each in grey if each.property(OWN_TIP) is None]


def test_every_grey_button_says_why(make, qtbot):
    empty = Dock(ViewerModel())
    qtbot.addWidget(empty)
    assert not empty.pretrain.start.isEnabled() and not grey_without_reason(empty)
    assert empty.pretrain.start.toolTip() == "No scan is open yet; open one in step 1."
    empty._leave()
    made = painted(make(WAITS))
    assert not made.features.follow.isEnabled() and not grey_without_reason(made)
    own = made.finetune.start.toolTip()
    made.pretrain.start.click()
    assert made.finetune.start.toolTip() == "Pre-training is running; stop it, or wait until it ends."
    assert not grey_without_reason(made)
    qtbot.waitUntil(lambda: made.session.job.step == 2, timeout=20_000)
    made.jobs.stop()
    wait_for_end(qtbot, made)
    assert made.finetune.start.isEnabled() and made.finetune.start.toolTip() == own


# --- the dock itself ---------------------------------------------------------------------------------


def test_without_the_extra_interactive_nothing_changes(make, monkeypatch):
    with_extra = texts_without_panel(make()) if server.is_installed() else None
    monkeypatch.setattr(server, "is_installed", lambda: False)
    made = make()
    assert made.annotate.proposals is None and not made.findChildren(InteractivePanel)
    texts = texts_without_panel(made)
    assert "nnInteractive" not in " ".join(texts) and "New annotation" in texts
    assert with_extra in (None, texts)
    assert not [each for each in made.viewer.mouse_drag_callbacks if "interactive" in each.__module__]
    made = painted(made)
    assert made.session.annotation.complete == ((0, 4),)


def texts_without_panel(made: Dock) -> list[str]:
    """What is written on the buttons of step 2 but for those of the panel of nnInteractive."""
    panels = made.findChildren(InteractivePanel)
    buttons = made.annotate.findChildren(QAbstractButton)
    return [each.text() for each in buttons if not any(panel.isAncestorOf(each) for panel in panels)]


def test_one_step_is_open_at_a_time(make):
    made = make()
    made.steps[3].toggleButton().click()
    assert [step.isExpanded() for step in made.steps] == [step is made.steps[3] for step in made.steps]


def test_the_steps_say_how_far_they_are(make, qtbot):
    made = painted(make())
    made.finetune.start.click()
    wait_for_end(qtbot, made)
    texts = [step.body.summary() for step in made.steps]
    assert texts == ["1 scan", "1 slice complete", "", "", "1 prediction", ""]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_colour_of_the_sheet_is_filled_in(theme):
    assert "@" not in style.sheet(theme)
