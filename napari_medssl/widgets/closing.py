"""The question before the window or the dock closes while a job runs or strokes are not saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_medssl.canvas_context import window_of
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.messages import describe

WINDOW, DOCK = "window", "dock"
KEEPS = "Closing the {what} stops it after its current step. Its weights are kept, and Continue resumes it."
ENDS = "Closing the {what} stops it; start it again later."
LEAVES = "It goes on on {host} when the {what} closes; Continue, or the same job again, takes it up."
UNSAVED = "The last strokes are NOT SAVED: closing the {what} loses them."
STOP, LOSE, LEAVE, GO_ON = "Stop and close", "Lose them and close", "Close", "Go on"
CLOSE, CLOSE_DOCK = "close", "destroyOnClose"
"""napari's methods behind Ctrl+Q, Ctrl+W and its menu, and behind the cross of a dock."""


class ClosingQuestion(QObject):
    """Saves before a window with a dock closes, and asks a user who would stop a job or lose strokes.

    napari asks a question of its own. It is left out where this one is asked, so that there is one.
    """

    def __init__(self, session: Session, save: Callable[[], object], dock: QWidget) -> None:
        """Make a question that is not asked before `watch`.

        Args:
            session: Knows the job and whether strokes are saved.
            save: Saves strokes, and reports what goes wrong.
            dock: The dock.
        """
        super().__init__(dock)
        self._session, self._save, self._dock = session, save, dock
        self._get_window: Callable[[], QWidget | None] = lambda: None
        self._get_panel: Callable[[], Any] = lambda: None
        """References that keep nothing alive: napari counts the windows that it has left."""
        self._agreed = False

    def watch(self) -> None:
        """Watch the window that contains the dock, once there is one."""
        window, panel = window_of(self._dock), self._dock.parentWidget()
        if window is self._get_window():
            return
        self._get_window = ref(window)
        window.installEventFilter(self)
        # napari's question comes before Qt's event, and nothing comes before a dock is taken out.
        if panel is not None and hasattr(panel, CLOSE_DOCK):
            self._get_panel = ref(panel)
            vars(window)[CLOSE] = self._close_window
            vars(panel)[CLOSE_DOCK] = self._close_dock

    def leave(self) -> None:
        """Let napari close as it does without a dock."""
        for widget, name in ((self._get_window(), CLOSE), (self._get_panel(), CLOSE_DOCK)):
            if widget is not None:
                vars(widget).pop(name, None)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Keep the window open until its user agrees."""
        if event is None or event.type() != QEvent.Type.Close or watched is not self._get_window():
            return False
        window = not_none(self._get_window())
        if self._agreed or not self._needed() or not _by_user(window, event):
            self._agreed = False
            return False
        event.ignore()
        if self._ask(WINDOW):
            QTimer.singleShot(0, window.close)
        return True

    def _close_window(self, *args: Any, confirm_need: bool = False, **options: Any) -> Any:
        """What napari calls to close its window; `confirm_need`: it is to ask."""
        window = not_none(self._get_window())
        if confirm_need and self._needed():
            confirm_need = False
            if not self._ask(WINDOW):
                return False
        return getattr(type(window), CLOSE)(window, *args, confirm_need=confirm_need, **options)

    def _close_dock(self) -> None:
        if not self._needed() or self._ask(DOCK):
            panel = self._get_panel()
            getattr(type(panel), CLOSE_DOCK)(panel)

    def _needed(self) -> bool:
        if self._session.closed:
            return False
        self._save()
        return self._session.job.running or self._session.annotation.unsaved

    def _ask(self, what: str) -> bool:
        job, unsaved = self._session.job, self._session.annotation.unsaved
        lines = [UNSAVED] if unsaved else []
        if job.running:
            lines.append(LEAVES if job.host else KEEPS if job.is_training else ENDS)
        title = describe(job) if job.running else "Strokes are not saved"
        box = QMessageBox(
            QMessageBox.Icon.Question, f"Close the {what}", f"{title}.", parent=self._get_window()
        )
        box.setInformativeText(" ".join(lines).format(what=what, host=job.host))
        stops = job.running and not job.host
        text = STOP if stops else LOSE if unsaved else LEAVE
        close = box.addButton(text, QMessageBox.ButtonRole.AcceptRole)
        go_on = box.addButton(GO_ON, QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(go_on)
        box.setEscapeButton(go_on)
        box.exec()
        self._agreed = box.clickedButton() is close
        return self._agreed


def _by_user(window: QWidget, event: QEvent) -> bool:
    """Whether a user closes the window, by its frame or by napari's menu.

    A script that calls `viewer.close()` must not wait for an answer; it closes the canvas before the window.
    """
    return event.spontaneous() or any(canvas.isVisible() for canvas in window.findChildren(QOpenGLWidget))
