"""What the window says to its user, and how long it is true. No Qt.

A sentence belongs to the step that was open when it was told, or to that of the job which it is about. It
ends

- when something is attempted in that step: a button, a list, a table, a key, a click on the canvas that asks
  for something (strokes do not: advice stays while it is followed);
- when one of its subjects ends, in whichever step it stands: the state that it describes has changed, or what
  failed is done anew;
- with its project.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

from psygnal import Signal

STAYING = ("error", "warning")
"""Severities of sentences that stay: what failed, and what was left out, assumed or not possible."""
LAST_UNDOABLE = "last-undoable"
"""Subject of a sentence that says what Ctrl+Z takes back."""
ON_SCREEN = "on-screen"
"""Subject of a sentence about "this scan"."""


@dataclass(frozen=True)
class Message:
    """A sentence that stays.

    Attributes:
        severity: "warning" or "error".
        text: One sentence.
        step: Index of the step that it belongs to.
        about: Its subjects: codes of errors, or whatever else the place that tells it and the place that ends
            it agree on. The text itself is one, too.
    """

    severity: str
    text: str
    step: int
    about: frozenset[Hashable] = frozenset()


class Messages:
    """The sentences that are true now."""

    changed = Signal()

    def __init__(self) -> None:
        self.step = 0
        """Index of the open step."""
        self.step_of_job: dict[str, int] = {}
        """Index of the step that starts jobs of a kind."""
        self._all: tuple[Message, ...] = ()

    @property
    def shown(self) -> tuple[Message, ...]:
        """Those of the open step, the oldest first."""
        return tuple(message for message in self._all if message.step == self.step)

    def tell(self, severity: str, text: str, about: Iterable[Hashable] = (), job: str = "") -> None:
        """Keep a sentence, once in each step.

        Args:
            severity: "info", "warning" or "error"; an "info" does not stay.
            text: One sentence.
            about: Its subjects.
            job: Kind of the job that it is about; empty for something attempted in the open step.
        """
        if severity in STAYING:
            step = self.step_of_job.get(job, self.step)
            message = Message(severity, text, step, frozenset((*about, text)))
            others = (old for old in self._all if (old.text, old.step) != (text, step))
            self._keep((*others, message))

    def attempt(self, step: int | None = None) -> None:
        """Something is attempted: forget the sentences of a step; None for the open one."""
        now = self.step if step is None else step
        self._keep([message for message in self._all if message.step != now])

    def end(self, *subjects: Hashable) -> None:
        """What sentences are about has changed, or is attempted anew: forget them in all steps."""
        self._keep([message for message in self._all if message.about.isdisjoint(subjects)])

    def clear(self) -> None:
        """Forget everything: another project is opened."""
        self._keep(())

    def open_step(self, step: int) -> None:
        """Another step has been opened."""
        self.step = step
        self.changed.emit()

    def _keep(self, messages: Collection[Message]) -> None:
        if tuple(messages) != self._all:
            self._all = tuple(messages)
            self.changed.emit()
