"""The foot of the dock: failures that stay, and the job that runs, seen from every step."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QAbstractButton, QAbstractItemView, QComboBox, QLabel, QSizePolicy, QWidget

from napari_medssl.model.job_state import JobState
from napari_medssl.model.messages import Messages
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import repolish, time_left
from napari_medssl.widgets.style import LINK

MOST = 3
"""Messages shown at once, the newest; the tooltip has all."""
ATTEMPTS = (QEvent.Type.MouseButtonPress, QEvent.Type.KeyPress)
"""Events of a table or a list by which something is attempted."""
RESEARCH_USE = "Not a medical device. Data stay on this machine."
RUNS_THERE = "Not a medical device. Trainings and predictions run on {host}."
ZERO_WIDTH_SPACE = "\u200b"


class MessageLabel(QLabel):
    """Failures and warnings of the open step, until something is attempted in that step again.

    It takes its height from the end of the scroll area and keeps it until another step is opened, so that
    nothing moves under the cursor when a sentence comes or goes.
    """

    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self._messages, self._step = messages, messages.step
        self._watched: dict[QObject, int | None] = {}
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        messages.changed.connect(self._redraw)
        self._redraw()
        self.hide()

    @property
    def shown(self) -> list[str]:
        """The messages of the open step, the oldest first."""
        return [message.text for message in self._messages.shown]

    def watch(self, content: QWidget, step: int | None = None) -> None:
        """Take each press of a button, each choice and each click or key in a table as a new attempt.

        Args:
            content: The widget that has them.
            step: Index of the step in which something is attempted; None for the open one.
        """
        for button in content.findChildren(QAbstractButton):
            button.pressed.connect(lambda: self._messages.attempt(step))
        tables = content.findChildren(QAbstractItemView)
        views = [not_none(table.viewport()) for table in tables]
        for widget in (*tables, *views, *content.findChildren(QComboBox)):
            self._watched[widget] = step
            widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """See a click or a key before the widget acts on it."""
        if event is not None and event.type() in ATTEMPTS and watched in self._watched:
            self._messages.attempt(self._watched[watched])
        return False

    def _redraw(self) -> None:
        """Show what is true; the room that a step has needed stays until another one is opened."""
        messages = self._messages.shown
        if self._messages.step != self._step:
            self._step = self._messages.step
            self.setMinimumHeight(0)
            self.setVisible(bool(messages))
        elif self.isVisible():
            self.setMinimumHeight(max(self.minimumHeight(), self.height()))
        lines = [message.text for message in messages[-MOST:]]
        if len(messages) > MOST:
            lines.append(f"{len(messages) - MOST} earlier messages: hold the pointer here.")
        self.setText(_breakable("\n".join(lines)))
        self.setToolTip("\n".join(message.text for message in messages))
        worst = "error" if any(message.severity == "error" for message in messages) else "warning"
        self.setProperty("message", worst if messages else "")
        repolish(self)
        if messages:
            self.setVisible(True)


class JobLine(QLabel):
    """One line: the running job, or how the last one ended until its step is opened."""

    asked = Signal()
    """The link has been clicked: show the step of the job."""

    def __init__(self) -> None:
        super().__init__()
        self._read_job: JobState | None = None
        self._rest = RESEARCH_USE
        self.setProperty("hint", True)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.linkActivated.connect(lambda link: self.asked.emit())
        self.setText(self._rest)

    def set_host(self, host: str) -> None:
        """Say where jobs run while there is none; empty for this computer."""
        before, self._rest = self._rest, RUNS_THERE.format(host=escape(host)) if host else RESEARCH_USE
        if self.text() == before:
            self.setText(self._rest)

    def show_job(self, job: JobState, is_open: bool) -> None:
        """Show the state of a job.

        Args:
            job: The running job, or the last one.
            is_open: Whether the step of the job is open, which shows all of it.
        """
        if is_open and not job.running:
            self._read_job = job
        text = "" if is_open or job is self._read_job else describe(job)
        link = f'&nbsp; <a href="step" style="color:{LINK}">Show</a>'
        self.setText(f"{escape(text)}{link}" if text else self._rest)
        self.setToolTip(job.error if text else "")


def describe(job: JobState) -> str:
    """The state of a job in a few words: "Fine-tuning: 42%, 3 min left"; empty before the first one."""
    if not job.kind:
        return ""
    if not job.running:
        return f"{job.title} {job.phase.lower()}."
    left = "" if job.stopping else time_left(job.eta_s)
    return f"{job.title}: {job.progress}{', ' * bool(left)}{left}"


def _breakable(text: str) -> str:
    """Paths may be broken after each separator, so that a long one does not widen the dock."""
    for separator in "/\\":
        text = text.replace(separator, separator + ZERO_WIDTH_SPACE)
    return text
