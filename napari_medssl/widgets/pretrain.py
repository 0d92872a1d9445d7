"""Step 3: pre-train a network on the scans themselves, without labels."""

from __future__ import annotations

from medssl.core import jobs, recipes, settings
from medssl.core.errors import UserError
from medssl.core.methods import METHODS
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout

from napari_medssl.engine.estimates import Estimates
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.job_factory import pretrain_job, resume_job, with_settings
from napari_medssl.model.reasons import job_blocked, no_job
from napari_medssl.model.run_history import curves_of
from napari_medssl.model.session import Session
from napari_medssl.widgets.advanced import Advanced, Groups
from napari_medssl.widgets.components import (
    JobPanel,
    StepContent,
    allow,
    button,
    column,
    combo_box,
    combo_item,
    hint,
    minutes_box,
    row,
)
from napari_medssl.widgets.estimate_label import EstimateLabel
from napari_medssl.widgets.finetune import NOTHING_TO_CONTINUE, STARTS
from napari_medssl.widgets.run_on import add_run_on
from napari_medssl.workspace import Workspace

NOT_PUBLISHED = "This method has no published configuration; choose another purpose."


class Pretrain(StepContent):
    """Purpose, method, time budget; start, continue, stop."""

    title = "Pre-train"
    kind = "pretrain"
    kinds = (kind,)

    def __init__(self, session: Session, workspace: Workspace, jobs: JobRunner, estimates: Estimates) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.purpose, self.method, self.about = combo_box(), combo_box(), hint()
        for item in recipes.PRETRAINING:
            self.purpose.addItem(item.name, item)
        for method in METHODS:
            self.method.addItem(method.upper(), method)
        self.minutes = minutes_box(recipes.PRETRAINING[0].minutes)
        form = QFormLayout()
        form.addRow(row(self.purpose, self.minutes, stretch=0))
        form.addRow("Method", self.method)
        self.run_on = add_run_on(form, jobs.host)
        self.advanced = Advanced()
        self.estimate = EstimateLabel(session, estimates, self._new_job, jobs.host)
        self.start = button(
            "Pre-train", self.start_anew, "Train on all scans of the project; no annotation is needed", True
        )
        self.resume = button(
            "Continue", self.go_on, "Resume the stopped pre-training from its last checkpoint"
        )
        self.panel = JobPanel(session, self.kinds, jobs.stop)
        self.report = hint()
        buttons = row(self.start, self.resume, stretch=0)
        # What a training hides comes last: nothing above it moves when it starts and ends.
        column(self, form, buttons, self.panel, self.report, self.about, self.estimate, self.advanced)
        for signal in (session.project_changed, session.scan_changed, session.runs_changed,
                       session.lock_changed):  # fmt: skip
            signal.connect(self.refresh)
        for signal in (session.project_changed, session.run_deleted):
            signal.connect(lambda *about: self._show_last_curve())
        self.purpose.currentIndexChanged.connect(self._on_purpose)
        self.method.currentIndexChanged.connect(self._explain)
        self.minutes.valueChanged.connect(self.estimate.refresh)
        self.advanced.changed.connect(self.estimate.refresh)
        self._explain()
        self.refresh()

    def summary(self) -> str:
        """Progress of a running pre-training, or the outcome of the last one."""
        if self.session.job.running and self.session.job.kind == self.kind:
            return self.session.job.progress
        done = self.session.runs(self.kind)
        if not done:
            return ""
        return f"{done[0].job.get('method', '').upper()} {'collapsed' if done[0].collapsed else 'ready'}"

    def start_anew(self) -> None:
        """Start a pre-training."""
        catch_errors(self.session, lambda: self._run(self._new_job()))

    def go_on(self) -> None:
        """Continue the newest pre-training that did not run to completion."""
        run = self.session.resumable(self.kind)
        if run is not None:
            catch_errors(self.session, lambda: self._run(resume_job(self.session, run)))

    def _new_job(self) -> jobs.PretrainJob:
        recipe = self.purpose.currentData().recipe
        job = pretrain_job(self.session, self.method.currentData(), recipe, self.minutes.value())
        return with_settings(job, self.advanced.values())

    def _run(self, job: jobs.Job) -> None:
        self.workspace.autosave.flush()
        self.jobs.start(job)

    def refresh(self) -> None:
        """Update which controls are enabled, and the report on the newest run."""
        idle = self.session.idle
        allow(self.start, no_job(self.session))
        resumable = self.session.resumable(self.kind) is not None
        allow(self.resume, job_blocked(self.session) or ("" if resumable else NOTHING_TO_CONTINUE))
        for widget in (self.purpose, self.method, self.minutes, self.run_on):
            allow(widget, job_blocked(self.session))
        for part in (self.about, self.advanced):
            part.setVisible(idle)
        self.estimate.refresh()
        # The report on the newest run, unless the job panel shows it.
        done = self.session.runs(self.kind)
        self.report.setText(done[0].collapse_report.get("words", "") if done else "")
        self.report.setVisible(bool(self.report.text()) and self.session.job.kind != self.kind)

    def _on_purpose(self) -> None:
        self.minutes.setValue(self.purpose.currentData().minutes)
        self._explain()

    def _explain(self) -> None:
        """Describe the purpose, the method and the initial weights."""
        purpose, known = self.purpose.currentData(), recipes.names()
        for number in range(self.method.count()):
            name = f"{self.method.itemData(number)}-{purpose.recipe}"
            available = name in known
            combo_item(self.method, number).setEnabled(available)
            tip = recipes.read(name).purpose if available else NOT_PUBLISHED
            self.method.setItemData(number, tip, Qt.ItemDataRole.ToolTipRole)
        if not combo_item(self.method, self.method.currentIndex()).isEnabled():
            self.method.setCurrentIndex(0)  # calls this method again
            return
        method = self.method.currentData(Qt.ItemDataRole.ToolTipRole)
        start = STARTS[recipes.default_weights(self.method.currentData(), purpose.recipe)]
        self.about.setText(f"{purpose.about}\n{method}\nStarts from {start}.")
        self._offer_settings(self.method.currentData(), purpose.recipe)
        self.estimate.refresh()

    def _offer_settings(self, method: str, recipe: str) -> None:
        def read() -> Groups:
            try:
                return settings.of_pretraining(method, recipe)
            except UserError:
                return {}  # a package of another method is damaged; the job will say so

        self.advanced.show_settings(f"{method}-{recipe}", read)

    def _show_last_curve(self) -> None:
        runs = self.session.runs(self.kind)
        self.panel.set_curves(*curves_of(runs[0].folder, "loss") if runs else [[]])
