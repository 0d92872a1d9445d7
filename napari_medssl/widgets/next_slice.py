"""The button that goes to the slice that is worth painting next, in whatever scan, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medssl.core import jobs
from medssl.core.active_learning.slices import Suggestion
from medssl.core.errors import UserError
from qtpy.QtWidgets import QWidget

from napari_medssl.engine.child_process import Jobs
from napari_medssl.error_handling import guarded
from napari_medssl.model.session import Session
from napari_medssl.widgets.parts import JobPanel, button, column, hint
from napari_medssl.workspace import Workspace

TIP = (
    "Go to the slice, of all scans that take part, that would teach the model most: one that it is unsure "
    "of, or that is unlike all painted ones"
)


class NextSlice(QWidget):
    """Asks the engine for a list of slices and goes through it, one a press, until there is a newer model."""

    kind = "suggest"

    def __init__(
        self, session: Session, workspace: Workspace, jobs: Jobs, arrive: Callable[[], object]
    ) -> None:
        """arrive: called where a suggested scan is open, to take the brush."""
        super().__init__()
        self.session, self.workspace, self.jobs, self._arrive = session, workspace, jobs, arrive
        self._left: list[Suggestion] = []
        self._model: tuple[Any, ...] = ()
        self._shown: Suggestion | None = None
        self.press = button("Next slice", self.go, TIP)
        self.panel = JobPanel(session, self.kind, jobs.stop, curve=False)
        self.why = hint()
        column(self, self.press, self.panel, self.why).setContentsMargins(0, 0, 0, 0)
        session.suggested.connect(self._on_suggested)
        for signal in (session.project_changed, session.scan_changed, session.job_changed,
                       session.view_changed):  # fmt: skip
            signal.connect(self.refresh)
        self.refresh()

    def go(self) -> None:
        """Go on in the list; where it is used up or there is a newer model, ask for another one."""
        guarded(self.session, self._go)

    def _go(self) -> None:
        if self._model != self._newest():
            self._left = []
        if self._show_next():
            return
        self.workspace.autosave.flush()
        root = str(self.session.need_project().root)
        self.jobs.start(jobs.SuggestJob(project=root))
        self._model = self._newest()

    def _on_suggested(self, result: dict[str, Any]) -> None:
        guarded(self.session, lambda: self._take(result))

    def _take(self, result: dict[str, Any]) -> None:
        found = result.get("suggestions", [])
        self._left = [jobs.from_json(Suggestion, each, "A suggestion") for each in found]
        if not self._show_next():
            raise UserError(
                'No slice was suggested before it was stopped; press "Next slice" again.', code="stopped"
            )

    def _show_next(self) -> bool:
        """Show the first slice of the list that nobody has completed since; whether there was one."""
        while self._left:
            place = self._left.pop(0)
            if not self._complete(place):
                self._show(place)
                return True
        return False

    def _show(self, place: Suggestion) -> None:
        self.workspace.opening.open(place.scan, lambda: self._arrive_at(place))

    def _arrive_at(self, place: Suggestion) -> None:
        self._arrive()
        self.workspace.go_to(place.axis, place.index)
        self._shown = place
        self.refresh()

    def _complete(self, place: Suggestion) -> bool:
        if place.scan == self.session.scan:
            return (place.axis, place.index) in self.session.complete
        annotation = self.session.need_project().annotation(place.scan)
        return annotation is not None and (place.axis, place.index) in annotation.complete

    def _newest(self) -> tuple[Any, ...]:
        """What a list is made from: it holds until there is another model."""
        project = self.session.need_project()
        runs = [*self.session.runs("finetune")[:1], *self.session.starts()[:1]]
        return (str(project.root), *(run.id for run in runs))

    def refresh(self) -> None:
        """The reason stands there as long as the suggested slice is on the screen."""
        job, shown = self.session.job, self._shown
        asking = job.running and job.kind == self.kind
        self.press.setEnabled(self.session.scan is not None and not asking)
        self.panel.setVisible(asking)
        here = shown is not None and self.session.scan == shown.scan
        here = here and self.workspace.slice_on_screen() == (shown.axis, shown.index)
        self.why.setText(shown.reason if here else "")
        self.why.setVisible(bool(self.why.text()))
