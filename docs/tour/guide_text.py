"""The sentences of the guide that tell what to press: the tour quotes each one when it does it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ACTS = re.compile(
    r"(?<!\*)\*(?!\*)[^*]+\*(?!\*)"  # *a button*
    r"|\b(?:Ctrl\+\w+|Shift\+\w|(?:Shift|Ctrl)-click|Page Up|Page Down|Enter|F\d+|[EHJKNPQUW])\b"
    r"|\b(?:press|click|right-click|double-click|drag|choose|check|hold the pointer)\b",
    re.IGNORECASE,
)
"""What a user is told to press, to click, to choose or to type."""
PICTURE = re.compile(r"!\[.*?\]\(.*?\)", re.DOTALL)
LEFT_OUT = {
    "Your strokes are back; Ctrl+Z removes those": "tests/plugin/test_crash_recovery.py kills a window",
    "Your strokes are safe. *Continue*": "tests/plugin/test_child_process.py kills an engine",
    "or paint *Sure background* on the error": "painted in step 2; what a training makes of it is no answer",
}
"""What the tour does not do, and why."""
CODE = re.compile(r"`[^`]*`")


@dataclass
class Guide:
    """The text of the guide, and which parts of it were done."""

    text: str
    done: list[tuple[int, int]] = field(default_factory=list)
    last: str = ""
    """What was quoted last."""

    @classmethod
    def read(cls, path: Path, left_out: Iterable[str] = LEFT_OUT) -> Guide:
        """Read the guide, or another page, without its pictures, lines joined.

        Args:
            path: The page.
            left_out: What it tells and nobody does.
        """
        text = CODE.sub(lambda code: code.group().replace("*", ""), PICTURE.sub("", path.read_text("utf-8")))
        guide = cls(" ".join(text.split()))
        guide(*left_out)
        return guide

    def __call__(self, *phrases: str) -> None:
        """Say which words of the guide are done next.

        Args:
            phrases: Parts of the guide, each found in it exactly once.

        Raises:
            AssertionError: The guide has a phrase no more, or several times.
        """
        for phrase in phrases:
            times = self.text.count(phrase)
            assert times == 1, f"The guide has {phrase!r} {times} times; quote words that it has once."
            start = self.text.index(phrase)
            self.done.append((start, start + len(phrase)))
            self.last = phrase
            print(f"  {phrase}", flush=True)

    def missing(self) -> list[str]:
        """What the guide tells to do and nobody has done, with the words around it."""
        return [
            f'{act.group()!r} in "...{self.text[max(0, act.start() - 60) : act.end() + 40]}..."'
            for act in ACTS.finditer(self.text)
            if not any(start <= act.start() and act.end() <= end for start, end in self.done)
        ]
