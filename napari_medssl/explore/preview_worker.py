"""Computes the outlines of the instant preview in a thread. No Qt, no napari."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from medssl.core.errors import UserError
from medssl.core.features.interactive_classifier import (
    Learner,
    LinearClassifier,
    Moments,
    fit,
    outlines,
    slice_fourier_features,
    slice_scores,
    slice_target,
)
from medssl.core.features.similarity import open_features
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project

MAX_OTHER_SCANS = 8
"""Largest number of other annotated scans to learn from: reading one takes time."""


@dataclass(frozen=True)
class PreviewRequest:
    """A slice (canonical axis, voxel index) of a scan, whose annotation may be edited meanwhile."""

    project: Project
    scan: str
    run: str
    annotation: Annotation
    axis: int
    index: int
    touched: frozenset[int] | None = None
    """Axial slices outside of which no label has changed since the last request; None for unknown."""


@dataclass(frozen=True)
class PreviewResult:
    """Outlines on a slice: segments (N, 2, 2) by class id, in voxels of the slice.

    missing: a message if there is nothing to draw. more: whether strokes of other scans can still be added.
    """

    request: PreviewRequest
    outlines: dict[int, np.ndarray] = field(default_factory=dict)
    missing: str = ""
    more: bool = False


class PreviewWorker:
    """Fits a classifier to the strokes and keeps it between requests. Not thread-safe."""

    def __init__(self) -> None:
        self._source: object = None
        self._learner: Learner | None = None
        self._updated: tuple[Learner, np.ndarray] | None = None
        """Learner and labels of the last request."""
        self._others: dict[str, Moments] = {}
        self._unread: list[str] = []
        self._classifier: LinearClassifier | None = None
        self._position: tuple[int, int] | None = None
        self._projected = self._painted = np.empty(0)

    def compute(self, request: PreviewRequest) -> PreviewResult | None:
        """The outlines of a slice for the strokes so far.

        Returns:
            The outlines, or None if they are unchanged.
        """
        try:
            return self._compute(request)
        except UserError as error:
            self._painted, self._updated = np.empty(0), None  # so that the next request is computed
            return PreviewResult(request, missing=str(error), more=bool(self._unread))

    def _compute(self, request: PreviewRequest) -> PreviewResult | None:
        learner = self._learner_of(request)
        labels, last = request.annotation.labels, self._updated
        goes_on = last is not None and last[0] is learner and last[1] is labels
        changed = learner.update(request.annotation, request.touched if goes_on else None)
        self._updated = learner, labels
        if self._unread and self._classifier is not None:  # the scan's own strokes come first
            self._read_another(request)
            changed = True
        if changed or self._classifier is None:
            self._classifier = None
            self._classifier = self._fit(learner, request)
        painted = slice_target(learner.annotation, request.axis, request.index)
        position = (request.axis, request.index)
        if not changed and position == self._position and np.array_equal(painted, self._painted):
            return None
        if position != self._position:
            self._projected = slice_fourier_features(learner.cache, *position)
        self._position, self._painted = position, painted
        scores = slice_scores(learner.cache, self._projected, self._classifier, request.axis)
        return PreviewResult(request, outlines(scores, self._classifier, painted), more=bool(self._unread))

    def _learner_of(self, request: PreviewRequest) -> Learner:
        """The learner for this scan and these weights; a new one if their files have changed."""
        project, scan, run = request.project, request.scan, request.run
        files = (project.root / "features" / f"{scan}-{run}.json", project.run(run).checkpoint)
        source = (str(project.root), scan, run, *(path.stat().st_mtime_ns for path in files if path.exists()))
        if self._learner is None or source != self._source:
            self._learner = self._classifier = self._position = None
            self._others, self._unread = {}, []
            self._learner = Learner(open_features(project, scan, run))
            self._source = source
            painted = [other for other in project.annotated() if other != scan]
            with_features = [other for other in painted if (files[0].parent / f"{other}-{run}.json").exists()]
            self._unread = with_features[:MAX_OTHER_SCANS]
        return self._learner

    def _fit(self, learner: Learner, request: PreviewRequest) -> LinearClassifier:
        while True:
            try:
                return fit(learner.moments, self._others.values())
            except UserError:
                if not self._unread:
                    raise
                self._read_another(request)  # this scan alone has too few strokes

    def _read_another(self, request: PreviewRequest) -> None:
        """Add the strokes of one more scan; a scan whose files cannot be read is skipped."""
        other = self._unread.pop(0)
        try:
            learner = Learner(open_features(request.project, other, request.run))
            annotation = request.project.annotation(other)
        except UserError:
            return
        if annotation is not None:
            learner.update(annotation)
            self._others[other] = learner.moments
