"""Log of the finished cells of an experiment, one JSON line each, and their summary over seeds.

Lines are only appended, each in one write, so that several processes can share a file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.files import cannot_write, exists, read_bytes


@dataclass(frozen=True)
class Failure:
    """A failed cell; it is tried again when the experiment runs again."""

    dataset: str
    method: str
    seed: int
    settings: dict[str, Any]
    failed: str
    """Error message."""
    date: str

    @classmethod
    def of(cls, dataset: str, method: str, seed: int, settings: dict[str, Any], error: Exception) -> Failure:
        """Failure of a cell that has ended with an error."""
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(dataset, method, seed, settings, reason, now)

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the cell; equal for lines of the same cell."""
        return (self.dataset, self.method, self.seed, _plain(self.settings))


@dataclass(frozen=True)
class Cell:
    """A finished cell: one method with one seed on one data set. Undefined numbers are None."""

    dataset: str
    method: str
    seed: int
    settings: dict[str, Any]
    """protocol.Settings, as far as they affect the method."""
    judged_on: str
    """"test", "validation", or "painted" for methods that can only segment annotated scans."""
    annotated: dict[str, list[int]]
    """{scan id: complete axial slices}; an empty list if all slices are complete."""
    seconds: dict[str, float]
    """Training times of "pretrain" and "finetune", and the total "wall" time, including prediction."""
    dice: float
    """Mean over scans of the mean over classes, like all means in this record."""
    dice_of_class: dict[str, float | None]
    dice_of_scan: dict[str, float | None]
    hausdorff95_mm: float | None
    hausdorff95_mm_of_class: dict[str, float | None]
    volume_error: float | None
    volume_error_of_class: dict[str, float | None]
    dice_on_painted_scans: float | None
    """On the annotated scans; annotated voxels keep their labels."""
    after_s: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results before the end: {seconds of fine-tuning: {"dice", "dice_of_class", "dice_of_scan", "step",
    "elapsed_s"}}."""
    runs: dict[str, str] = field(default_factory=dict)
    """Run ids of "pretrain" and "finetune"."""
    steps: dict[str, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    """The planner's choice: dims (2.5D or 3D), patch, batch, precision, threads."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts on the method, e.g. versions of another program."""
    machine: dict[str, Any] = field(default_factory=dict)
    date: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the cell; equal for lines of the same cell."""
        return (self.dataset, self.method, self.seed, _plain(self.settings))


def append(path: Path, line: Cell | Failure) -> None:
    """Append a line to a log file, which is created if missing.

    Raises:
        UserError: "disk-full" or "not-writable".
    """
    append_records(path, [asdict(line)])


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a file of JSON lines, which is created if missing, in one write.

    Raises:
        UserError: "disk-full" or "not-writable".
    """
    data = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def read_lines(path: Path) -> list[Cell | Failure]:
    """Read all lines, oldest first; an empty list if the file does not exist.

    Raises:
        UserError: "unreadable".
    """
    records = read_records(path)
    try:
        return [Failure(**record) if "failed" in record else Cell(**record) for record in records]
    except TypeError as error:
        raise _unreadable(path, error) from error


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines, oldest first; an empty list if it does not exist.

    Raises:
        UserError: "unreadable".
    """
    if not exists(path):
        return []
    try:
        return [json.loads(line) for line in read_bytes(path).decode("utf-8").splitlines()]
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or from another version ({error}); delete it to run its cells again.",
        code="unreadable",
    )


def read_cells(path: Path) -> list[Cell]:
    """Read the finished cells.

    Raises:
        UserError: "unreadable".
    """
    return [line for line in read_lines(path) if isinstance(line, Cell)]


def finished(cells: Sequence[Cell], dataset: str, method: str, seed: int, settings: Any) -> Cell | None:
    """The newest finished cell of a data set, method, seed and settings (a dataclass), or None."""
    key = (dataset, method, seed, _plain(dataclasses.asdict(settings)))
    return next((cell for cell in reversed(cells) if cell.key == key), None)


def _plain(settings: Mapping[str, Any]) -> str:
    """Settings as JSON, so that settings compare equal before and after they were written to a file."""
    return json.dumps(settings, sort_keys=True)


@dataclass(frozen=True)
class Row:
    """Summary of a method over seeds."""

    method: str
    seeds: tuple[int, ...]
    dice: float
    spread: float | None
    """Sample standard deviation over seeds; None for one seed."""
    dice_of_class: dict[str, float | None]
    seconds: dict[str, float]
    """Mean over seeds."""


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Summarise the cells of one data set and settings, with methods in order of first occurrence."""
    result = []
    for method in dict.fromkeys(cell.method for cell in cells):
        method_cells = [cell for cell in cells if cell.method == method]
        scores = [cell.dice for cell in method_cells]
        result.append(
            Row(
                method=method,
                seeds=tuple(cell.seed for cell in method_cells),
                dice=statistics.fmean(scores),
                spread=statistics.stdev(scores) if len(scores) > 1 else None,
                dice_of_class={
                    name: mean([cell.dice_of_class[name] for cell in method_cells])
                    for name in method_cells[0].dice_of_class
                },
                seconds={
                    phase: statistics.fmean(cell.seconds[phase] for cell in method_cells)
                    for phase in method_cells[0].seconds
                },
            )
        )
    return result


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None
