"""The dock: six steps from a scan file to an exported segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.core.project.project import SURE_BACKGROUND
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_medssl.engine.child_process import COMMAND, Jobs
from napari_medssl.engine.estimates import Estimates
from napari_medssl.engine.project_lock import Holding
from napari_medssl.engine.side_jobs import SideJobs
from napari_medssl.error_handling import guarded
from napari_medssl.explore.instant_preview import InstantPreview
from napari_medssl.model.session import Session
from napari_medssl.predict.live_preview import LivePreview
from napari_medssl.widgets import style
from napari_medssl.widgets.annotate import Annotate
from napari_medssl.widgets.features import Features
from napari_medssl.widgets.finetune import Finetune
from napari_medssl.widgets.live_preview import live_words
from napari_medssl.widgets.parts import Step, button, hint
from napari_medssl.widgets.prediction import Prediction
from napari_medssl.widgets.pretrain import Pretrain
from napari_medssl.widgets.preview import PreviewBox
from napari_medssl.widgets.scans import Scans
from napari_medssl.workspace import Workspace

if TYPE_CHECKING:
    import napari

SHOW = {"info": show_info, "warning": show_warning, "error": show_error}
SURE_KEY, COMPLETE_KEY, PREDICTION_KEY, PREVIEW_KEY = "Q", "K", "H", "W"
NEXT_SCAN_KEY, LAST_SCAN_KEY = "PageDown", "PageUp"
FLIP_KEY, ACCEPT_KEY = "J", "U"
KEYS = (
    SURE_KEY, COMPLETE_KEY, PREDICTION_KEY, PREVIEW_KEY, NEXT_SCAN_KEY, LAST_SCAN_KEY, FLIP_KEY, ACCEPT_KEY,
)  # fmt: skip
WIDTH = 345


class Dock(QWidget):
    """Six steps, one open at a time; they share one session."""

    def __init__(self, viewer: napari.viewer.Viewer, command: Sequence[str] = COMMAND) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = Session()
        self.holding = Holding(self.session)
        self.workspace = Workspace(viewer, self.session)
        self.jobs = Jobs(self.session, command)
        self.side_jobs = SideJobs(self.session, self.jobs.ahead, command)
        self.estimates = Estimates(self.session, self.side_jobs)
        shared = (self.session, self.workspace)
        self.scans = Scans(*shared)
        self.annotate = Annotate(*shared, self.jobs)
        self.pretrain = Pretrain(*shared, self.jobs, self.estimates)
        self.finetune = Finetune(*shared, self.jobs, self.estimates)
        self.live = LivePreview(self.workspace, self.jobs)
        self.finetune.layout().addWidget(live_words(self.live))
        self.prediction = Prediction(*shared, self.jobs, self.annotate.edits)
        self.features = Features(*shared, self.jobs, self.side_jobs)
        self.preview = PreviewBox(InstantPreview(self.workspace, self.features.similar))
        self.annotate.layout().addWidget(self.preview)
        self.train = button("Fine-tune and predict", self._train, "Start step 4 as it is set there")
        self.train.setEnabled(False)
        self.annotate.layout().addWidget(self.train)
        contents = (self.scans, self.annotate, self.pretrain, self.finetune, self.prediction, self.features)
        self.steps = [Step(number, content.title, content) for number, content in enumerate(contents, 1)]
        self._lay_out()
        self._connect()
        self._keys()
        self._restyle()
        self.steps[0].expand()

    def open(self, folder: str | Path) -> None:
        """Open a project folder, where it was left; the scan appears once it is read."""
        guarded(self.session, lambda: self.scans.open_project(Path(folder)))

    def _lay_out(self) -> None:
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.setSpacing(6)
        for step in self.steps:
            layout.addWidget(step)
        layout.addStretch()
        self.scroll = scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        foot = hint("Not a medical device. Data stay on this machine.")
        foot.setAlignment(Qt.AlignmentFlag.AlignCenter)
        outside = QVBoxLayout(self)
        outside.setContentsMargins(0, 0, 0, 4)
        outside.addWidget(scroll)
        outside.addWidget(foot)
        self.setMinimumWidth(WIDTH)

    def _connect(self) -> None:
        session = self.session
        session.said.connect(lambda severity, text: SHOW[severity](text))
        self.workspace.autosave.stroke.connect(lambda *of: self.jobs.ahead.warm_up())
        for step in self.steps:
            step.toggled.connect(lambda opened, step=step: self._on_toggled(step, opened))
            if isinstance(step.content(), Pretrain | Finetune):
                step.toggled.connect(step.content().forecast.opened)
        for signal in (session.project_changed, session.scans_changed, session.annotation_changed,
                       session.runs_changed, session.job_changed, session.scan_changed):  # fmt: skip
            signal.connect(self._summarise)
        session.predicted.connect(lambda scan, run: self._summarise())
        for react in (self._summarise, self.preview.preview.ask):
            self.features.precompute.changed.connect(react)
        self.scans.ready.connect(self._paint)
        self.viewer.events.theme.connect(self._restyle)
        self._leave = self._farewell()
        self.destroyed.connect(self._leave)

    def _on_toggled(self, opened: Step, is_open: bool) -> None:
        for step in self.steps:
            if is_open and step is not opened and step.isExpanded():
                step.collapse()

    def _paint(self) -> None:
        """On to painting, with the brush in hand."""
        self.steps[1].expand()
        self.annotate.new_annotation()

    def _train(self) -> None:
        """From painting to training with one press."""
        self.steps[3].expand()
        self.finetune.fine_tune()

    def _summarise(self) -> None:
        self.train.setEnabled(self.session.idle and bool(self.session.annotated))
        for step in self.steps:
            step.set_summary(step.content().summary())

    def _restyle(self, event: object = None) -> None:
        self.setStyleSheet(style.sheet(self.viewer.theme))
        for step in self.steps:
            step.redraw_icons()

    def _keys(self) -> None:
        """Keys that napari leaves free for Labels and Image layers."""
        actions = {
            SURE_KEY: lambda: self.annotate.use(SURE_BACKGROUND),
            COMPLETE_KEY: self.annotate.toggle_complete,
            PREDICTION_KEY: self.workspace.predictions.toggle,
            PREVIEW_KEY: self.preview.toggle,
            FLIP_KEY: self.prediction.go_back,
            ACCEPT_KEY: self.prediction.accept_slice,
            NEXT_SCAN_KEY: lambda: self.scans.table.step(1),
            LAST_SCAN_KEY: lambda: self.scans.table.step(-1),
        }
        for key, action in actions.items():
            self.viewer.bind_key(key, lambda viewer, action=action: action(), overwrite=True)

    # --- leaving -------------------------------------------------------------------------------------

    def showEvent(self, event: QEvent) -> None:
        """Watch the window that the dock sits in, to save before it closes."""
        super().showEvent(event)
        self.window().installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Strokes reach the disk before the window may close."""
        if event.type() == QEvent.Type.Close and watched is self.window():
            guarded(self.session, self.workspace.leave)
        return False

    def changeEvent(self, event: QEvent) -> None:
        """Napari takes a closed dock's content out of the window without deleting it: that ends it here."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and self.isHidden():
            self._leave()
            self.deleteLater()

    def _farewell(self) -> Callable[[], None]:
        """When the dock goes, once: strokes are saved, nobody listens any more, the engine is told to stop.

        It may run while this widget is half gone, so it knows the parts but not the widget.
        """
        session, workspace, jobs, similar = self.session, self.workspace, self.jobs, self.features.similar
        preview, holding, live = self.preview.preview, self.holding, self.live
        viewer, restyle = self.viewer, self._restyle
        estimates, precompute, side_jobs = self.estimates, self.features.precompute, self.side_jobs

        def leave() -> None:
            if session.closed:
                return
            guarded(session, workspace.leave)
            preview.close()
            live.close()
            session.close()
            similar.close()
            workspace.close()
            viewer.events.theme.disconnect(restyle)
            for key in KEYS:
                viewer.bind_key(key, None)
            estimates.cancel()
            precompute.close()
            side_jobs.cancel_all()
            jobs.leave()
            holding.release()

        return leave
