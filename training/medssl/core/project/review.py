"""The review queue: predictions of a run, those of the lowest expected quality first, and which are accepted.

The expected quality of a prediction is the mean over the classes of the Dice that the network expects
(docs/benchmarks/review_queue.md has how well it does). To accept a prediction is a remark beside it,
runs/<run>/predictions/<scan>.accepted.json, with the origin of what was looked at: a prediction of other
weights is not accepted. No annotation changes, and no training learns from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.json_files import read_json, write_json
from medssl.core.project.project import Project


@dataclass(frozen=True)
class Reviewable:
    """A prediction to review.

    Attributes:
        scan: Id of the scan.
        expected_dice: {class id: Dice, 0..1}; empty where a former version made the prediction.
        accepted: Whether somebody has accepted it.
    """

    scan: str
    expected_dice: dict[int, float]
    accepted: bool

    @property
    def quality(self) -> float:
        """Expected quality, 0..1; NaN where it is unknown."""
        values = self.expected_dice.values()
        return sum(values) / len(values) if values else math.nan


def predicted(project: Project, run_id: str) -> Iterator[Reviewable]:
    """The scans that a run has segmented with its present weights, in the order of the project."""
    for scan in list(project.scans):
        try:
            expected = project.expected_dice(run_id, scan)
            if expected is not None or project.has_prediction(run_id, scan):
                yield Reviewable(scan, expected or {}, is_accepted(project, run_id, scan))
        except UserError:
            continue  # a damaged file, which opening the scan reports


def review_queue(project: Project, run_id: str) -> list[Reviewable]:
    """The predictions of a run: those to review first, of them the worst and then the unknown ones."""
    return sorted(predicted(project, run_id), key=_rank)


def _rank(item: Reviewable) -> tuple[bool, bool, float]:
    unknown = math.isnan(item.quality)
    return item.accepted, unknown, 0.0 if unknown else item.quality


def accept(project: Project, run_id: str, scan_id: str, accepted: bool = True) -> None:
    """Accept the prediction of a scan, or take that back.

    Raises:
        UserError: "nothing-yet" without a current prediction, "read-only", "disk-full", "not-writable".
    """
    project.need_writable()
    if not project.has_prediction(run_id, scan_id):
        title = project.scan(scan_id).title
        raise UserError(
            f"{title} has no current prediction of {run_id}; segment it first.", code="nothing-yet"
        )
    path = _path(project, run_id, scan_id)
    if accepted:
        write_json(path, project.prediction_origin(run_id, scan_id))
    else:
        path.unlink(missing_ok=True)


def is_accepted(project: Project, run_id: str, scan_id: str) -> bool:
    """Whether the current prediction of a scan has been accepted."""
    path = _path(project, run_id, scan_id)
    if not path.exists():
        return False
    try:
        return read_json(path) == project.prediction_origin(run_id, scan_id)
    except UserError:
        return False  # damaged: it is reviewed again


def _path(project: Project, run_id: str, scan_id: str) -> Path:
    return project.prediction_file(run_id, scan_id).with_suffix(".accepted.json")
