"""Predicted steps, time and memory of a training, measured by a background job.

The viewer never waits for it: estimates are cached per project, and a new one is announced by a signal.
"""

from __future__ import annotations

from contextlib import suppress

from medssl.core import estimate, jobs
from medssl.core.estimate import Estimate
from medssl.core.jobs import EstimateJob, TrainingJob
from psygnal import Signal

from napari_medssl.engine.background_jobs import BackgroundJobs
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.session import Session
from napari_medssl.qt import timer

DEBOUNCE_MS = 600
"""Settings that change again within this time are not measured."""


class Estimates:
    """Estimates trainings, one at a time, as background jobs."""

    changed = Signal()
    """The requested estimate is available, or has failed."""

    def __init__(self, session: Session, background_jobs: BackgroundJobs) -> None:
        self._session, self._background_jobs = session, background_jobs
        self._job: TrainingJob | None = None
        self._pending_key = ""
        """Key of the training that is being measured, or is about to be."""
        self.failure = ""
        """Why there is no estimate of the training that was asked for last; empty if there is one."""
        self._failures: dict[str, str] = {}
        """Why a training could not be measured, by its key; forgotten when its reason may be gone."""
        self._timer = timer(DEBOUNCE_MS, lambda: catch_errors(session, self._measure))
        session.job_changed.connect(self._on_job)
        session.project_changed.connect(self.cancel)
        for signal in (session.annotation.written, session.scans_changed, session.classes_changed):
            signal.connect(self.forget_failures)

    def ask(self, job: TrainingJob) -> Estimate | None:
        """The estimate of a training, if it is cached; otherwise it is measured and `changed` is emitted.

        Args:
            job: The training that would be started.

        Returns:
            The cached estimate, or None.
        """
        project = self._session.need_project()
        key, known = estimate.key(project, job), estimate.load(project, job)
        if known is not None or key != self._pending_key:
            self.cancel()
        self.failure = self._failures.get(key, "")
        if known is None and not self._pending_key and key not in self._failures and self._session.idle:
            self._job, self._pending_key = job, key
            self._timer.start()
        return known

    @property
    def measuring(self) -> bool:
        """Whether an estimate is being measured."""
        return bool(self._pending_key)

    def forget_failures(self, *about: object) -> None:
        """Measure again what failed: something that the training depends on has changed."""
        self._failures.clear()

    def cancel(self) -> None:
        """Cancel the measurement."""
        self._pending_key = ""
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
            self._timer.stop()
        self._background_jobs.cancel("estimate")

    def _measure(self) -> None:
        job = self._job
        assert job is not None
        self._background_jobs.start(EstimateJob(job.project, training=jobs.to_json(job)), self._end)

    def _end(self, outcome: str, text: str) -> None:
        job, key, self._pending_key = self._job, self._pending_key, ""
        if outcome == "stopped":
            return
        if job is None or estimate.load(self._session.need_project(), job) is None:
            self._failures[key] = text
        self.changed.emit()

    def _on_job(self) -> None:
        if self._session.job.running:
            self.cancel()
            self.forget_failures()
