"""The foot of the dock: failures that stay, and the job that runs, seen from every step."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QAbstractButton, QAbstractItemView, QComboBox, QLabel, QSizePolicy, QWidget

from napari_medssl.model.job_state import JobState
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import repolish, time_left
from napari_medssl.widgets.style import LINK

STAYING = ("error", "warning")
"""Severities of messages that stay."""
MOST = 3
"""Messages shown at once, the newest; the tooltip has all."""
RESEARCH_USE = "Not a medical device. Data stay on this machine."
ZERO_WIDTH_SPACE = "\u200b"


class Messages(QLabel):
    """Failures and warnings of the open step, until something is attempted in that step again.

    It takes its height from the end of the scroll area and keeps it until another step is opened, so that
    nothing moves under the cursor when a sentence comes or goes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._by_step: dict[int, list[tuple[str, str]]] = {}
        self._watched: dict[QObject, int] = {}
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.show_step(0)

    @property
    def shown(self) -> list[str]:
        """The messages of the open step, the oldest first."""
        return [text for _, text in self._by_step.get(self._step, [])]

    def watch(self, step: int, content: QWidget) -> None:
        """Take each press of a button, each choice and each click in a table of a step as a new attempt."""
        for button in content.findChildren(QAbstractButton):
            button.pressed.connect(lambda: self.attempt(step))
        views = [not_none(view.viewport()) for view in content.findChildren(QAbstractItemView)]
        for widget in (*views, *content.findChildren(QComboBox)):
            self._watched[widget] = step
            widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """See a click before the widget acts on it."""
        if event is not None and event.type() == QEvent.Type.MouseButtonPress and watched in self._watched:
            self.attempt(self._watched[watched])
        return False

    def attempt(self, step: int | None = None) -> None:
        """Something is attempted: forget the messages of a step; None for the open one."""
        if self._by_step.pop(self._step if step is None else step, None):
            self._redraw()

    def tell(self, severity: str, text: str, step: int | None = None) -> None:
        """Keep a message.

        Args:
            severity: "info", "warning" or "error"; an "info" does not stay.
            text: One sentence.
            step: Where it was attempted; None for the open step.
        """
        if severity not in STAYING:
            return
        messages = self._by_step.setdefault(self._step if step is None else step, [])
        if (severity, text) not in messages:
            messages.append((severity, text))
            self._redraw()

    def show_step(self, step: int) -> None:
        """Another step has been opened: show its messages."""
        self._step = step
        self._redraw()
        self.setMinimumHeight(0)
        self.setVisible(bool(self.text()))

    def _redraw(self) -> None:
        messages = self._by_step.get(self._step, [])
        if self.isVisible():
            self.setMinimumHeight(max(self.minimumHeight(), self.height()))
        lines = [text for _, text in messages[-MOST:]]
        if len(messages) > MOST:
            lines.append(f"{len(messages) - MOST} earlier messages: hold the pointer here.")
        self.setText(_breakable("\n".join(lines)))
        self.setToolTip("\n".join(text for _, text in messages))
        worst = "error" if any(severity == "error" for severity, _ in messages) else "warning"
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
        self.setProperty("hint", True)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.linkActivated.connect(lambda link: self.asked.emit())
        self.setText(RESEARCH_USE)

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
        self.setText(f"{escape(text)}{link}" if text else RESEARCH_USE)
        self.setToolTip(job.error if text else "")


def describe(job: JobState) -> str:
    """The state of a job in a few words: "Fine-tuning: 42%, 3 min left"; empty before the first one."""
    if not job.kind:
        return ""
    if not job.running:
        return f"{job.title} {job.phase.lower()}."
    left = "" if job.stopping else time_left(job.eta_s)
    return f"{job.title}: {job.fraction:.0%}{', ' * bool(left)}{left}"


def _breakable(text: str) -> str:
    """Paths may be broken after each separator, so that a long one does not widen the dock."""
    for separator in "/\\":
        text = text.replace(separator, separator + ZERO_WIDTH_SPACE)
    return text
