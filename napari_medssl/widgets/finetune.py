"""Step 4: train on the painted slices."""

from __future__ import annotations

from medssl import config
from medssl.project import Run
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_medssl.guard import guarded
from napari_medssl.jobs import Jobs
from napari_medssl.session import Session
from napari_medssl.tasks import finetune_job
from napari_medssl.widgets.parts import JobPanel, button, column, minutes_box
from napari_medssl.workspace import Workspace

RANDOM = "Random weights"


class Finetune(QWidget):
    """Starting weights, time, one button."""

    title = "Fine-tune"
    kind = "finetune"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.weights = QComboBox()
        self.weights.setToolTip("Every round starts from these weights and uses all annotations")
        self.minutes = minutes_box(3)
        form = QFormLayout()
        form.addRow("Start from", self.weights)
        form.addRow("Time", self.minutes)
        self.start = button(
            "Fine-tune and predict",
            self.fine_tune,
            "Train on the painted slices of all scans, then segment the scan on the screen",
            True,
        )
        self.panel = JobPanel(session, self.kind, jobs.stop)
        column(self, form, self.start, self.panel)
        signals = (session.project_changed, session.scan_changed, session.runs_changed)
        for signal in signals:
            signal.connect(self.refresh)
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        job = self.session.job
        return f"{job.fraction:.0%}" if job.running and job.kind == self.kind else ""

    def fine_tune(self) -> None:
        """Train on the annotation and predict the scan on the screen."""
        guarded(self.session, self._run)

    def _run(self) -> None:
        self.workspace.autosave.flush()
        self.jobs.start(finetune_job(self.session, self.weights.currentData(), self.minutes.value()))

    def refresh(self) -> None:
        """Show the weights that there are."""
        idle = self.session.idle
        self._fill_weights()
        self.start.setEnabled(idle and self.session.scan is not None)
        for widget in (self.weights, self.minutes):
            widget.setEnabled(idle)

    def _fill_weights(self) -> None:
        runs = self.session.starts()
        texts = [*(f"{describe(run)}" for run in runs), RANDOM]
        if texts == [self.weights.itemText(n) for n in range(self.weights.count())]:
            return
        self.weights.clear()
        for text, run in zip(texts, [*runs, None], strict=True):
            self.weights.addItem(text, run.id if run else None)


def describe(run: Run) -> str:
    """A run in a few words: number, method, start."""
    number = run.id.split("-")[0].lstrip("0")
    job: dict = run.job
    if job.get("job") == config.kind_of(config.PretrainJob(project="")):
        return f"{job.get('method', '').upper()} pre-training (run {number})"
    return f"Run {number}, from {'pre-training' if job.get('weights') else 'random weights'}"
