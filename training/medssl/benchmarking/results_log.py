"""Finished cells of a comparison: a file with one JSON line each, and what they say together.

Lines are only ever added, each in one write, so that several processes may add to one file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.files import cannot_write


@dataclass(frozen=True)
class Failure:
    """A cell that could not be finished, and why; it is tried again when the grid runs again."""

    dataset: str
    method: str
    seed: int
    settings: dict[str, Any]
    failed: str
    """The reason, a sentence."""
    date: str

    @classmethod
    def of(cls, dataset: str, method: str, seed: int, settings: dict[str, Any], error: Exception) -> Failure:
        """What to say of a cell that has just ended in this error."""
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(dataset, method, seed, settings, reason, now)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it the same cell as another line's."""
        return (self.dataset, self.method, self.seed, _plain(self.settings))


@dataclass(frozen=True)
class Cell:
    """One method under one seed on one data set, finished. Numbers that are not defined are None."""

    dataset: str
    method: str
    seed: int
    settings: dict[str, Any]
    """study.Settings, as far as they concern the method."""
    judged_on: str
    """"test", "validation", or "painted" for what can only go on in the scans that were painted."""
    annotated: dict[str, list[int]]
    """{scan id: completed axial slices}; none are named where all of them are."""
    seconds: dict[str, float]
    """Training time of "pretrain" and "finetune", and the "wall" time of all, planning and predicting too."""
    dice: float
    """Mean over scans of the mean over classes, like all means here."""
    dice_of_class: dict[str, float | None]
    dice_of_scan: dict[str, float | None]
    hausdorff95_mm: float | None
    hausdorff95_mm_of_class: dict[str, float | None]
    volume_error: float | None
    volume_error_of_class: dict[str, float | None]
    dice_on_painted_scans: float | None
    """On the annotated scans, painted slices as painted."""
    after_s: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was read off on the way: {seconds of fine-tuning: "dice", "dice_of_class", "dice_of_scan", and
    where the training stood, "step" and "elapsed_s"}."""
    runs: dict[str, str] = field(default_factory=dict)
    """Run ids of "pretrain" and "finetune"."""
    steps: dict[str, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    """2.5D or 3D, patch, batch, precision, threads, as they were chosen."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Whatever else belongs to the method, as the versions of another program."""
    machine: dict[str, Any] = field(default_factory=dict)
    date: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two cells the same."""
        return (self.dataset, self.method, self.seed, _plain(self.settings))


def append(path: Path, line: Cell | Failure) -> None:
    """Add a line to the file, which is made where it is missing.

    Raises UserError ("disk-full", "not-writable").
    """
    data = (json.dumps(asdict(line), allow_nan=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def read_lines(path: Path) -> list[Cell | Failure]:
    """All lines, oldest first; none where the file is not there yet.

    Raises UserError ("unreadable").
    """
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Failure(**each) if "failed" in each else Cell(**each) for each in found]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged or from another version ({error}); delete it to run its cells again.",
            code="unreadable",
        ) from error


def read_cells(path: Path) -> list[Cell]:
    """The finished cells alone.

    Raises UserError ("unreadable").
    """
    return [line for line in read_lines(path) if isinstance(line, Cell)]


def finished(cells: Sequence[Cell], dataset: str, method: str, seed: int, settings: Any) -> Cell | None:
    """The newest finished cell of this data set, method, seed and settings (a dataclass)."""
    wanted = (dataset, method, seed, _plain(dataclasses.asdict(settings)))
    return next((cell for cell in reversed(cells) if cell.key == wanted), None)


def _plain(settings: Mapping[str, Any]) -> str:
    """Settings as text that is the same before and after they were a line of the file."""
    return json.dumps(settings, sort_keys=True)


@dataclass(frozen=True)
class Row:
    """One method over its seeds."""

    method: str
    seeds: tuple[int, ...]
    dice: float
    spread: float | None
    """Sample standard deviation over seeds; None for one seed."""
    dice_of_class: dict[str, float | None]
    seconds: dict[str, float]
    """Mean over seeds."""


def rows(cells: Sequence[Cell]) -> list[Row]:
    """The cells of one data set and settings summed up over seeds, methods in the order in which they first
    occur."""
    result = []
    for method in dict.fromkeys(cell.method for cell in cells):
        of_it = [cell for cell in cells if cell.method == method]
        scores = [cell.dice for cell in of_it]
        result.append(
            Row(
                method=method,
                seeds=tuple(cell.seed for cell in of_it),
                dice=statistics.fmean(scores),
                spread=statistics.stdev(scores) if len(scores) > 1 else None,
                dice_of_class={
                    name: mean([cell.dice_of_class[name] for cell in of_it])
                    for name in of_it[0].dice_of_class
                },
                seconds={
                    phase: statistics.fmean(cell.seconds[phase] for cell in of_it)
                    for phase in of_it[0].seconds
                },
            )
        )
    return result


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are defined; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
