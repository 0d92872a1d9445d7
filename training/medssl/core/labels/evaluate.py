"""Evaluation of predictions against reference labels: a metric per class, per scan and over scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.volume import read_labels
from medssl.core.labels.metrics import dice
from medssl.core.project.project import LabelClass, Project, Scan


@dataclass(frozen=True)
class Scores:
    """One metric of one run on several scans.

    NaN where the metric is undefined, such as the Dice of a class that is neither predicted nor present.
    """

    classes: tuple[LabelClass, ...]
    values: dict[str, dict[int, float]]
    """{scan id: {class id: value}}."""

    def of_class(self, class_id: int) -> float:
        """Mean over the scans that contain the class."""
        return _mean([by_class[class_id] for by_class in self.values.values()])

    def of_scan(self, scan_id: str) -> float:
        """Mean over the classes that the scan contains."""
        return _mean(list(self.values[scan_id].values()))

    @property
    def mean(self) -> float:
        """Mean over scans of the mean over classes: the score of the benchmark protocol."""
        return _mean([self.of_scan(scan_id) for scan_id in self.values])


def evaluate(project: Project, run_id: str, references: Mapping[str, Path]) -> Scores:
    """Dice of the saved predictions of a run against reference label files.

    Args:
        references: {scan id: label file on the scan's grid}.

    Returns:
        Dice, 0..1, of every class of the project in every scan.

    Raises:
        UserError: "no-prediction" if the run has not predicted a scan, "wrong-geometry" if a label file lies
            on another grid, and those of `read_labels`.

    Example:
        >>> evaluate(project, "0002-finetune-quick", match_labels(project, Path("labelsTr"))).mean
    """
    class_ids = [label_class.id for label_class in project.classes]
    result = {}
    for scan_id, path in references.items():
        prediction = project.prediction(run_id, scan_id)
        if prediction is None:
            raise UserError(
                f"Run {run_id} has no prediction of scan {scan_id}; predict it first "
                f"(medssl predict {project.root} --weights {run_id} {scan_id}).",
                code="no-prediction",
            )
        result[scan_id] = dice(prediction, reference_labels(project.scans[scan_id], path), class_ids)
    return Scores(classes=project.classes, values=result)


def reference_labels(scan: Scan, path: Path) -> np.ndarray:
    """Read a label file that must lie on the grid of the scan.

    Returns:
        Labels in canonical order, uint8 or uint16 (Z, Y, X).

    Raises:
        UserError: "wrong-geometry", and those of `read_labels`.
    """
    labels = read_labels(path)
    if not labels.geometry.same_grid(scan.geometry):
        raise UserError(
            f"{path} lies on another voxel grid than scan {scan.id} (shape, spacing, position or orientation "
            "differ); give labels that were drawn on this scan.",
            code="wrong-geometry",
        )
    return labels.array


def match_labels(project: Project, folder: Path) -> dict[str, Path]:
    """Match the label files in a folder to the project's scans by file name.

    Returns:
        {scan id: label file}.

    Raises:
        UserError: "missing" if the folder does not exist or no file matches.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that holds the label files.", code="missing")
    files = {path.name: path for path in folder.iterdir()}
    matched = {
        scan_id: files[Path(scan.source).name]
        for scan_id, scan in project.scans.items()
        if Path(scan.source).name in files
    }
    if not matched:
        raise UserError(
            f"{folder} has no label file named like a scan of {project.root}; "
            "name each label file as its scan's file.",
            code="missing",
        )
    return matched


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
