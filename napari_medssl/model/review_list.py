"""The review queue of the newest fine-tuning, collected in a thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medssl.core.errors import UserError
from medssl.core.jobs import PredictJob
from medssl.core.project.project import Project
from medssl.core.project.review import Reviewable, accept, review_queue
from psygnal import Signal

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.session import Session

NOT_QUEUED = "The newest fine-tuning has not segmented this scan yet; segment it first."


class ReviewList:
    """Predictions of the newest fine-tuning, those to review first, and how many scans have none yet."""

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker = LatestOnlyWorker(session)
        self.run = ""
        """Id of the newest fine-tuning; empty without one."""
        self.items: tuple[Reviewable, ...] = ()
        self.missing = 0
        """Number of scans without a prediction, or without the expected Dice of one."""
        session.project_changed.connect(self._clear)
        for signal in (session.scans_changed, session.runs_changed, session.predicted):
            signal.connect(self.refresh)

    def _clear(self) -> None:
        self._worker.stop()
        self.run, self.items, self.missing = "", (), 0
        self.changed.emit()

    def refresh(self, *about: object) -> None:
        """Read the predictions again."""
        project, newest = self._session.project, next(iter(self._session.runs("finetune")), None)
        if project is None or newest is None:
            self._clear()
        else:
            run = newest.id
            self._worker.submit(lambda: _read(project, run), lambda items: self._take(project, run, items))

    def _take(self, project: Project, run: str, items: Sequence[Reviewable]) -> None:
        if project is self._session.project:
            self.run, self.items = run, tuple(items)
            self.missing = len(project.scans) - sum(bool(item.expected_dice) for item in items)
            self.changed.emit()

    def item(self, scan: str | None) -> Reviewable | None:
        """The prediction of a scan; None if there is none."""
        return next((item for item in self.items if item.scan == scan), None)

    def following(self, scan: str | None) -> str | None:
        """The scan to review after one: the next in the queue, from its beginning after the last one."""
        left = [item.scan for item in self.items if not item.accepted or item.scan == scan]
        start = left.index(scan) + 1 if scan in left else 0
        return next((other for other in (*left[start:], *left[:start]) if other != scan), None)

    def accept(self, scan: str, accepted: bool = True) -> None:
        """Accept the prediction of a scan, or take that back.

        Raises:
            UserError: "nothing-yet" if the newest fine-tuning has not segmented it, "read-only".
        """
        if self.item(scan) is None:
            raise UserError(NOT_QUEUED, code="nothing-yet")
        accept(self._session.need_project(), self.run, scan, accepted)
        self.refresh()

    def missing_job(self) -> PredictJob:
        """A job that segments the scans without a prediction.

        Raises:
            UserError: "no-project".
        """
        return PredictJob(str(self._session.need_project().root), weights=self.run, only_missing=True)


def _read(project: Project, run: str) -> Iterator[list[Reviewable]]:
    """Runs in a thread."""
    yield review_queue(project, run)
