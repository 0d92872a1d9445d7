"""The line that says what a training will come to before it is started."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.errors import UserError
from medssl.core.estimate import describe
from medssl.core.jobs import TrainingJob
from qtpy.QtWidgets import QLabel

from napari_medssl.engine.estimates import Estimates
from napari_medssl.model.session import Session


class Forecast(QLabel):
    """Steps, time, memory and device of the job that `job` makes; measured while its step is open."""

    def __init__(self, session: Session, estimates: Estimates, job: Callable[[], TrainingJob]) -> None:
        super().__init__()
        self._session, self._estimates, self._job = session, estimates, job
        self._open = False
        self.setWordWrap(True)
        self.setProperty("hint", True)
        estimates.changed.connect(self.refresh)
        self.refresh()

    def opened(self, is_open: bool) -> None:
        """The step was opened or closed."""
        self._open = is_open
        if not is_open:
            self._estimates.cancel()
        self.refresh()

    def refresh(self) -> None:
        """Say what is known of the present choice, and have it measured if nothing is."""
        if self._open:
            self.setText(self._words())
        self.setVisible(self._open and self._session.idle and bool(self.text()))

    def _words(self) -> str:
        try:
            job = self._job()
            found = self._estimates.ask(job)
        except UserError:
            return ""  # the button says what is missing
        if found is not None:
            return describe(found, job.minutes, job.steps)
        return "Measuring how long a step takes ..." if self._estimates.measuring else ""
