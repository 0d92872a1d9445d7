"""Step 4: fine-tune on the annotated slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medssl.core import jobs, recipes, settings
from medssl.core.project.project import Run
from medssl.core.shipped import RANDOM, SHAPES
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QFormLayout

from napari_medssl.engine.estimates import Estimates
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.job_factory import finetune_job, resume_job, with_settings
from napari_medssl.model.reasons import job_blocked, no_job
from napari_medssl.model.run_history import curves_of
from napari_medssl.model.session import Session
from napari_medssl.widgets.advanced import Advanced
from napari_medssl.widgets.components import (
    JobPanel,
    StepContent,
    allow,
    button,
    column,
    combo_box,
    hint,
    minutes_box,
    row,
)
from napari_medssl.widgets.estimate_label import EstimateLabel
from napari_medssl.widgets.run_menu import RIGHT_CLICK, RunMenu
from napari_medssl.widgets.run_on import add_run_on
from napari_medssl.workspace import Workspace

SHAPES_NAME, RANDOM_NAME, CONTINUE = "Shapes (ready to use)", "Random weights", "Last fine-tuning"
NOTHING_TO_CONTINUE = "No training was stopped before its end; start a new one."
STARTS = {SHAPES: "the bundled weights", RANDOM: "random weights"}
LEAST_TO_HOLD, ENOUGH_TO_HOLD = 4, 6
"""Complete slices that a validation slice needs (segment/validation_slice.py), and in this scan for it to be
the default: of few slices, each is worth more in training."""


class Finetune(StepContent):
    """Purpose, initial weights, time budget; start, continue, stop."""

    title = "Fine-tune"
    kind = "finetune"
    kinds = (kind,)

    def __init__(self, session: Session, workspace: Workspace, jobs: JobRunner, estimates: Estimates) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.purpose, self.weights, self.about = combo_box(), combo_box(), hint()
        self.weights.setToolTip(
            f"Initial weights of the network; Shapes is bundled with the program; {RIGHT_CLICK}"
        )
        self.run_menu = RunMenu(session, self.weights, self.weights.currentData)
        for entry in recipes.FINETUNING:
            self.purpose.addItem(entry.name, entry)
        self.minutes = minutes_box(recipes.FINETUNING[0].minutes)
        self.hold = QCheckBox("Hold out one slice for validation")
        self.hold.setToolTip(
            "One complete slice is not trained on; its Dice is plotted during the training.\n"
            f"Needs {LEAST_TO_HOLD} complete slices that show the structures."
        )
        self._hold_chosen = False
        form = QFormLayout()
        form.addRow(row(self.purpose, self.minutes, stretch=0))
        form.addRow("Start from", self.weights)
        self.run_on = add_run_on(form, jobs.host)
        self.advanced = Advanced()
        self.estimate = EstimateLabel(session, estimates, self._new_job, jobs.host)
        self.start = button(
            "Fine-tune and predict",
            self.fine_tune,
            "Train on the annotated slices of all scans, then segment the scan on the screen",
            True,
        )
        self.resume = button(
            "Continue", self.go_on, "Resume the stopped fine-tuning from its last checkpoint"
        )
        self.panel = JobPanel(session, self.kinds, jobs.stop)
        buttons = row(self.start, self.resume, stretch=0)
        # What a training hides comes last: nothing above it moves when it starts and ends.
        column(self, form, buttons, self.panel, self.about, self.hold, self.estimate, self.advanced)
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        session = self.session
        for signal in (session.project_changed, session.scan_changed, session.runs_changed,
                       session.lock_changed):  # fmt: skip
            signal.connect(self.refresh)
        for listener in (self._suggest_to_hold, self.estimate.refresh):
            session.annotation.changed.connect(listener)
        # Another project's runs may have the same names.
        session.project_changed.connect(lambda: self.weights.setCurrentIndex(0))
        for signal in (session.project_changed, session.run_deleted):
            signal.connect(lambda *about: self._show_last_curves())
        self.purpose.currentIndexChanged.connect(self._on_purpose)
        self.weights.currentIndexChanged.connect(self._explain)
        self.minutes.valueChanged.connect(self.estimate.refresh)
        self.advanced.changed.connect(self.estimate.refresh)
        self.hold.clicked.connect(self._on_hold)

    def summary(self) -> str:
        """Progress of a running fine-tuning in per cent."""
        job = self.session.job
        return job.progress if job.running and job.kind == self.kind else ""

    def fine_tune(self) -> None:
        """Fine-tune on all annotations and segment the scan on the screen."""
        catch_errors(self.session, lambda: self._run(self._new_job))

    def go_on(self) -> None:
        """Continue the newest fine-tuning that did not run to completion."""
        run = self.session.resumable(self.kind)
        if run is not None:
            catch_errors(self.session, lambda: self._run(lambda: resume_job(self.session, run)))

    def _new_job(self) -> jobs.FinetuneJob:
        purpose = self.purpose.currentData()
        job = finetune_job(self.session, self.weights.currentData(), self.minutes.value())
        hold = {"validation_slice": True} if self.hold.isChecked() else {}
        job = replace(job, recipe=purpose.recipe, semi_supervised=purpose.semi_supervised, settings=hold)
        return with_settings(job, self.advanced.values())

    def _run(self, job: Callable[[], jobs.Job]) -> None:
        self.workspace.autosave.flush()  # only then is it known what is annotated
        self.jobs.start(job())

    def refresh(self) -> None:
        """Update the list of weights and which controls are enabled."""
        idle = self.session.idle
        self._fill_weights()
        allow(self.start, no_job(self.session))
        resumable = self.session.resumable(self.kind) is not None
        allow(self.resume, job_blocked(self.session) or ("" if resumable else NOTHING_TO_CONTINUE))
        for widget in (self.purpose, self.weights, self.minutes, self.run_on):
            allow(widget, job_blocked(self.session))
        for part in (self.about, self.hold, self.advanced):
            part.setVisible(idle)
        self._explain()

    def _fill_weights(self) -> None:
        """The weights that ship, pre-trainings, newest first, random ones, the last fine-tuning.

        A choice stays, and so does that of the last fine-tuning when there is a newer one.
        """
        last = self.session.runs(self.kind)[:1]
        items = [
            (SHAPES_NAME, SHAPES),
            *((describe(run), run.id) for run in self.session.starting_runs()),
            (RANDOM_NAME, RANDOM),
            *((f"{CONTINUE} ({number(run)})", run.id) for run in last),
        ]
        box = self.weights
        if items == [(box.itemText(n), box.itemData(n)) for n in range(box.count())]:
            return
        chosen, continues = box.currentData(), box.currentText().startswith(CONTINUE)
        with QSignalBlocker(box):
            box.clear()
            for text, data in items:
                box.addItem(text, data)
        box.setCurrentIndex(len(items) - 1 if continues and last else max(0, box.findData(chosen)))

    def _show_last_curves(self) -> None:
        runs = self.session.runs(self.kind)
        self.panel.set_curves(*curves_of(runs[0].folder, "loss", "dice") if runs else [[]])

    def _on_purpose(self) -> None:
        self.minutes.setValue(self.purpose.currentData().minutes)
        self._explain()

    def _suggest_to_hold(self) -> None:
        if not self._hold_chosen:
            self.hold.setChecked(len(self.session.annotation.complete) >= ENOUGH_TO_HOLD)

    def _on_hold(self) -> None:
        self._hold_chosen = True
        self.estimate.refresh()

    def _explain(self) -> None:
        """Describe the purpose and the initial weights."""
        if self.weights.currentText().startswith(CONTINUE):
            start = "Continues from the weights of that fine-tuning, with all annotations."
        else:
            which = STARTS.get(self.weights.currentData(), "your pre-trained weights")
            start = f"Starts anew from {which}, with all annotations."
        preset = self.purpose.currentData()
        self.about.setText(f"{preset.about}\n{start}")
        choice, recipe = preset.semi_supervised, preset.recipe
        self.advanced.show_settings(f"{choice}-{recipe}", lambda: settings.of_finetuning(choice, recipe))
        self.estimate.refresh()


def describe(run: Run) -> str:
    """A short description of a run: number, method, initial weights."""
    job: dict = run.job
    if job.get("job") == jobs.kind_of(jobs.PretrainJob(project="")):
        return f"{job.get('method', '').upper()} pre-training ({number(run)})"
    weights = job.get("weights") or RANDOM
    known = {SHAPES: "shapes", RANDOM: "random weights"}
    start = known.get(weights, "the previous fine-tuning" if "-finetune" in weights else "pre-training")
    return f"{number(run).capitalize()}, from {start}"


def number(run: Run) -> str:
    """ "run 3"."""
    return f"run {run.id.split('-')[0].lstrip('0')}"
