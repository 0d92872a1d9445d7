"""Contents of the scan table, collected in a thread: thumbnail, annotated slices, prediction, Dice."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from medssl.core.errors import UserError
from medssl.core.files import read_array, write_array
from medssl.core.labels.evaluate import evaluate
from medssl.core.project.annotation import Annotation
from medssl.core.project.annotation_file import DAMAGED
from medssl.core.project.contents import LabelClass, Scan
from medssl.core.project.project import Project, Run
from psygnal import Signal

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.annotation_state import SaveState
from napari_medssl.model.session import Session

THUMBNAIL_SIZE = 64
"""Longest side of a thumbnail in pixels."""
CT_WINDOW = (-1.44, 1.54)
"""-160 to 260 HU, as `intensity.normalise` maps them."""


T = TypeVar("T")


@dataclass(frozen=True)
class ScanSummary:
    """One row of the table. `picture` is uint8 (rows, columns), square pixels, oriented as on the screen."""

    picture: np.ndarray = field(compare=False)
    slices: int = 0
    run: str = ""
    """Newest run that has segmented the scan."""
    dice: Mapping[str, float] = field(default_factory=dict)
    """Dice of that prediction by class name; empty without reference labels."""
    dice_error: str = ""
    """Why the Dice could not be computed."""

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that are in the prediction or in the reference; NaN without any."""
        values = [value for value in self.dice.values() if not math.isnan(value)]
        return float(np.mean(values)) if values else math.nan


class ScanSummaries:
    """Summaries of all scans of the open project, kept up to date."""

    changed = Signal(str)
    """(scan): its summary has changed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker = LatestOnlyWorker(session)
        self._cache: dict[Any, Any] = {}
        self.by_scan: dict[str, ScanSummary] = {}
        session.project_changed.connect(self._clear)
        session.scan_removed.connect(lambda scan: self.by_scan.pop(scan, None))
        for signal in (session.scans_changed, session.annotation.changed, session.runs_changed,
                       session.classes_changed, session.predicted):  # fmt: skip
            signal.connect(self._refresh)

    def _clear(self) -> None:
        self.by_scan, self._cache = {}, {}

    def _refresh(self, *about: object) -> None:
        project, cache, named = self._session.project, self._cache, self._session.damaged
        if project is not None and self._session.annotation.save_state != SaveState.SAVING:
            self._worker.submit(
                lambda: summarise_scans(project, cache, named), lambda result: self._take(project, *result)
            )

    def _take(self, project: Project, scan: str, summary: ScanSummary) -> None:
        if project is self._session.project and self.by_scan.get(scan) != summary:
            self.by_scan[scan] = summary
            self.changed.emit(scan)


def summarise_scans(project: Project, cache: dict[Any, Any], named: Collection[str] = ()) -> Iterator[Any]:
    """Summarise the scans of a project, one after the other.

    Args:
        project: The project.
        cache: What need not be read again; filled here.
        named: Ids of scans whose damaged annotation is known already.

    Yields:
        (scan, summary), or once the error of a damaged annotation.
    """
    runs = project.runs()[::-1]
    for scan in list(project.scans.values()):
        try:
            slices = _slices(project, scan, cache)
        except UserError as error:
            key = ("damaged", scan.id)
            if scan.id not in named and error.code in DAMAGED and key not in cache:
                cache[key] = True
                yield error
            continue
        try:
            summary = _summarise(project, scan, runs, cache, slices)
        except UserError:
            continue  # a damaged file; opening the scan reports it
        yield scan.id, summary


def _summarise(
    project: Project, scan: Scan, runs: list[Run], cache: dict[Any, Any], slices: int
) -> ScanSummary:
    run = next((run for run in runs if project.has_prediction(run.id, scan.id)), None)
    dice, dice_error = _dice(project, scan, run, cache) if run is not None and scan.reference else ({}, "")
    return ScanSummary(
        picture=_cached(cache, ("picture", scan.id, scan.image_fingerprint), partial(picture, project, scan)),
        slices=slices,
        run=run.id if run is not None else "",
        dice=dice,
        dice_error=dice_error,
    )


def picture(project: Project, scan: Scan) -> np.ndarray:
    """Thumbnail of the middle axial slice, uint8 (rows, columns), in radiological orientation.

    Cached in the project if it may be written.
    """
    path = project.root / "thumbnails" / f"{scan.id}.npy"
    try:
        stored = read_array(path)
        is_newer = _modified(path)[1] >= _modified(project.root / "scans" / f"{scan.id}.npy")[1]
        if is_newer and stored.dtype == np.uint8 and stored.ndim == 2 and max(stored.shape) == THUMBNAIL_SIZE:
            return stored
    except UserError:
        pass  # not made yet, or damaged
    made = _small(project.image(scan.id), scan)
    if not project.read_only:
        project.make_folder("thumbnails")
        write_array(path, made)
    return made


def _small(image: np.ndarray, scan: Scan) -> np.ndarray:
    plane = np.asarray(image[len(image) // 2], dtype=np.float32)[::-1, ::-1]
    size_mm = np.array(plane.shape) * scan.geometry.spacing_mm[1:]
    shape = np.maximum(1, np.round(size_mm / size_mm.max() * THUMBNAIL_SIZE)).astype(int)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * length / n).astype(int), length - 1)
        for n, length in zip(shape, plane.shape, strict=True)
    )
    small = plane[np.ix_(rows, columns)]
    low, high = CT_WINDOW if scan.modality == "ct" else np.percentile(small, (1, 99.5))
    return (np.clip((small - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def count_slices(annotation: Annotation) -> int:
    """Number of annotated slices: complete ones, and axial ones with strokes outside of these."""
    rest = annotation.labels != 0
    for axis, index in annotation.complete:
        rest[(slice(None),) * axis + (index,)] = False
    return len(annotation.complete) + int(rest.any(axis=(1, 2)).sum())


def _slices(project: Project, scan: Scan, cache: dict[Any, Any]) -> int:
    path = project.root / "annotations" / f"{scan.id}.npz"

    def count() -> int:
        annotation = project.annotation(scan.id)
        return count_slices(annotation) if annotation is not None else 0

    return _cached(cache, ("slices", scan.id, _modified(path)), count)


def _dice(project: Project, scan: Scan, run: Run, cache: dict[Any, Any]) -> tuple[dict[str, float], str]:
    reference, classes = Path(scan.reference), project.classes
    predicted = project.prediction_file(run.id, scan.id)
    key = ("dice", scan.id, classes, _modified(predicted), reference, _modified(reference))
    return _cached(cache, key, lambda: _compare(project, scan, run, classes))


def _compare(
    project: Project, scan: Scan, run: Run, classes: tuple[LabelClass, ...]
) -> tuple[dict[str, float], str]:
    try:
        values = evaluate(project, run.id, {scan.id: Path(scan.reference)}).values[scan.id]
    except UserError as error:
        return {}, str(error)
    return {item.name: values[item.id] for item in classes if item.id in values}, ""


def _modified(path: Path) -> tuple[str, int]:
    return str(path), path.stat().st_mtime_ns if path.exists() else 0


def _cached(cache: dict[Any, Any], key: tuple[Any, ...], compute: Callable[[], T]) -> T:
    if key not in cache:
        cache[key] = compute()
    return cache[key]
