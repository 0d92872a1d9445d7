"""What the dock says about itself: who has the project, what failed, which job runs."""

from __future__ import annotations

from collections.abc import Sequence

from napari_medssl.model.session import Session
from napari_medssl.widgets.components import Step, hint
from napari_medssl.widgets.messages import JobLine, Messages


class Feedback:
    """Three widgets above and below the steps, which the dock lays out and which every step shares."""

    def __init__(self, session: Session, steps: Sequence[Step]) -> None:
        self.session, self.steps = session, steps
        self.read_only_line, self.messages, self.job_line = hint(), Messages(), JobLine()
        self.read_only_line.setProperty("message", "warning")
        self.read_only_line.hide()
        for number, step in enumerate(steps):
            self.messages.watch(number, step.body)
            step.toggled.connect(lambda is_open, number=number: self._on_toggled(number, is_open))
        session.message.connect(self._on_message)
        session.lock_changed.connect(self._show_read_only)
        session.job_changed.connect(self._show_job)
        self.job_line.asked.connect(self._open_job_step)

    def _on_toggled(self, number: int, is_open: bool) -> None:
        if is_open:
            self.messages.show_step(number)
        self._show_job()

    def _on_message(self, severity: str, text: str) -> None:
        step = self._job_step() if text == self.session.job.error else None
        if text != self.session.read_only:  # which has a line of its own
            self.messages.tell(severity, text, step)

    def _job_step(self) -> int | None:
        """Index of the step of the running job or of the last one."""
        kind = self.session.job.kind
        return next((number for number, step in enumerate(self.steps) if kind in step.body.kinds), None)

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
