"""Step 6: what the network has learned: click a voxel, see what looks like it."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_medssl.guard import guarded
from napari_medssl.jobs import Jobs
from napari_medssl.session import Session
from napari_medssl.similar import Similar
from napari_medssl.tasks import features_job
from napari_medssl.widgets.finetune import describe
from napari_medssl.widgets.parts import JobPanel, button, column, hint, set_primary
from napari_medssl.workspace import Workspace


class Features(QWidget):
    """Weights, compute, follow clicks."""

    title = "Features"
    kind = "features"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.similar = Similar(workspace)
        self.weights = QComboBox()
        self.weights.setToolTip("The network whose features are computed")
        self.weights.activated.connect(lambda number: self.refresh())
        form = QFormLayout()
        form.addRow("Weights", self.weights)
        self.compute = button(
            "Compute features", self.start, "Describe every place of the scan; kept in the project", True
        )
        self.panel = JobPanel(session, self.kind, jobs.stop, curve=False)
        self.follow = button(
            "Follow clicks", self.toggle, "A click in the scan shows what looks like the place you clicked"
        )
        self.follow.setCheckable(True)
        self.words = hint()
        column(self, form, self.compute, self.panel, self.follow, self.words)
        signals = (session.project_changed, session.scan_changed, session.runs_changed)
        for signal in signals:
            signal.connect(self.refresh)
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        return "ready" if self.session.has_features(self.similar.run) else ""

    def start(self) -> None:
        """Compute the features of the scan on the screen."""
        guarded(self.session, self._run)

    def _run(self) -> None:
        self.workspace.autosave.flush()
        self.jobs.start(features_job(self.session, self.weights.currentData()))

    def toggle(self) -> None:
        """Follow clicks, or stop."""
        self.similar.follow(self.follow.isChecked())
        self.refresh()

    def refresh(self) -> None:
        """Show which weights there are, and whether clicks can be followed."""
        runs = [*self.session.runs("pretrain"), *self.session.runs("finetune")]
        if [run.id for run in runs] != [self.weights.itemData(n) for n in range(self.weights.count())]:
            chosen = self.weights.currentData()
            self.weights.clear()
            for run in runs:
                self.weights.addItem(describe(run), run.id)
            self.weights.setCurrentIndex(max(0, self.weights.findData(chosen)))
        self.similar.run = self.weights.currentData()
        ready = self.session.has_features(self.similar.run)
        self.compute.setEnabled(bool(runs) and not self.session.job.running)
        if not ready and self.follow.isChecked():
            self.follow.setChecked(False)
            self.similar.follow(False)
        self.follow.setEnabled(ready)
        set_primary(self.compute, not ready)
        if self.follow.isChecked():
            self.words.setText("Click a place in the scan: bright is what looks like it.")
        else:
            self.words.setText("" if runs else "Pre-train first: features come from trained weights.")
        self.words.setVisible(bool(self.words.text()))
