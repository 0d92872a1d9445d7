"""Step 3: let a network learn from the scans themselves, without labels."""

from __future__ import annotations

from medssl import config
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_medssl.guard import guarded
from napari_medssl.history import losses_of
from napari_medssl.jobs import Jobs
from napari_medssl.session import Session
from napari_medssl.widgets.parts import JobPanel, button, column, minutes_box, row
from napari_medssl.workspace import Workspace

METHODS = {"PGL: local consistency": "pgl", "MAE: fill in what is hidden": "mae"}


class Pretrain(QWidget):
    """Method, time, start, continue, stop."""

    title = "Pre-train"
    kind = "pretrain"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.method = QComboBox()
        self.method.addItems(list(METHODS))
        self.method.setToolTip(
            "PGL learns features that agree where two views show the same tissue; MAE learns to repaint "
            "hidden parts"
        )
        self.minutes = minutes_box(5)
        form = QFormLayout()
        form.addRow("Method", self.method)
        form.addRow("Time", self.minutes)
        self.start = button(
            "Pre-train", self.start_anew, "Train on all scans of the project; no annotation is needed", True
        )
        self.resume = button(
            "Continue", self.go_on, "Go on from the last checkpoint of the pre-training that was stopped"
        )
        self.panel = JobPanel(session, self.kind, jobs.stop)
        column(self, form, row(self.start, self.resume), self.panel)
        for signal in (session.project_changed, session.scan_changed, session.runs_changed):
            signal.connect(self.refresh)
        session.project_changed.connect(self._show_last_curve)
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        if self.session.job.running and self.session.job.kind == self.kind:
            return f"{self.session.job.fraction:.0%}"
        done = self.session.runs(self.kind)
        return f"{done[0].job.get('method', '').upper()} ready" if done else ""

    def start_anew(self) -> None:
        """Pre-train from random weights."""
        guarded(self.session, lambda: self._run(self._new_job()))

    def go_on(self) -> None:
        """Continue the newest pre-training that did not come to its end."""
        run = self.session.resumable(self.kind)
        if run is not None:
            guarded(self.session, lambda: self._run(self.session.resume_job(run)))

    def _new_job(self) -> config.Job:
        return self.session.pretrain_job(METHODS[self.method.currentText()], self.minutes.value())

    def _run(self, job: config.Job) -> None:
        self.workspace.autosave.flush()
        self.jobs.start(job)

    def refresh(self) -> None:
        """Buttons that can do nothing are grey."""
        idle = not self.session.job.running
        self.start.setEnabled(idle and self.session.scan is not None)
        self.resume.setVisible(idle and self.session.resumable(self.kind) is not None)
        for widget in (self.method, self.minutes):
            widget.setEnabled(idle)

    def _show_last_curve(self) -> None:
        runs = self.session.runs(self.kind)
        self.panel.curve.set_points(losses_of(runs[0].folder) if runs else [])
