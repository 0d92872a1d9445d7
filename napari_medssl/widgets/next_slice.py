"""Active learning: a button that goes to the slice that is worth annotating next, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medssl.core import jobs
from medssl.core.active_learning.slices import Suggestion
from medssl.core.errors import UserError
from qtpy.QtWidgets import QWidget

from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.reasons import no_change
from napari_medssl.model.session import Session
from napari_medssl.widgets.components import allow, button, column
from napari_medssl.widgets.status_slot import StatusSlot
from napari_medssl.workspace import Workspace

TIP = (
    "Go to the most informative slice of all scans in training: uncertain for the model, or unlike the "
    "annotated ones"
)

SEARCHING = "The search for the next slice is running."


class NextSlice(QWidget):
    """Requests a list of suggested slices and shows them one by one, until there is a newer model."""

    kind = "suggest"

    def __init__(
        self, session: Session, workspace: Workspace, jobs: JobRunner, on_arrival: Callable[[], object]
    ) -> None:
        """Args:
        session: The state of the viewer.
        workspace: The layers of the viewer.
        jobs: Runs the job that suggests slices.
        on_arrival: Called when a suggested scan is open, to select the brush.
        """
        super().__init__()
        self.session, self.workspace, self.jobs, self._on_arrival = session, workspace, jobs, on_arrival
        self._queue: list[Suggestion] = []
        self._model: tuple[str, ...] = ()
        self._shown: Suggestion | None = None
        self.button = button("Next slice", self.go, TIP)
        self.reason = ""
        """Why the slice on the screen was suggested; empty for another one."""
        self.status = StatusSlot(session, (self.kind,), jobs.stop)
        self.panel = self.status.panel
        column(self, self.button, self.status).setContentsMargins(0, 0, 0, 0)
        session.suggested.connect(self._on_suggested)
        session.scan_removed.connect(self._on_removed)
        for signal in (session.project_changed, session.scan_changed, session.job_changed,
                       session.lock_changed, session.view_changed):  # fmt: skip
            signal.connect(self.refresh)
        self.refresh()

    def go(self) -> None:
        """Show the next suggestion; request a new list if there is none left or a newer model."""
        catch_errors(self.session, self._go)

    def _go(self) -> None:
        if self._model != self._model_key():
            self._queue = []
        if self._show_next():
            return
        self.workspace.autosave.flush()
        root = str(self.session.need_project().root)
        self.jobs.start(jobs.SuggestJob(project=root))
        self._model = self._model_key()

    def _on_removed(self, scan: str) -> None:
        self._queue = [suggestion for suggestion in self._queue if suggestion.scan != scan]

    def _on_suggested(self, result: dict[str, Any]) -> None:
        catch_errors(self.session, lambda: self._take(result))

    def _take(self, result: dict[str, Any]) -> None:
        suggestions = result.get("suggestions", [])
        self._queue = [jobs.from_json(Suggestion, item, "A suggestion") for item in suggestions]
        if not self._show_next():
            raise UserError('The search was stopped too early; press "Next slice" again.', code="stopped")

    def _show_next(self) -> bool:
        """Show the first suggestion that is not complete yet; whether there was one."""
        while self._queue:
            suggestion = self._queue.pop(0)
            if not self._complete(suggestion):
                self._show(suggestion)
                return True
        return False

    def _show(self, suggestion: Suggestion) -> None:
        self.workspace.scan_loader.open(suggestion.scan, lambda: self._arrive_at(suggestion))

    def _arrive_at(self, suggestion: Suggestion) -> None:
        self._on_arrival()
        self.workspace.go_to(suggestion.axis, suggestion.index)
        self._shown = suggestion
        self.refresh()

    def _complete(self, suggestion: Suggestion) -> bool:
        if suggestion.scan == self.session.scan:
            return (suggestion.axis, suggestion.index) in self.session.annotation.complete
        annotation = self.session.need_project().annotation(suggestion.scan)
        return annotation is not None and (suggestion.axis, suggestion.index) in annotation.complete

    def _model_key(self) -> tuple[str, ...]:
        """Identifies the models that a list is computed from; it is valid until they change."""
        project = self.session.need_project()
        runs = [*self.session.runs("finetune")[:1], *self.session.starting_runs()[:1]]
        return (str(project.root), *(run.id for run in runs))

    def refresh(self) -> None:
        """Show the reason while the suggested slice is on the screen."""
        job, shown = self.session.job, self._shown
        asking = job.running and job.kind == self.kind
        allow(self.button, SEARCHING if asking else no_change(self.session))
        self.reason = ""
        if shown is not None and self.session.scan == shown.scan:
            here = self.workspace.slice_on_screen() == (shown.axis, shown.index)
            self.reason = shown.reason if here else ""
        self.status.say(reason=self.reason)
