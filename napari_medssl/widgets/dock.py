"""The dock: six steps from a scan file to an exported segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.core.project.project import SURE_BACKGROUND
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget
from superqt import ensure_main_thread

from napari_medssl.annotate import keys
from napari_medssl.annotate.keys import AnnotationKeys
from napari_medssl.canvas_context import make_canvas_current_on_removal, window_of
from napari_medssl.engine.background_jobs import BackgroundJobs
from napari_medssl.engine.child_process import COMMAND
from napari_medssl.engine.estimates import Estimates
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.engine.project_lock import ProjectLock
from napari_medssl.error_handling import catch_errors
from napari_medssl.explore.instant_preview import InstantPreview
from napari_medssl.model.reasons import no_job
from napari_medssl.model.session import Session
from napari_medssl.predict.live_preview import LivePreview
from napari_medssl.qt import not_none
from napari_medssl.reading.reading_tools import ReadingTools
from napari_medssl.widgets import style
from napari_medssl.widgets.annotate import Annotate
from napari_medssl.widgets.closing import ClosingQuestion
from napari_medssl.widgets.components import Step, StepContent, allow, button
from napari_medssl.widgets.features import Features
from napari_medssl.widgets.feedback import Feedback
from napari_medssl.widgets.finetune import Finetune
from napari_medssl.widgets.instant_preview import InstantPreviewBox
from napari_medssl.widgets.legend import Legend
from napari_medssl.widgets.live_preview import live_preview_label
from napari_medssl.widgets.prediction import Prediction
from napari_medssl.widgets.pretrain import Pretrain
from napari_medssl.widgets.scans import Scans
from napari_medssl.widgets.surfaces import SurfacesButton
from napari_medssl.widgets.view_bar import ViewBar
from napari_medssl.workspace import Workspace

if TYPE_CHECKING:
    import napari

NOTIFICATIONS = {"info": show_info, "warning": show_warning, "error": show_error}
SURE_KEY, COMPLETE_KEY, PREDICTION_KEY, PREVIEW_KEY = "Q", "K", "H", "W"
NEXT_SCAN_KEY, LAST_SCAN_KEY = "PageDown", "PageUp"
FLIP_KEY, ACCEPT_KEY = "J", "U"
REVIEW_KEY, ACCEPT_SCAN_KEY = "N", "Shift-U"
WIDTH, MARGIN = 345, 6
NOT_ANNOTATED = "Nothing is annotated yet; paint a few slices and mark them complete."


class Dock(QWidget):
    """Six steps, one open at a time, that share one session."""

    def __init__(self, viewer: napari.viewer.Viewer, command: Sequence[str] = COMMAND) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = Session()
        self.project_lock = ProjectLock(self.session)
        self.workspace = Workspace(viewer, self.session)
        self._closing = ClosingQuestion(self.session, self._save, self)
        self.jobs = JobRunner(self.session, command)
        self.background_jobs = BackgroundJobs(self.session, self.jobs.standby, command)
        self.estimates = Estimates(self.session, self.background_jobs)
        shared = (self.session, self.workspace)
        self.scans = Scans(*shared)
        self.annotate = Annotate(*shared, self.jobs)
        self.pretrain = Pretrain(*shared, self.jobs, self.estimates)
        self.finetune = Finetune(*shared, self.jobs, self.estimates)
        self.live = LivePreview(self.workspace, self.jobs)
        not_none(self.finetune.layout()).addWidget(live_preview_label(self.live))
        self.prediction = Prediction(*shared, self.jobs, self.annotate.edits)
        self.features = Features(*shared, self.jobs, self.background_jobs)
        self.preview = InstantPreviewBox(InstantPreview(self.workspace, self.features.similarity))
        self.reading = ReadingTools(self.workspace, self.annotate.edits, self.annotate.fill.range_brush)
        self.view_bar = ViewBar(self.reading)
        not_none(self.prediction.layout()).addWidget(SurfacesButton(self.reading.surfaces))
        self.train = button("Fine-tune and predict", self._train, "Start step 4 with its current settings")
        self.annotate.insert(self.preview, self.train)
        contents: tuple[StepContent, ...] = (
            self.scans,
            self.annotate,
            self.pretrain,
            self.finetune,
            self.prediction,
            self.features,
        )
        self.legend = Legend(self.workspace, self)
        self.steps = [Step(number, content) for number, content in enumerate(contents, 1)]
        self._lay_out()
        self.keys = self._keys()
        self._connect()
        self._restyle()
        self._summarise()
        self.steps[0].expand()

    def open(self, *paths: str | Path) -> None:
        """Open a project folder, scans and folders of scans; what is shown appears once it is read."""
        catch_errors(self.session, lambda: self.scans.open_paths([Path(path) for path in paths]))

    def _on_project(self) -> None:
        if self.session.project is not None:  # which is used in threads, too
            self.session.project.on_notice = ensure_main_thread(
                lambda text: self.session.notify("warning", text)
            )

    def _lay_out(self) -> None:
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setSpacing(6)
        for step in self.steps:
            layout.addWidget(step)
        layout.addStretch(1)
        self.scroll_area = scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        bar = not_none(scroll.verticalScrollBar())

        def keep_width(first: int = 0, last: int = 0) -> None:
            """Keep room for the scroll bar: nothing changes its width when it comes."""
            layout.setContentsMargins(
                MARGIN, MARGIN, MARGIN + (0 if last else bar.sizeHint().width()), MARGIN
            )

        bar.rangeChanged.connect(keep_width)
        keep_width()
        outside = QVBoxLayout(self)
        outside.setContentsMargins(0, 0, 0, 4)
        self.feedback = feedback = Feedback(self.session, self.steps)
        feedback.messages.watch(self.view_bar)
        host = self.jobs.host
        host.changed.connect(lambda: feedback.job_line.set_host(host.chosen))
        feedback.job_line.set_host(host.chosen)
        # What comes and goes stands below what is clicked.
        for widget in (self.view_bar, scroll, feedback.read_only_line, feedback.messages, feedback.job_line):
            outside.addWidget(widget)
        self.setMinimumWidth(WIDTH)

    def _connect(self) -> None:
        session = self.session
        session.project_changed.connect(self._on_project)
        session.message.connect(lambda severity, text: NOTIFICATIONS[severity](text))
        self.session.annotation.stroke.connect(lambda *of: self.jobs.warm_up())
        for step in self.steps:
            step.toggled.connect(lambda opened, step=step: self._on_toggled(step, opened))
            if isinstance(step.body, Pretrain | Finetune):
                step.toggled.connect(step.body.estimate.set_open)
        for signal in (session.project_changed, session.scans_changed, session.annotation.changed,
                       session.runs_changed, session.job_changed, session.scan_changed,
                       session.lock_changed):  # fmt: skip
            signal.connect(self._summarise)
        session.predicted.connect(lambda scan, run: self._summarise())
        for listener in (self._summarise, self.preview.preview.ask):
            self.features.precompute.changed.connect(listener)
        self.scans.ready.connect(self._paint)
        self.viewer.events.theme.connect(self._restyle)
        self._release_canvas = make_canvas_current_on_removal(self.viewer, self)
        self._leave = self._cleanup()
        self.destroyed.connect(self._leave)

    def _on_toggled(self, opened: Step, is_open: bool) -> None:
        for step in self.steps:
            if is_open and step is not opened and step.isExpanded():
                step.collapse()
        self.legend.want(any(step.isExpanded() for step in (self.steps[1], self.steps[4])))

    def _paint(self) -> None:
        """Open step 2 with the brush selected."""
        self.steps[1].expand()
        self.annotate.new_annotation()

    def _train(self) -> None:
        """Open step 4 and start it."""
        self.steps[3].expand()
        self.finetune.fine_tune()

    def _summarise(self) -> None:
        allow(self.train, no_job(self.session) or ("" if self.session.annotated else NOT_ANNOTATED))
        for step in self.steps:
            step.refresh_summary()

    def _restyle(self, event: object = None) -> None:
        self.setStyleSheet(style.sheet(self.viewer.theme))
        for step in self.steps:
            step.redraw_icons()
        for each in (self.pretrain, self.finetune, self.prediction):
            each.advanced.redraw_icons()

    def _keys(self) -> AnnotationKeys:
        """Bind keys that napari does not use for Image layers."""
        actions: dict[keys.Key, Callable[[], object]] = {
            keys.PAINT: self.annotate.paint_class,
            keys.ERASE: lambda: self.annotate.use(0),
            keys.UNDO: self.workspace.undo.undo,
            keys.REDO: self.workspace.undo.redo,
            SURE_KEY: lambda: self.annotate.use(SURE_BACKGROUND),
            COMPLETE_KEY: self.annotate.toggle_complete,
            PREDICTION_KEY: self.workspace.predictions.toggle,
            PREVIEW_KEY: self.preview.toggle,
            FLIP_KEY: self.prediction.go_back,
            ACCEPT_KEY: self.prediction.accept_slice,
            REVIEW_KEY: self.prediction.review.show_next,
            ACCEPT_SCAN_KEY: self.prediction.review.accept,
            NEXT_SCAN_KEY: lambda: self.scans.table.step(1),
            LAST_SCAN_KEY: lambda: self.scans.table.step(-1),
            **self.view_bar.keys,
        }
        return AnnotationKeys(
            self.workspace, {key: partial(self._attempt, action) for key, action in actions.items()}
        )

    def _attempt(self, action: Callable[[], object]) -> None:
        """What a key does."""
        self.session.messages.attempt()
        action()

    # --- leaving -------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """Find the window that contains the dock."""
        super().showEvent(event)
        self._closing.watch()
        self.legend.put_on(window_of(self))
        self.reading.attach(self)
        self.features.precompute.expect_scan()

    def _save(self) -> None:
        catch_errors(self.session, self.workspace.leave)

    def changeEvent(self, event: QEvent | None) -> None:
        """Clean up when napari takes a closed dock's content out of the window without deleting it."""
        super().changeEvent(event)
        taken_out = event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None
        if taken_out and self.isHidden():
            self._leave()
            self.deleteLater()

    def _cleanup(self) -> Callable[[], None]:
        """A function that saves strokes, disconnects listeners and stops the engine, once.

        It may run while this widget is being destroyed, so it refers to the parts but not to the widget.
        """
        session, workspace, jobs, similarity = (
            self.session,
            self.workspace,
            self.jobs,
            self.features.similarity,
        )
        preview, project_lock, live = self.preview.preview, self.project_lock, self.live
        proposals = self.annotate.proposals
        reading = self.reading
        viewer, restyle, release_canvas = self.viewer, self._restyle, self._release_canvas
        bound, legend, closing = self.keys, self.legend, self._closing
        estimates, precompute, background_jobs = (
            self.estimates,
            self.features.precompute,
            self.background_jobs,
        )

        def leave() -> None:
            if session.closed:
                return
            catch_errors(session, workspace.leave)
            closing.leave()
            preview.close()
            live.close()
            if proposals is not None:
                proposals.close()
            reading.close()
            session.close()
            similarity.close()
            workspace.close()
            viewer.events.theme.disconnect(restyle)
            release_canvas()
            bound.close()
            legend.close_for_good()
            estimates.cancel()
            precompute.close()
            background_jobs.cancel_all()
            jobs.leave()
            project_lock.release()

        return leave
