"""Steps 3 and 4 on the sample project."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QLineEdit
from user_window import press, type_into, type_path

from docs.tour.stage import JOB_TIMEOUT_S, Stage
from napari_medssl.io.samples import sample_project_place
from napari_medssl.widgets.finetune import SHAPES_NAME


def pretraining(stage: Stage, minutes: float) -> None:
    """Step 3: choices, the estimate, settings; stop, continue, the line at the foot."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    step = dock.pretrain
    user.open_step(3)
    guide(
        "*Step 3, Pre-train. Optional.*",
        "1. Choose what it is for: *Quick look*, *Overnight*, or *As in the paper*",
    )
    for purpose in ("Overnight", "As in the paper", "Quick look"):
        user.choose(step.purpose, purpose)
        random = "random weights" in step.about.text()
        stage.check(random == (purpose == "As in the paper"), f"{purpose}: {step.about.text()}")
    guide("2. Choose a method. *SUPERVOXELS* is made for short trainings;")
    user.choose(step.method, "SUPERVOXELS")
    guide("*Advanced* holds all settings of the method, with the recipe's values; hold the pointer")
    user.click(step.advanced.toggleButton())
    editor = step.advanced.editor("threads").native
    stage.check("Threads" in user.tooltip(editor), "The tooltip says what a setting does.")
    guide("Changed settings are printed bold; the arrow beside one resets it.")
    row = step.advanced._rows["threads"]
    type_into(editor if isinstance(editor, QLineEdit) else editor.lineEdit(), "1")
    stage.check(row.label.font().bold() and row.back.isVisible(), "A changed setting is bold.")
    user.click(row.back)
    stage.check(not row.label.font().bold(), "The arrow resets it.")
    user.click(step.advanced.toggleButton())
    guide("3. Press *Pre-train*. The estimate below it says the number of steps, time and memory.")
    user.set_minutes(step.minutes, minutes)
    stage.wait(lambda: "steps" in step.estimate.text(), "the estimate", 240)
    user.click(step.start)
    stage.wait(lambda: dock.session.job.step > 1, "the first steps", JOB_TIMEOUT_S)
    guide("A job that runs, finished or failed is named there in every step; *Show* goes to it.")
    user.open_step(2)
    line = dock.feedback.job_line
    stage.wait(lambda: "Pre-training" in line.text(), "the line at the foot")
    user.click_link(line)
    stage.check(dock.steps[2].isExpanded(), "Show goes to the step of the job.")
    guide("Closing the window or the dock while a job runs, or while strokes are not saved, asks first.")
    with user.answering(press("Go on", "Pre-training")):
        user.window.windowHandle().close()
    stage.check(user.window.isVisible() and dock.session.job.running, "The window stays, the job goes on.")
    with user.answering(press("Go on", "Pre-training")):
        user.click(stage.cross)
    stage.check(dock.isVisible() and dock.session.job.running, "The dock stays, the job goes on.")
    guide("*Stop* ends after the current step and keeps the weights so far;")
    user.click(step.panel.stop_button)
    stage.job_ends()
    stage.check(dock.session.job.phase == "Stopped", "The training was stopped.")
    guide("*Continue* resumes from the last checkpoint. - Right-click")
    stopped_at = dock.session.job.step
    user.click(step.resume)
    stage.job_ends()
    stage.check(dock.session.job.step > stopped_at, "It went on from its checkpoint.")
    stage.check(len(dock.session.project.runs("pretrain")) == 1, "It is the same run.")


def finetuning(stage: Stage, minutes: float) -> None:
    """Step 4: where it starts, the held-out slice, the live preview, the first round."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    step = dock.finetune
    user.open_step(4)
    guide("*Step 4, Fine-tune*", "called *Shapes*: trained")
    guide("**Start from.** *Shapes (ready to use)* are the weights that ship.")
    guide("You can choose one of your pre-trainings, *Random weights*, or the *Last fine-tuning*.")
    stage.check(step.weights.currentText() == SHAPES_NAME, "Shapes is chosen at first.")
    for name in ("SUPERVOXELS pre-training (run 1)", "Random weights", SHAPES_NAME):
        user.choose(step.weights, name)
    guide("*Hold out one slice for validation* excludes one complete slice from training")
    user.click(step.hold)
    stage.check(step.hold.isChecked(), "The slice can be held out.")
    guide("One press, three minutes.")
    stage.check(step.minutes.value() == 3, "Three minutes are the choice.")
    user.set_minutes(step.minutes, minutes)
    guide("*Fine-tune and predict* trains on the painted slices of all scans")
    user.click(step.start)
    stage.wait(lambda: dock.live.status, "the live preview", 240)
    stage.job_ends()
    stage.check(dock.workspace.prediction_layer.data.any(), "The scan on the screen is segmented.")
    stage.check(step.panel.curve.dice, "The Dice is plotted.")


def second_round(stage: Stage) -> None:
    """From the weights of the last round; a second press of Stop."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    step = dock.finetune
    user.open_step(4)
    guide("*Last fine-tuning* continues from the last round instead.")
    user.choose(step.weights, "Last fine-tuning (run 2)")
    stage.check("Continues" in step.about.text(), "It continues.")
    user.click(step.start)
    stage.job_ends()
    user.choose(step.weights, SHAPES_NAME)
    guide("a second press ends at once.")
    user.click(step.start)
    stage.wait(lambda: dock.session.job.step > 1, "the first steps", 240)
    for _ in range(2):
        user.click(step.panel.stop_button)
    stage.wait(lambda: not dock.session.job.running, "the end at once", 60)


def deleted_runs(stage: Stage) -> None:
    """The lists of steps 4, 5 and 6; the run of the last one is kept, for another project."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    guide("Right-click the list of runs in steps 4 to 6 to delete the one that it shows.")
    weights = dock.finetune.weights
    user.open_step(4)
    user.choose(weights, next(text for text in stage.entries(weights) if "pre-training" in text))
    _delete_shown(stage, weights)
    stage.check(not any("pre-training" in text for text in stage.entries(weights)), "The run is gone.")
    user.open_step(5)
    box = dock.prediction.prediction_box
    user.choose(box, box.itemText(box.count() - 1))
    _delete_shown(stage, box)
    user.open_step(6)
    weights = dock.features.weights
    user.choose(weights, weights.itemText(1))
    texts = user.menu_texts(lambda: user.right_click(weights, weights.rect().center()), until="Delete")
    stage.check(weights.currentData() in texts[0], f"The menu offers {texts}.")


def _delete_shown(stage: Stage, box: QComboBox) -> None:
    """Delete the run that a list shows."""
    before = {run.id for run in stage.dock.session.all_runs}
    with stage.user.answering(press("Yes", "Delete")):
        stage.user.choose_in(lambda: stage.user.right_click(box, box.rect().center()), "Delete")
    stage.wait_for_message("Deleted")
    left = {run.id for run in stage.dock.session.all_runs}
    stage.check(len(before - left) == 1 and not left - before, f"One of {before} is gone.")


def weights_of_another_project(stage: Stage) -> None:
    """The network of the sample project comes to the open one."""
    stage.guide(
        "*Project… > Add weights of another project…* in step 1 brings a network here: choose the file"
    )
    user, dock = stage.user, stage.dock
    weights = max(sample_project_place().glob("runs/*-finetune-*/checkpoint.safetensors"))
    user.open_step(1)
    with user.answering(type_path(weights)):
        user.press_menu(dock.scans.choose, "Add weights")
    stage.wait_for_message("Added")
    stage.check("imported" in dock.session.runs("finetune")[0].id, "The run is there.")
