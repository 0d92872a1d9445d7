"""What a training will come to, measured by an engine of its own before the training is started.

The viewer never waits for it: what was measured before is in the project, all else is told when it is there.
"""

from __future__ import annotations

from contextlib import suppress

from medssl.core import estimate, jobs
from medssl.core.estimate import Estimate
from medssl.core.jobs import EstimateJob, TrainingJob
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_medssl.engine.side_jobs import SideJobs
from napari_medssl.error_handling import guarded
from napari_medssl.model.session import Session

PATIENCE_MS = 600
"""A choice that changes again within this is not measured."""


class Estimates:
    """Estimates trainings, one at a time, as side jobs."""

    changed = Signal()
    """There is the estimate that was asked for, or there will be none."""

    def __init__(self, session: Session, side_jobs: SideJobs) -> None:
        self._session, self._side_jobs = session, side_jobs
        self._job: TrainingJob | None = None
        self._wanted = ""
        """The key of what is being measured, or will be in a moment."""
        self._refused: set[str] = set()
        self._timer = QTimer(interval=PATIENCE_MS, singleShot=True)
        self._timer.timeout.connect(lambda: guarded(session, self._measure))
        session.job_changed.connect(self._give_way)
        session.project_changed.connect(self.cancel)

    def ask(self, job: TrainingJob) -> Estimate | None:
        """The estimate, if it is known; else it is measured, and `changed` says when it is there."""
        project = self._session.need_project()
        key, found = estimate.key(project, job), estimate.load(project, job)
        if found is not None or key != self._wanted:
            self.cancel()
        if found is None and not self._wanted and key not in self._refused and self._session.idle:
            self._job, self._wanted = job, key
            self._timer.start()
        return found

    @property
    def measuring(self) -> bool:
        """Whether `changed` is still to come."""
        return bool(self._wanted)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self._wanted = ""
        with suppress(RuntimeError):  # at the end of the program Qt may have taken it down already
            self._timer.stop()
        self._side_jobs.cancel("estimate")

    def _measure(self) -> None:
        job = self._job
        assert job is not None
        self._side_jobs.start(EstimateJob(job.project, training=jobs.to_json(job)), self._end)

    def _end(self, outcome: str, text: str) -> None:
        job, key, self._wanted = self._job, self._wanted, ""
        if outcome == "stopped":
            return
        if job is None or estimate.load(self._session.need_project(), job) is None:
            self._refused.add(key)  # once it is started, the training will say what is wrong
        self.changed.emit()

    def _give_way(self) -> None:
        if self._session.job.running:
            self.cancel()
