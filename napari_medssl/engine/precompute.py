"""Features of the scan on the screen with the weights that ship, computed before anybody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from medssl.core.errors import UserError
from medssl.core.features.similarity import has_features
from medssl.core.jobs import FeaturesJob
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import SHAPES, weights_file
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_medssl.engine.child_process import Ahead
from napari_medssl.engine.side_jobs import SideJobs
from napari_medssl.error_handling import guarded
from napari_medssl.model.session import Session

PATIENCE_MS = 150
"""A scan that is left again within this gets no features."""
LONGEST_WAIT_MS = 60_000
"""How long an engine waits for the first scan of a project."""


class Precompute:
    """Starts a side job for the scan that was opened, where its features are missing.

    Only while step 6 looks at the weights that ship. What failed is not tried again, and its reason is said
    once.
    """

    changed = Signal()
    """`scan` is another one."""
    on = True
    """Tests of other things switch it off."""

    def __init__(
        self, session: Session, side_jobs: SideJobs, ahead: Ahead, weights: Callable[[], str | None]
    ) -> None:
        """weights: the run that step 6 looks at."""
        self._session, self._side_jobs, self._ahead, self._weights = session, side_jobs, ahead, weights
        self.scan = ""
        """The scan whose features are being computed, or will be in a moment."""
        self._tried: set[tuple[str, str]] = set()
        self._said: set[str] = set()
        self._timer = QTimer(interval=PATIENCE_MS, singleShot=True)
        self._timer.timeout.connect(lambda: guarded(session, self._start))
        for signal in (session.scan_changed, session.job_changed, session.project_held):
            signal.connect(self.look)
        self._patience = QTimer(interval=LONGEST_WAIT_MS, singleShot=True)
        self._patience.timeout.connect(self._give_up)
        session.project_changed.connect(self._expect)

    def look(self) -> None:
        """Start with the scan on the screen where its features are missing; end what is not wanted."""
        session = self._session
        if not self.on or not session.idle or session.scan is None or self._weights() != SHAPES:
            self.cancel()
            return
        key = (str(session.need_project().root), session.scan)
        if session.scan == self.scan or key in self._tried or session.features_hold(SHAPES):
            return  # a scan that was left for this one is still computed
        self.cancel()
        self._set(session.scan)
        self._timer.start()

    def _expect(self) -> None:
        """Another project: while its first scan is being read, an engine loads torch."""
        self.cancel()
        project = self._session.need_project()
        last = project.view_state.get("scan")
        scan = last if last in project.scans else next(iter(project.scans), None)
        known = scan is not None and has_features(project, scan, SHAPES)
        if self.on and not known and self._weights() == SHAPES:
            self._ahead.warm_up()
            self._patience.start()

    def _give_up(self) -> None:
        if self._session.scan is None:
            self._ahead.cancel()

    def cancel(self) -> None:
        """End it."""
        with suppress(RuntimeError):  # at the end of the program Qt may have taken it down already
            self._timer.stop()
        self._side_jobs.cancel("features")
        self._set("")

    def close(self) -> None:
        """End it for good; whoever listened may be gone already."""
        self.changed.disconnect()
        with suppress(RuntimeError):
            self._patience.stop()
        self.cancel()

    def _start(self) -> None:
        project = self._session.need_project()
        try:
            weights_file()  # an engine would find out in seconds only
            refuse_collapsed(project.run(SHAPES))
        except UserError as error:
            self._on_end("failed", str(error))
            return
        job = FeaturesJob(str(project.root), weights=SHAPES, scans=(self.scan,))
        self._side_jobs.start(job, self._on_end)

    def _on_end(self, outcome: str, text: str) -> None:
        session, scan = self._session, self.scan
        if outcome != "stopped":
            self._tried.add((str(session.need_project().root), scan))
        self._set("")
        if outcome == "failed" and text not in self._said:
            self._said.add(text)
            session.tell("warning", text)

    def _set(self, scan: str) -> None:
        if scan != self.scan:
            self.scan = scan
            self.changed.emit()
