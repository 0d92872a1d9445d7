"""Step 3: let a network learn from the scans themselves, without labels."""

from __future__ import annotations

from medssl.core import jobs, recipes
from medssl.core.methods import METHODS
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_medssl.engine.child_process import Jobs
from napari_medssl.engine.estimates import Estimates
from napari_medssl.error_handling import guarded
from napari_medssl.model.job_factory import pretrain_job, resume_job
from napari_medssl.model.run_history import curves_of
from napari_medssl.model.session import Session
from napari_medssl.widgets.finetune import STARTS
from napari_medssl.widgets.forecast import Forecast
from napari_medssl.widgets.parts import JobPanel, button, choice, column, hint, minutes_box, row
from napari_medssl.workspace import Workspace

NOT_PUBLISHED = "No paper has numbers for this method; choose another purpose."


class Pretrain(QWidget):
    """What for, method, time; start, continue, stop."""

    title = "Pre-train"
    kind = "pretrain"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs, estimates: Estimates) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.purpose, self.method, self.about = choice(), choice(), hint()
        for each in recipes.PRETRAINING:
            self.purpose.addItem(each.name, each)
        for method in METHODS:
            self.method.addItem(method.upper(), method)
        self.minutes = minutes_box(recipes.PRETRAINING[0].minutes)
        form = QFormLayout()
        form.addRow(row(self.purpose, self.minutes, stretch=0))
        form.addRow("Method", self.method)
        form.addRow(self.about)
        self.forecast = Forecast(session, estimates, self._new_job)
        self.start = button(
            "Pre-train", self.start_anew, "Train on all scans of the project; no annotation is needed", True
        )
        self.resume = button(
            "Continue", self.go_on, "Go on from the last checkpoint of the pre-training that was stopped"
        )
        self.panel = JobPanel(session, self.kind, jobs.stop)
        self.verdict = hint()
        column(self, form, self.forecast, row(self.start, self.resume), self.panel, self.verdict)
        for signal in (session.project_changed, session.scan_changed, session.runs_changed):
            signal.connect(self.refresh)
        session.project_changed.connect(self._show_last_curve)
        self.purpose.currentIndexChanged.connect(self._on_purpose)
        self.method.currentIndexChanged.connect(self._explain)
        self.minutes.valueChanged.connect(self.forecast.refresh)
        self._explain()
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        if self.session.job.running and self.session.job.kind == self.kind:
            return f"{self.session.job.fraction:.0%}"
        done = self.session.runs(self.kind)
        if not done:
            return ""
        return f"{done[0].job.get('method', '').upper()} {'collapsed' if done[0].collapsed else 'ready'}"

    def start_anew(self) -> None:
        """Pre-train anew."""
        guarded(self.session, lambda: self._run(self._new_job()))

    def go_on(self) -> None:
        """Continue the newest pre-training that did not come to its end."""
        run = self.session.resumable(self.kind)
        if run is not None:
            guarded(self.session, lambda: self._run(resume_job(self.session, run)))

    def _new_job(self) -> jobs.PretrainJob:
        recipe = self.purpose.currentData().recipe
        return pretrain_job(self.session, self.method.currentData(), recipe, self.minutes.value())

    def _run(self, job: jobs.Job) -> None:
        self.workspace.autosave.flush()
        self.jobs.start(job)

    def refresh(self) -> None:
        """Buttons that can do nothing are grey."""
        idle = self.session.idle
        self.start.setEnabled(idle and self.session.scan is not None)
        self.resume.setVisible(idle and self.session.resumable(self.kind) is not None)
        for widget in (self.purpose, self.method, self.minutes):
            widget.setEnabled(idle)
        self.about.setVisible(idle)
        self.forecast.refresh()
        # What the newest run came to, where no job of this viewer says so already.
        done = self.session.runs(self.kind)
        self.verdict.setText(done[0].collapse_report.get("words", "") if done else "")
        self.verdict.setVisible(bool(self.verdict.text()) and self.session.job.kind != self.kind)

    def _on_purpose(self) -> None:
        self.minutes.setValue(self.purpose.currentData().minutes)
        self._explain()

    def _explain(self) -> None:
        """What the choice is for, in plain words."""
        purpose, known = self.purpose.currentData(), recipes.names()
        for number in range(self.method.count()):
            name = f"{self.method.itemData(number)}-{purpose.recipe}"
            able = name in known
            self.method.model().item(number).setEnabled(able)
            line = recipes.read(name).purpose if able else NOT_PUBLISHED
            self.method.setItemData(number, line, Qt.ItemDataRole.ToolTipRole)
        if not self.method.model().item(self.method.currentIndex()).isEnabled():
            self.method.setCurrentIndex(0)  # comes back here
            return
        method = self.method.currentData(Qt.ItemDataRole.ToolTipRole)
        start = STARTS[recipes.default_weights(self.method.currentData(), purpose.recipe)]
        self.about.setText(f"{purpose.about}\n{method}\nStarts from {start}.")
        self.forecast.refresh()

    def _show_last_curve(self) -> None:
        runs = self.session.runs(self.kind)
        self.panel.curve.set_points(*curves_of(runs[0].folder, "loss") if runs else [[]])
