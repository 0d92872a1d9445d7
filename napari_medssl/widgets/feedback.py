"""What the dock says about itself: who has the project, what failed, which job runs."""

from __future__ import annotations

from collections.abc import Sequence

from napari_medssl.io.file_notices import file_notices
from napari_medssl.model.session import Session
from napari_medssl.widgets.components import Step, hint
from napari_medssl.widgets.messages import JobLine, MessageLabel


class Feedback:
    """Three widgets below the steps, which the dock lays out and which every step shares."""

    def __init__(self, session: Session, steps: Sequence[Step]) -> None:
        self.session, self.steps = session, steps
        self.read_only_line, self.messages, self.job_line = hint(), MessageLabel(session.messages), JobLine()
        self.read_only_line.setProperty("message", "warning")
        self.read_only_line.hide()
        for number, step in enumerate(steps):
            self.messages.watch(step.body, number)
            session.messages.step_of_job |= dict.fromkeys(step.body.kinds, number)
            step.toggled.connect(lambda is_open, number=number: self._on_toggled(number, is_open))
        session.lock_changed.connect(self._show_read_only)
        session.job_changed.connect(self._show_job)
        file_notices.attempted.connect(self._on_file)
        file_notices.told.connect(self._on_file_notice)
        self.job_line.asked.connect(self._open_job_step)

    def _on_toggled(self, number: int, is_open: bool) -> None:
        if is_open:
            self.session.messages.open_step(number)
        self._show_job()

    def _on_file(self) -> None:
        """napari opens or saves a file by our reader or writer: an attempt, too."""
        if not self.session.closed:
            self.session.messages.end(file_notices)

    def _on_file_notice(self, severity: str, text: str) -> None:
        if not self.session.closed:
            self.session.messages.tell(severity, text, [file_notices])

    def _job_step(self) -> int | None:
        """Index of the step of the running job or of the last one."""
        return self.session.messages.step_of_job.get(self.session.job.kind)

    def _show_job(self) -> None:
        step = self._job_step()
        self.job_line.show_job(self.session.job, step is not None and self.steps[step].isExpanded())

    def _open_job_step(self) -> None:
        step = self._job_step()
        if step is not None:
            self.steps[step].expand()

    def _show_read_only(self) -> None:
        self.read_only_line.setText(self.session.read_only)
        self.read_only_line.setVisible(bool(self.session.read_only))
