"""A menu of the run that a list shows: a right click deletes it, after a question that says what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medssl.core.errors import UserError
from medssl.core.project.disk_usage import disk_usage, size_text
from medssl.core.project.project import Project, Run
from medssl.core.project.removal import check_deletable, delete_run
from medssl.core.project.run_state import run_state
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QComboBox, QMenu, QMessageBox

from napari_medssl.error_handling import catch_errors
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow

RIGHT_CLICK = "right-click to delete the run"


class RunMenu:
    """The context menu of a list of runs; it is about the run that the list shows."""

    def __init__(self, session: Session, box: QComboBox, run_id: Callable[[], str | None]) -> None:
        """Args:
        session: The state of the viewer.
        box: The list.
        run_id: Returns the id of the run that it shows; None or another word for none.
        """
        self.session, self.box, self._run_id = session, box, run_id
        self._worker = LatestOnlyWorker(session)
        box.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        box.customContextMenuRequested.connect(self._on_menu)

    def _on_menu(self, point: QPoint) -> None:
        menu = self.menu()
        if menu is not None:
            menu.popup(self.box.mapToGlobal(point))

    def menu(self) -> QMenu | None:
        """The menu; None where the list shows no run of the project."""
        run = next((run for run in self.session.all_runs if run.id == self._run_id()), None)
        if run is None:
            return None
        menu = QMenu(self.box)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setToolTipsVisible(True)
        allow(not_none(menu.addAction(f"Delete {run.id}…", lambda: self.ask(run))), job_blocked(self.session))
        return menu

    def ask(self, run: Run) -> None:
        """Delete a run, after a question."""
        catch_errors(self.session, lambda: self._search(run))

    def _search(self, run: Run) -> None:
        project = self.session.need_project()
        self._need_free()

        def describe() -> Iterator[str]:
            check_deletable(project, run)
            yield question(project, run)

        self._worker.submit(describe, lambda text: self._ask(run, text))

    def _need_free(self) -> None:
        self.session.need_project().need_writable()
        if self.session.job.running:
            raise UserError("A job is running and may use this run; stop it first.", code="busy")

    def _ask(self, run: Run, text: str) -> None:
        if QMessageBox.question(self.box, "Delete run", text) == QMessageBox.StandardButton.Yes:
            catch_errors(self.session, lambda: self.delete(run))

    def delete(self, run: Run) -> None:
        """Delete a run in a thread.

        Raises:
            UserError: A job is running ("busy"), or the project is read-only.
        """
        self._need_free()
        project = self.session.need_project()

        def delete() -> Iterator[None]:
            delete_run(project, run.id)
            yield

        self._worker.submit(delete, lambda _: self._on_deleted(run))

    def _on_deleted(self, run: Run) -> None:
        self.session.forget_run(run.id)
        self.session.notify("info", f"Deleted {run.id}.")


def question(project: Project, run: Run) -> str:
    """The question whether to delete a run."""
    state, size = run_state(project, run), size_text(disk_usage(project).runs.get(run.id, 0))
    minutes = f" of {state.seconds / 60:.0f} min of training" if state.seconds >= 60 else ""
    predictions = f"{state.predictions} prediction{'s' * (state.predictions != 1)}"
    return (
        f"Delete {run.id}?\n\nIts weights{minutes}, {predictions} and the features computed with it are lost "
        f"({size}). Your annotations stay, also what you accepted from its predictions."
    )
