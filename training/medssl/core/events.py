"""Events of running jobs, one JSON object per line, from the engine to the process that started it.

The same events drive the viewer (read from the child's standard output), the command line (drawn by rich) and
`events.jsonl` in the run's folder. `SliceInView` goes the other way, from the viewer to the engine.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medssl.core.errors import UserError
from medssl.core.jobs import from_json


@dataclass(frozen=True)
class SliceInView:
    """The slice on the screen, sent to a job as a line `show {...}` on its standard input."""

    scan: str
    axis: int
    """Canonical: 0 axial, 1 coronal, 2 sagittal."""
    index: int

    def to_line(self) -> str:
        """The line, without the newline."""
        return "show " + json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> SliceInView:
        """The slice of a line. Raises UserError ("bad-line") for any other line."""
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "show":
                return from_json(cls, json.loads(rest), "The line")
        except (ValueError, RecursionError, UserError):
            pass
        raise UserError(f"{line[:80]!r} shows no slice; write show and its JSON.", code="bad-line")


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag=str.lower):
    """What all events share: the field "event" of a line says which one it is."""


class Started(_Said, frozen=True):
    """The job has loaded its scans and starts; `plan` is a jobs.Plan as JSON, `reasons` explains it."""

    run: str
    plan: dict[str, Any] = {}
    reasons: list[str] = []


class Progress(_Said, frozen=True):
    """Progress of a phase: completed `fraction` (0..1) and, if known, the remaining seconds."""

    phase: str
    fraction: float
    step: int = 0
    eta_s: float | None = None


class Metric(_Said, frozen=True):
    """Scalars of one step, for curves: {"loss": 0.7, "dice": 0.8}."""

    step: int
    values: dict[str, float]


class Preview(_Said, frozen=True):
    """A result of a scan, such as its prediction, that can be shown while the job continues."""

    scan: str
    path: str


class SlicePreview(_Said, frozen=True):
    """Current prediction of one slice during a training; not written to `events.jsonl`.

    `packed` holds the class ids, uint8 (rows, columns) in canonical order, compressed by zlib and encoded as
    base64: `of` encodes and `labels` decodes them.
    """

    scan: str
    axis: int
    index: int
    shape: tuple[int, int]
    packed: str

    @classmethod
    def of(cls, place: SliceInView, labels: np.ndarray) -> SlicePreview:
        """Create the event of a slice.

        Args:
            labels: Class ids in canonical order, uint8 (rows, columns).
        """
        rows, columns = labels.shape
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(labels, np.uint8).tobytes(), 1))
        return cls(place.scan, place.axis, place.index, (rows, columns), packed.decode("ascii"))

    def labels(self) -> np.ndarray:
        """Class ids, uint8 (rows, columns). Raises UserError ("bad-event") where they are damaged."""
        try:
            flat = np.frombuffer(zlib.decompress(base64.b64decode(self.packed)), np.uint8)
            return flat.reshape(self.shape)
        except (ValueError, zlib.error) as error:
            raise UserError(
                f"The preview of slice {self.index} is damaged; wait for the next one.",
                code="bad-event",
            ) from error


class Checkpoint(_Said, frozen=True):
    """A checkpoint was written, from which the job can be resumed."""

    step: int
    path: str


class Notice(_Said, frozen=True):
    """One sentence for the user: a decision or a warning."""

    text: str


class Done(_Said, frozen=True):
    """The job ended by itself, or on request if `stopped`; `result` depends on the job."""

    stopped: bool = False
    result: dict[str, Any] = {}


class Failed(_Said, frozen=True):
    """The job failed; `text` is one sentence for the user, `code` identifies the error for programs."""

    code: str
    text: str


Event = Started | Progress | Metric | Preview | SlicePreview | Checkpoint | Notice | Done | Failed
Emit = Callable[[Event], None]


def to_line(event: Event) -> str:
    """The event as one line of JSON, without the newline."""
    return json.dumps(
        {"event": type(event).__name__.lower(), **msgspec.structs.asdict(event)}, separators=(",", ":")
    )


def from_line(line: str | bytes) -> Event:
    """The event of one line.

    Raises UserError ("bad-event") for anything that is not an event of this version.
    """
    try:
        return msgspec.convert(json.loads(line), Event)
    except (ValueError, RecursionError) as error:  # msgspec's ValidationError is one of the former
        raise UserError(
            f"The engine said something unknown ({line[:80]!r}); check that plugin and engine "
            "are of one version.",
            code="bad-event",
        ) from error


def read_log(path: Path, *names: str) -> list[Event]:
    """Events of a run from its events.jsonl; damaged and incomplete lines are skipped.

    Args:
        path: The file.
        names: Names of the events to read, such as "done"; none for all. A long training logs a hundred
            thousand events, and only these are parsed.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    if names:
        beginnings = tuple(f'{{"event":"{name}"'.encode() for name in names)
        lines = [line for line in lines if line.startswith(beginnings)]
    events = []
    for line in lines:
        with suppress(UserError):
            events.append(from_line(line))
    return events


def ran_to_completion(path: Path) -> bool:
    """Whether the run of an events.jsonl ended by itself, not by a stop or a crash, when it last ran."""
    newest = read_log(path, "started", "done")[-1:]
    return any(isinstance(event, Done) and not event.stopped for event in newest)


def announcing(emit: Emit, texts: Sequence[str]) -> Emit:
    """An Emit that sends further notices.

    Args:
        emit: Receives all events.
        texts: Sent as notices right after Started.
    """

    def emit_announcing(event: Event) -> None:
        emit(event)
        if isinstance(event, Started):
            for text in texts:
                emit(Notice(text))

    return emit_announcing


def logged(emit: Emit, path: Path) -> Emit:
    """An Emit that also keeps events.

    Args:
        emit: Receives all events.
        path: Log to which they are appended, except for slice previews.
    """

    def emit_logged(event: Event) -> None:
        if not isinstance(event, SlicePreview):
            # A log cut short by a full disk must not end the training; saving a checkpoint raises the error.
            with suppress(OSError), path.open("a", encoding="utf-8") as log:
                log.write(to_line(event) + "\n")
        emit(event)

    return emit_logged
