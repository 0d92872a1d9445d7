"""Step 6: explore the features of a network: similarity to a clicked voxel, colours, landmarks."""

from __future__ import annotations

from dataclasses import replace

from medssl.core.shipped import SHAPES
from qtpy.QtWidgets import QComboBox, QFormLayout

from napari_medssl.engine.background_jobs import BackgroundJobs
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.engine.precompute import Precompute
from napari_medssl.error_handling import catch_errors
from napari_medssl.explore.landmarks import LandmarkEditor
from napari_medssl.explore.pca_colors import FeatureColors
from napari_medssl.explore.similarity import SimilaritySearch
from napari_medssl.model.job_factory import features_job
from napari_medssl.model.reasons import no_job, no_scan
from napari_medssl.model.session import Session
from napari_medssl.widgets.components import (
    StepContent,
    allow,
    button,
    column,
    row,
    set_primary,
)
from napari_medssl.widgets.finetune import SHAPES_NAME, describe
from napari_medssl.widgets.landmarks import LandmarkBox
from napari_medssl.widgets.navigation_table import NavigationTable
from napari_medssl.widgets.run_menu import RIGHT_CLICK, RunMenu
from napari_medssl.widgets.status_slot import StatusSlot
from napari_medssl.workspace import Workspace

MOST_ROWS = 4
CLICK_HINT = "Click a voxel in the scan. Shift-click adds a positive example, Ctrl-click a negative one."
NO_FEATURES = "This scan has no features of these weights yet; compute them."
READY = "The features of this scan are ready."
FEATURES_PENDING = "The features of this scan are being computed; this takes a few seconds."


class Features(StepContent):
    """Weights, computation, similarity search, colours, landmarks."""

    title = "Features"
    kind = "features"
    kinds = (kind,)

    def __init__(
        self, session: Session, workspace: Workspace, jobs: JobRunner, background_jobs: BackgroundJobs
    ) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self.similarity = SimilaritySearch(workspace)
        self.landmark_editor = LandmarkEditor(self.similarity)
        self.colors = FeatureColors(self.similarity)
        self.precompute = Precompute(session, background_jobs, jobs.standby, lambda: self.similarity.run)
        self.weights = QComboBox()
        self.weights.setToolTip(
            "The network whose features are used; those of the bundled weights are computed when a scan is "
            f"opened; {RIGHT_CLICK}"
        )
        self.weights.activated.connect(lambda number: self._on_weights())
        self.form = QFormLayout()
        self.form.addRow("Weights", self.weights)
        self.compute = button(
            "Compute features", self.start, "Compute a feature map of the scan; saved in the project", True
        )
        self.compute_all = button(
            "All scans", self.start_all, "Compute the features of all scans of the project that have none yet"
        )
        self.status = StatusSlot(session, self.kinds, jobs.stop)
        self.panel = self.status.panel
        self.follow = button(
            "Follow clicks", self.toggle, "Click a voxel to find similar ones in this and in other scans"
        )
        self.show_colors = button(
            "Colours",
            self.toggle_colors,
            "Principal components of the features: similar features have similar colours in all scans",
        )
        for toggle in (self.follow, self.show_colors):
            toggle.setCheckable(True)
        self.table = NavigationTable(
            self._go_to,
            MOST_ROWS,
            "Best match in each scan and its similarity (at most 1); click to go there",
        )
        self.landmarks = LandmarkBox(self.landmark_editor)
        column(self, self.form, row(self.compute, self.compute_all, stretch=0),
               row(self.follow, self.show_colors), self.status, self.table, self.landmarks)  # fmt: skip
        session.project_changed.connect(self._on_project)
        for signal in (session.scan_changed, session.runs_changed, session.lock_changed):
            signal.connect(self.refresh)
        for signal in (self.similarity.changed, session.scans_changed):
            signal.connect(self._show_matches)
        self.run_menu = RunMenu(session, self.weights, self.weights.currentData)
        self.precompute.changed.connect(self._on_precompute)
        self.refresh()

    def summary(self) -> str:
        """Whether the features of the scan on the screen are ready."""
        if self.session.has_features(self.similarity.run):
            return "ready"
        return "computing" if self._pending() else ""

    def _pending(self) -> bool:
        return bool(self.precompute.scan) and self.precompute.scan == self.session.scan

    def start(self) -> None:
        """Compute the features of the scan on the screen."""
        catch_errors(self.session, lambda: self._run(False))

    def start_all(self) -> None:
        """Compute the features of all scans that have none yet."""
        catch_errors(self.session, lambda: self._run(True))

    def _run(self, all_scans: bool) -> None:
        self.workspace.autosave.flush()
        job = features_job(self.session, self.weights.currentData())
        self.jobs.start(replace(job, scans=()) if all_scans else job)

    def toggle(self) -> None:
        """Follow clicks, or stop following them."""
        if self.follow.isChecked():
            self.show_colors.setChecked(False)
            self.colors.switch(False)
        catch_errors(self.session, lambda: self.similarity.set_active(self.follow.isChecked()))
        self.refresh()

    def toggle_colors(self) -> None:
        """Show or hide the features as colours."""
        if self.show_colors.isChecked() and self.follow.isChecked():
            self.follow.setChecked(False)
            self.similarity.set_active(False)
        catch_errors(self.session, lambda: self.colors.switch(self.show_colors.isChecked()))
        self.refresh()

    def _go_to(self, title: str) -> None:
        project = self.session.need_project()
        catch_errors(self.session, lambda: self.similarity.go_to(project.scan_named(title).id))

    def _show_matches(self) -> None:
        if self.session.closed:
            return
        matches, project = self.similarity.matches, self.session.project
        scans = [scan for scan in project.scans if scan in matches] if project else []
        titles = project.titles if project else {}
        rows = [(titles[scan], f"{matches[scan].score:.2f}") for scan in scans]
        current = titles.get(self.session.scan or "", "")
        room = len(project.scans) if project else 0  # matches come one by one
        self.table.show_rows(rows if self.follow.isChecked() else [], current, room)

    def _on_project(self) -> None:
        self.weights.setCurrentIndex(0)  # another project's runs may have the same names
        self.refresh()

    def _on_weights(self) -> None:
        self.refresh()
        self.precompute.update()

    def _on_precompute(self) -> None:
        self.similarity.pending_scan = self.precompute.scan
        self.refresh()

    def refresh(self) -> None:
        """Update the list of weights and which buttons are enabled."""
        self._fill_weights()
        self.similarity.set_run(self.weights.currentData())
        ready, pending = self.session.features_valid(self.similarity.run), self._pending()
        allow(self.compute, FEATURES_PENDING if pending else no_job(self.session))
        allow(self.compute_all, no_job(self.session))
        several = self.session.project is not None and len(self.session.project.scans) > 1
        self.compute_all.setVisible(several)
        for toggle in (self.follow, self.show_colors):
            usable = ready or pending or toggle.isChecked()
            allow(toggle, "" if usable else no_scan(self.session) or NO_FEATURES)
        set_primary(self.compute, not (ready or pending))
        missing = FEATURES_PENDING if pending else no_scan(self.session) or NO_FEATURES
        ask = CLICK_HINT if self.follow.isChecked() else READY
        self.status.say(state=ask if ready else missing)
        if ready:
            self.session.messages.end("no-features")
        self.colors.refresh()
        self.similarity.refresh()
        if not self.session.job.running:
            self.landmark_editor.find()
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
