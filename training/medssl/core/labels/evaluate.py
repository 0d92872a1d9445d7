"""Evaluation of predictions against reference labels: a metric per class, per scan and over scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.label_names import LabelTable
from medssl.core.io.labels import LabelVolume, read_labels
from medssl.core.labels.class_ids import known_ids, map_values
from medssl.core.labels.metrics import dice
from medssl.core.project.project import LabelClass, Project, Scan
from medssl.core.shell import command

MAX_NAMED = 5
"""Number of unknown labels that a message names; the others are counted."""


@dataclass(frozen=True)
class Scores:
    """One metric of one run on several scans.

    NaN where the metric is undefined, such as the Dice of a class that is neither predicted nor present.
    """

    classes: tuple[LabelClass, ...]
    values: dict[str, dict[int, float]]
    """{scan id: {class id: value}}."""
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """{scan id: what is to be known about its label file}."""
    left_out: dict[str, str] = field(default_factory=dict)
    """{scan id: why it does not count}."""

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

    Values of the files are classes as they are when masks are imported (class_ids.py).

    Args:
        references: {scan id: label file of the scan}.

    Returns:
        Dice, 0..1, of every class of the project in every scan. NaN for a class that the file lacks while it
        has labels that are no class of the project: these may be that class.

    Raises:
        UserError: "no-prediction" if the run has not predicted a scan, "no-class" if no label of a file is a
            class of the project, and those of `read_labels`.

    Example:
        >>> pairs = pair_labels({"ct": Path("imagesTr/ct.nii.gz")}, Path("labelsTr"))
        >>> evaluate(project, "0002-finetune-quick", pairs.files).mean
    """
    scores = Scores(project.classes, {})
    for scan_id, path in references.items():
        _add(scores, project, run_id, scan_id, path)
    return scores


def evaluate_usable(project: Project, run_id: str, references: Mapping[str, Path]) -> Scores:
    """Like `evaluate`, but scans that cannot be evaluated are left out, with the reason.

    Raises:
        UserError: No scan can be evaluated; the error of the first one.
    """
    scores = Scores(project.classes, {})
    first: UserError | None = None
    for scan_id, path in references.items():
        try:
            _add(scores, project, run_id, scan_id, path)
        except UserError as error:
            scores.left_out[scan_id] = str(error)
            first = first or error
    if first is not None and not scores.values:
        raise first
    return scores


def _add(scores: Scores, project: Project, run_id: str, scan_id: str, path: Path) -> None:
    """Evaluate one scan."""
    prediction = project.prediction(run_id, scan_id)
    if prediction is None:
        predict = command("predict", project.root, "--weights", run_id, scan_id)
        raise UserError(
            f"Run {run_id} has no prediction of scan {project.scan(scan_id).title}; predict it first "
            f"({predict}).",
            code="no-prediction",
        )
    labels = read_labels(path, project.scans[scan_id].geometry)
    scores.values[scan_id], scores.notes[scan_id] = _compare(prediction, labels, project.classes)


def _compare(
    prediction: np.ndarray, labels: LabelVolume, classes: Sequence[LabelClass]
) -> tuple[dict[int, float], tuple[str, ...]]:
    """Dice of each class, and notes."""
    present = labels.values()
    ids, notes = known_ids(present, labels.table, classes), labels.notes
    if present and labels.names and not ids and not labels.is_segmentation:
        # Unlike segments, the labels of a dataset.json have the same value in all files.
        ids = known_ids(present, LabelTable(), classes)
        titles = {item.id: item.name for item in classes}
        pairs = [f"{_listed([value], labels)} with {titles[class_id]}" for value, class_id in ids.items()]
        notes += (f"its names are not those of the project; by number it compares {', '.join(pairs)}",)
    unknown = [value for value in present if value not in ids]
    if unknown and not ids:
        raise UserError(
            f"{labels.path} has no label that is a class of the project (it has {_listed(unknown, labels)}); "
            "name a class like the label, or import a label file of this kind first.",
            code="no-class",
        )
    scores = dice(prediction, map_values(labels.array, ids), [item.id for item in classes])
    if not unknown:
        return scores, notes
    present_ids = set(ids.values())
    scores = {number: score if number in present_ids else math.nan for number, score in scores.items()}
    note = f"{_listed(unknown, labels)} {'is' if len(unknown) == 1 else 'are'} no class of the project"
    return scores, (*notes, note)


def _listed(values: Sequence[int], labels: LabelVolume) -> str:
    named = [f"{value} ({labels.names[value]})" if value in labels.names else str(value) for value in values]
    more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    return ", ".join(named[:MAX_NAMED]) + more


def reference_labels(scan: Scan, path: Path) -> np.ndarray:
    """Read a label file of a scan.

    Returns:
        Labels as the file numbers them, in canonical order on the scan's grid, integer (Z, Y, X).

    Raises:
        UserError: Those of `read_labels`.
    """
    return read_labels(path, scan.geometry).array


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
