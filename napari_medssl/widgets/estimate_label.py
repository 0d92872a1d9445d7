"""The predicted steps, time and memory of a training, shown before it is started."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.errors import UserError
from medssl.core.estimate import describe
from medssl.core.jobs import TrainingJob
from qtpy.QtWidgets import QLabel

from napari_medssl.engine.estimates import Estimates
from napari_medssl.model.session import Session


class EstimateLabel(QLabel):
    """Estimate of the job that `job` creates; measured while its step is open."""

    def __init__(self, session: Session, estimates: Estimates, job: Callable[[], TrainingJob]) -> None:
        super().__init__()
        self._session, self._estimates, self._job = session, estimates, job
        self._open = False
        self.setWordWrap(True)
        self.setProperty("hint", True)
        estimates.changed.connect(self.refresh)
        self.refresh()

    def set_open(self, is_open: bool) -> None:
        """Say whether the step is open; nothing is measured for a closed one."""
        self._open = is_open
        if not is_open:
            self._estimates.cancel()
        self.refresh()

    def refresh(self) -> None:
        """Show the estimate of the current settings, and measure it if it is unknown."""
        if self._open:
            self.setText(self._text())
        self.setVisible(self._open and self._session.idle and bool(self.text()))

    def _text(self) -> str:
        try:
            job = self._job()
            known = self._estimates.ask(job)
        except UserError:
            return ""  # the button reports what is missing
        if known is not None:
            return describe(known, job.minutes, job.steps)
        return "Measuring the time per step…" if self._estimates.measuring else ""
