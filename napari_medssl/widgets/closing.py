"""The question before a window closes while a job runs."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_medssl.model.job_state import JobState
from napari_medssl.model.session import Session
from napari_medssl.widgets.messages import describe

TITLE = "Close the window"
KEEPS = "Closing the window stops it after its current step. Its weights are kept, and Continue resumes it."
ENDS = "Closing the window stops it; start it again later."
STOP, GO_ON = "Stop and close", "Go on"


class ClosingQuestion:
    """Asks a user who closes the window while a job runs whether it stops or both go on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._agreed = False

    def keeps_open(self, window: QWidget, event: QEvent) -> bool:
        """Ask, if there is something to ask.

        Args:
            window: The window that is about to close.
            event: Its close event.

        Returns:
            Whether the window stays open; the event is ignored then.
        """
        if self._agreed or not self._session.job.running or not _by_user(window, event):
            self._agreed = False
            return False
        agreed = _ask(self._session.job, window)
        if agreed and not event.spontaneous():
            return False  # napari has asked its own question already
        event.ignore()
        if agreed:
            self._agreed = True
            QTimer.singleShot(0, window.close)  # napari asks no second question then
        return True


def _by_user(window: QWidget, event: QEvent) -> bool:
    """Whether a user closes the window, by its frame or by napari's menu.

    A script that calls `viewer.close()` must not wait for an answer; it closes the canvas before the window.
    """
    return event.spontaneous() or any(canvas.isVisible() for canvas in window.findChildren(QOpenGLWidget))


def _ask(job: JobState, window: QWidget) -> bool:
    box = QMessageBox(QMessageBox.Icon.Question, TITLE, f"{describe(job)}.", parent=window)
    box.setInformativeText(KEEPS if job.is_training else ENDS)
    stop = box.addButton(STOP, QMessageBox.ButtonRole.AcceptRole)
    go_on = box.addButton(GO_ON, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(go_on)
    box.setEscapeButton(go_on)
    box.exec()
    return box.clickedButton() is stop
