"""A place of constant height below the buttons of a step: sentences about it, or the progress of its job."""

from __future__ import annotations

from collections.abc import Callable, Collection

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QWidget
from superqt import QElidingLabel

from napari_medssl.model.session import Session
from napari_medssl.widgets.components import JobPanel, column

LINES = 2


class StatusSlot(QWidget):
    """Sentences until a job of the step runs, and then its progress; nothing below moves meanwhile.

    Sentences that do not fit are cut off; the tooltip has all of them.
    """

    def __init__(self, session: Session, kinds: Collection[str], stop: Callable[[], object]) -> None:
        """Build the slot.

        Args:
            session: Has the job.
            kinds: Kinds of the jobs of the step.
            stop: Called by the button that stops a job.
        """
        super().__init__()
        self._session = session
        self._sentences: dict[str, str] = {}
        self._label = QElidingLabel()
        self._label.setWordWrap(True)
        self._label.setProperty("hint", True)
        self._label.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.panel = JobPanel(session, kinds, stop)
        column(self, self._label, self.panel).setContentsMargins(0, 0, 0, 0)
        session.job_changed.connect(self._refresh)
        self._refresh()

    def changeEvent(self, event: QEvent | None) -> None:
        """Keep the height that both need, which depends on the style sheet."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self._fit()

    def showEvent(self, event: QShowEvent | None) -> None:
        """The style sheet is that of the window now."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        lines = LINES * self._label.fontMetrics().lineSpacing() + 4
        self.setFixedHeight(max(lines, self.panel.sizeHint().height()))

    def text(self) -> str:
        """All sentences."""
        return " ".join(self._lines())

    def say(self, **sentences: str) -> None:
        """Replace sentences.

        Args:
            sentences: By topic, in the order in which they are shown; an empty one is left out.
        """
        self._sentences |= sentences
        self._label.setText(self.text())
        self._label.setToolTip("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        """What is said of the step, then how its last job ended."""
        job = self._session.job
        ended = [f"{job.title} {job.phase.lower()}.", *job.notices]
        known = [text for text in self._sentences.values() if text]
        return [*known, *ended] if self.panel.own and not job.running else known

    def _refresh(self) -> None:
        """Show the progress of a job of the step, and then the sentences again."""
        runs = self.panel.own and self._session.job.running
        self.panel.setVisible(runs)
        self._label.setVisible(not runs)
        self.say()
