"""Computes features of the scan on the screen with the bundled weights before anybody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from medssl.core.errors import UserError
from medssl.core.features.similarity import has_features
from medssl.core.jobs import FeaturesJob
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import SHAPES, weights_file
from psygnal import Signal

from napari_medssl.engine.background_jobs import BackgroundJobs
from napari_medssl.engine.child_process import StandbyEngine
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.session import Session
from napari_medssl.qt import timer

DEBOUNCE_MS = 150
"""A scan that is left again within this time gets no features."""
MAX_STANDBY_MS = 60_000
"""How long an engine waits for the first scan."""


class Precompute:
    """Starts a background job for the scan that was opened if its features are missing.

    Only while the bundled weights are chosen in step 6. A scan that failed is not tried again; the reason is
    shown once.
    """

    changed = Signal()
    """`scan` has changed."""
    on = True
    """Off in tests of other features."""

    def __init__(
        self,
        session: Session,
        background_jobs: BackgroundJobs,
        standby: StandbyEngine,
        weights: Callable[[], str | None],
    ) -> None:
        """Args:
        session: The state of the viewer.
        background_jobs: Where the job runs.
        standby: Started when the dock or a project is opened, so that torch is loaded before the first scan.
        weights: Returns the run that is chosen in step 6.
        """
        self._session, self._background_jobs, self._standby, self._weights = (
            session,
            background_jobs,
            standby,
            weights,
        )
        self.scan = ""
        """Id of the scan whose features are being computed, or are about to be."""
        self._attempted: set[tuple[str, str]] = set()
        self._reported: set[str] = set()
        self._timer = timer(DEBOUNCE_MS, lambda: catch_errors(session, self._start))
        for signal in (session.scan_changed, session.job_changed, session.lock_changed):
            signal.connect(self.update)
        self._standby_timer = timer(MAX_STANDBY_MS, self._give_up)
        session.project_changed.connect(self._prepare)
        self._prepare_timer = timer(DEBOUNCE_MS, self._prepare)

    def expect_scan(self) -> None:
        """The dock is shown: soon an engine loads torch for the first scan."""
        self._prepare_timer.start()

    def update(self) -> None:
        """Start if the features of the scan on the screen are missing; cancel what is no longer needed."""
        session = self._session
        if not self.on or not session.idle or session.scan is None or self._weights() != SHAPES:
            self.cancel()
            return
        key = (str(session.need_project().root), session.scan)
        if session.scan == self.scan or key in self._attempted or session.features_valid(SHAPES):
            return  # features of the scan before this one are still computed
        self.cancel()
        self._set(session.scan)
        self._timer.start()

    def _prepare(self) -> None:
        """The dock or a project was opened: while a first scan is chosen and read, an engine loads torch."""
        if self._session.scan is not None:
            return
        self.cancel()
        project, known = self._session.project, False
        if project is not None:
            last = project.view_state.scan
            scan = last if last in project.scans else next(iter(project.scans), None)
            known = scan is not None and has_features(project, scan, SHAPES)
        if self.on and not known and self._session.idle and self._weights() == SHAPES:
            self._standby.warm_up()
            self._standby_timer.start()
        else:
            self._standby.cancel()

    def _give_up(self) -> None:
        if self._session.scan is None:
            self._standby.cancel()

    def cancel(self) -> None:
        """Cancel the computation."""
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
            self._timer.stop()
        self._background_jobs.cancel("features")
        self._set("")

    def close(self) -> None:
        """Cancel the computation and disconnect all listeners."""
        self.changed.disconnect()
        with suppress(RuntimeError):
            self._prepare_timer.stop()
            self._standby_timer.stop()
        self.cancel()

    def _start(self) -> None:
        project = self._session.need_project()
        try:
            weights_file()  # an engine would need seconds to find out
            refuse_collapsed(project.run(SHAPES))
        except UserError as error:
            self._on_end("failed", str(error))
            return
        job = FeaturesJob(str(project.root), weights=SHAPES, scans=(self.scan,))
        self._background_jobs.start(job, self._on_end)

    def _on_end(self, outcome: str, text: str) -> None:
        session, scan = self._session, self.scan
        if outcome != "stopped":
            self._attempted.add((str(session.need_project().root), scan))
        self._set("")
        if outcome == "done":
            session.messages.end(self)
        if outcome == "failed" and text not in self._reported:
            self._reported.add(text)
            session.notify("warning", text, [self])

    def _set(self, scan: str) -> None:
        if scan != self.scan:
            self.scan = scan
            self.changed.emit()
