"""Step 6: what the network has learned: click a voxel, see what looks like it, here and in other scans."""

from __future__ import annotations

from dataclasses import replace

from medssl.core.shipped import SHAPES
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_medssl.engine.child_process import Jobs
from napari_medssl.engine.precompute import Precompute
from napari_medssl.engine.side_jobs import SideJobs
from napari_medssl.error_handling import guarded
from napari_medssl.explore.landmarks import Marks
from napari_medssl.explore.pca_colors import FeatureColors
from napari_medssl.explore.similarity import Similar
from napari_medssl.model.job_factory import features_job
from napari_medssl.model.session import Session
from napari_medssl.widgets.finetune import SHAPES_NAME, describe
from napari_medssl.widgets.landmarks import LandmarkBox
from napari_medssl.widgets.parts import JobPanel, button, column, hint, row, set_primary
from napari_medssl.widgets.places import PlaceTable
from napari_medssl.workspace import Workspace

MOST_ROWS = 4
HOW = "Click a place in the scan. Shift-click adds a place that is meant, Ctrl-click one that is not."
NONE_HERE = "This scan has no features of these weights yet; compute them."
COMING = "The features of this scan are being computed, which takes some seconds."


class Features(QWidget):
    """Weights, compute; clicks or colours; the best match of each scan; landmarks."""

    title = "Features"
    kind = "features"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs, side_jobs: SideJobs) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.similar = Similar(workspace)
        self.marks = Marks(self.similar)
        self.colors = FeatureColors(self.similar)
        self.precompute = Precompute(session, side_jobs, jobs.ahead, lambda: self.similar.run)
        self.weights = QComboBox()
        self.weights.setToolTip(
            "The network whose features are computed; the features of its own weights the program computes "
            "by itself when a scan is opened"
        )
        self.weights.activated.connect(lambda number: self._on_weights())
        self.form = QFormLayout()
        self.form.addRow("Weights", self.weights)
        self.compute = button(
            "Compute features", self.start, "Describe every place of the scan; kept in the project", True
        )
        self.compute_all = button(
            "All scans", self.start_all, "Compute the features of all scans of the project that have none yet"
        )
        self.panel = JobPanel(session, self.kind, jobs.stop, curve=False)
        self.follow = button(
            "Follow clicks", self.toggle, "A click shows what looks like the place, here and in other scans"
        )
        self.show_colors = button(
            "Colours",
            self.toggle_colors,
            "The same colour is what the network takes for the same, in all scans",
        )
        for each in (self.follow, self.show_colors):
            each.setCheckable(True)
        self.words = hint()
        self.table = PlaceTable(
            self._go_to,
            MOST_ROWS,
            "The best match of each scan and its score, at most 1; click one to go there",
        )
        self.landmarks = LandmarkBox(self.marks)
        column(self, self.form, row(self.compute, self.compute_all, stretch=0), self.panel,
               row(self.follow, self.show_colors), self.words, self.table, self.landmarks)  # fmt: skip
        session.project_changed.connect(self._on_project)
        for signal in (session.scan_changed, session.runs_changed):
            signal.connect(self.refresh)
        self.similar.changed.connect(self._show_matches)
        self.precompute.changed.connect(self._on_precompute)
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        if self.session.has_features(self.similar.run):
            return "ready"
        return "computing" if self._coming() else ""

    def _coming(self) -> bool:
        return bool(self.precompute.scan) and self.precompute.scan == self.session.scan

    def start(self) -> None:
        """Compute the features of the scan on the screen."""
        guarded(self.session, lambda: self._run(False))

    def start_all(self) -> None:
        """Compute the features of all scans that have none yet."""
        guarded(self.session, lambda: self._run(True))

    def _run(self, all_scans: bool) -> None:
        self.workspace.autosave.flush()
        job = features_job(self.session, self.weights.currentData())
        self.jobs.start(replace(job, scans=()) if all_scans else job)

    def toggle(self) -> None:
        """Follow clicks, or stop."""
        if self.follow.isChecked():
            self.show_colors.setChecked(False)
            self.colors.switch(False)
        guarded(self.session, lambda: self.similar.follow(self.follow.isChecked()))
        self.refresh()

    def toggle_colors(self) -> None:
        """Show the features as colours, or the scan alone."""
        if self.show_colors.isChecked() and self.follow.isChecked():
            self.follow.setChecked(False)
            self.similar.follow(False)
        guarded(self.session, lambda: self.colors.switch(self.show_colors.isChecked()))
        self.refresh()

    def _go_to(self, scan: str) -> None:
        guarded(self.session, lambda: self.similar.go_to(scan))

    def _show_matches(self) -> None:
        if self.session.closed:
            return
        found, project = self.similar.matches, self.session.project
        scans = [scan for scan in project.scans if scan in found] if project else []
        rows = [(scan, f"{found[scan].score:.2f}") for scan in scans]
        self.table.show_rows(rows if self.follow.isChecked() else [], self.session.scan or "")

    def _on_project(self) -> None:
        self.weights.setCurrentIndex(0)  # another project's runs may have the same names
        self.refresh()

    def _on_weights(self) -> None:
        self.refresh()
        self.precompute.look()

    def _on_precompute(self) -> None:
        self.similar.coming = self.precompute.scan
        self.refresh()

    def refresh(self) -> None:
        """Show which weights there are, and whether clicks can be followed."""
        self._fill_weights()
        self.similar.use(self.weights.currentData())
        ready, coming = self.session.features_hold(self.similar.run), self._coming()
        free = self.session.scan is not None and self.session.idle
        self.compute.setEnabled(free and not coming)
        self.compute_all.setEnabled(free)
        several = self.session.project is not None and len(self.session.project.scans) > 1
        self.compute_all.setVisible(several)
        for each in (self.follow, self.show_colors):
            each.setEnabled(ready or coming or each.isChecked())
        set_primary(self.compute, not (ready or coming))
        watching = self.follow.isChecked() or self.show_colors.isChecked()
        missing = COMING if coming else NONE_HERE if watching else ""
        self.words.setText((HOW if self.follow.isChecked() else "") if ready else missing)
        self.words.setVisible(bool(self.words.text()))
        self.colors.refresh()
        self.similar.look_again()
        if not self.session.job.running:
            self.marks.find()
        self._show_matches()

    def _fill_weights(self) -> None:
        """The weights that ship, then pre-trainings and fine-tunings, newest first; a choice stays."""
        runs = [*self.session.runs("pretrain"), *self.session.runs("finetune")]
        items = [(SHAPES_NAME, SHAPES), *((describe(run), run.id) for run in runs)]
        if [item for _, item in items] != [self.weights.itemData(n) for n in range(self.weights.count())]:
            chosen = self.weights.currentData()
            self.weights.clear()
            for text, item in items:
                self.weights.addItem(text, item)
            self.weights.setCurrentIndex(max(0, self.weights.findData(chosen)))
