"""What the table of scans says of each, found in a thread: picture, slices painted, prediction, Dice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.files import read_array, write_array
from medssl.core.labels.evaluate import evaluate
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import LabelClass, Scan
from medssl.core.project.project import Project, Run
from psygnal import Signal

from napari_medssl.latest_only_worker import Background
from napari_medssl.model.session import Session

PICTURE = 64
"""Longest side of a small picture in pixels."""
CT_WINDOW = (-1.44, 1.54)
"""-160 to 260 HU, as `intensity.normalise` maps them."""


@dataclass(frozen=True)
class Facts:
    """One scan's line. `picture`: uint8 (rows, columns) of square pixels, as on the screen."""

    picture: np.ndarray = field(compare=False)
    slices: int = 0
    run: str = ""
    """The newest run that has predicted the scan."""
    dice: Mapping[str, float] = field(default_factory=dict)
    """Of that prediction, by class name; empty without reference labels."""
    trouble: str = ""
    """Why there is no Dice, where there should be one."""

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that are in the prediction or in the reference; NaN without any."""
        known = [value for value in self.dice.values() if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan


class Overview:
    """The facts of all scans of the open project, kept up to date."""

    changed = Signal(str)
    """(scan): its facts are known, or others than before."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = Background(session)
        self._known: dict[Any, Any] = {}
        self.facts: dict[str, Facts] = {}
        session.project_changed.connect(self._forget)
        for signal in (session.scans_changed, session.annotation_changed, session.runs_changed,
                       session.classes_changed, session.predicted):  # fmt: skip
            signal.connect(self._refresh)

    def _forget(self) -> None:
        self.facts, self._known = {}, {}

    def _refresh(self, *about: object) -> None:
        project, known = self._session.project, self._known
        if project is not None and self._session.saved != "saving":
            self._thread.ask(lambda: facts_of(project, known), lambda found: self._take(project, *found))

    def _take(self, project: Project, scan: str, facts: Facts) -> None:
        if project is self._session.project and self.facts.get(scan) != facts:
            self.facts[scan] = facts
            self.changed.emit(scan)


def facts_of(project: Project, known: dict[Any, Any]) -> Iterator[tuple[str, Facts]]:
    """(scan, its facts), scan by scan; `known` keeps what need not be read again."""
    runs = project.runs()[::-1]
    for scan in list(project.scans.values()):
        run = next((run for run in runs if project.has_prediction(run.id, scan.id)), None)
        dice, trouble = _dice(project, scan, run, known) if run is not None and scan.reference else ({}, "")
        facts = Facts(
            picture=_once(known, ("picture", scan.id), lambda scan=scan: picture(project, scan)),
            slices=_slices(project, scan, known),
            run=run.id if run is not None else "",
            dice=dice,
            trouble=trouble,
        )
        yield scan.id, facts


def picture(project: Project, scan: Scan) -> np.ndarray:
    """The middle axial slice as a small picture, seen radiologically; kept in the project where it may be."""
    path = project.root / "thumbnails" / f"{scan.id}.npy"
    try:
        kept = read_array(path)
        if kept.dtype == np.uint8 and kept.ndim == 2 and max(kept.shape) == PICTURE:
            return kept
    except UserError:
        pass  # not made yet, or damaged
    made = _small(project.image(scan.id), scan)
    if not project.read_only:
        write_array(path, made)
    return made


def _small(image: np.ndarray, scan: Scan) -> np.ndarray:
    plane = np.asarray(image[len(image) // 2], dtype=np.float32)[::-1, ::-1]
    size_mm = np.array(plane.shape) * scan.geometry.spacing_mm[1:]
    shape = np.maximum(1, np.round(size_mm / size_mm.max() * PICTURE)).astype(int)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * length / n).astype(int), length - 1)
        for n, length in zip(shape, plane.shape, strict=True)
    )
    small = plane[np.ix_(rows, columns)]
    low, high = CT_WINDOW if scan.modality == "ct" else np.percentile(small, (1, 99.5))
    return (np.clip((small - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def count_slices(annotation: Annotation) -> int:
    """Slices that were worked on: the complete ones, and axial ones with strokes outside of these."""
    rest = annotation.labels != 0
    for axis, index in annotation.complete:
        rest[(slice(None),) * axis + (index,)] = False
    return len(annotation.complete) + int(rest.any(axis=(1, 2)).sum())


def _slices(project: Project, scan: Scan, known: dict[Any, Any]) -> int:
    path = project.root / "annotations" / f"{scan.id}.npz"

    def count() -> int:
        annotation = project.annotation(scan.id)
        return count_slices(annotation) if annotation is not None else 0

    return _once(known, ("slices", scan.id, _stamp(path)), count)


def _dice(project: Project, scan: Scan, run: Run, known: dict[Any, Any]) -> tuple[dict[str, float], str]:
    reference, classes = Path(scan.reference), project.classes
    predicted = project.prediction_file(run.id, scan.id)
    key = ("dice", scan.id, classes, _stamp(predicted), reference, _stamp(reference))
    return _once(known, key, lambda: _compare(project, scan, run, classes))


def _compare(
    project: Project, scan: Scan, run: Run, classes: tuple[LabelClass, ...]
) -> tuple[dict[str, float], str]:
    try:
        values = evaluate(project, run.id, {scan.id: Path(scan.reference)}).values[scan.id]
    except UserError as error:
        return {}, str(error)
    return {item.name: values[item.id] for item in classes if item.id in values}, ""


def _stamp(path: Path) -> tuple[str, int]:
    return str(path), path.stat().st_mtime_ns if path.exists() else 0


def _once(known: dict[Any, Any], key: tuple[Any, ...], compute: Any) -> Any:
    if key not in known:
        known[key] = compute()
    return known[key]
