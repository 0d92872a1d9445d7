"""The predicted steps, time and memory of a training, shown before it is started."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.errors import UserError
from medssl.core.estimate import describe
from medssl.core.jobs import TrainingJob
from qtpy.QtWidgets import QLabel

from napari_medssl.engine.estimates import Estimates
from napari_medssl.model.run_host import RunHost
from napari_medssl.model.session import Session

LINES = 3
"""Lines of most estimates."""
ELSEWHERE = "Runs on {}; time and memory are estimated for this computer alone."


class EstimateLabel(QLabel):
    """Estimate of the job that `job` creates; measured while its step is open."""

    def __init__(
        self, session: Session, estimates: Estimates, job: Callable[[], TrainingJob], host: RunHost
    ) -> None:
        super().__init__()
        self._session, self._estimates, self._job, self._host = session, estimates, job, host
        self._open = False
        self.setWordWrap(True)
        self.setProperty("hint", True)
        self.setMinimumHeight(LINES * self.fontMetrics().lineSpacing())  # what is below it stays where it is
        estimates.changed.connect(self.refresh)
        host.changed.connect(self.refresh)
        self.refresh()

    def set_open(self, is_open: bool) -> None:
        """Say whether the step is open; nothing is measured for a closed one."""
        self._open = is_open
        if is_open:
            self._estimates.forget_failures()
        else:
            self._estimates.cancel()
        self.refresh()

    def refresh(self) -> None:
        """Show the estimate of the current settings, which is measured if necessary, or why there is none."""
        if self._open:
            self.setText(self._text())
        self.setVisible(self._session.idle)

    def _text(self) -> str:
        if self._host.chosen:
            self._estimates.cancel()
            return ELSEWHERE.format(self._host.chosen)
        try:
            job = self._job()
            known = self._estimates.ask(job)
        except UserError as error:
            return str(error)
        if known is not None:
            return describe(known, job.minutes, job.steps)
        return "Measuring the time per step…" if self._estimates.measuring else self._estimates.failure
