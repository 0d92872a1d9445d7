"""From strokes to outlines: what the instant preview computes beside the viewer's thread. No Qt or napari."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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

MOST_OTHERS = 8
"""Other painted scans that the probe learns from: each costs a moment once."""


@dataclass(frozen=True)
class Request:
    """A slice (canonical axis, voxel index) of a scan, and all that is painted on the scan (it is copied)."""

    project: Project
    scan: str
    run: str
    annotation: Annotation
    axis: int
    index: int


@dataclass(frozen=True)
class Sketch:
    """What to draw on a slice of a scan: segments (N, 2, 2) by class id, in voxels of the slice.

    missing: one sentence where there is nothing to draw; more: whether other scans can still be asked.
    """

    request: Request
    outlines: dict[int, np.ndarray] = field(default_factory=dict)
    missing: str = ""
    more: bool = False


class Sketcher:
    """Remembers what it learned between strokes. One thread at a time."""

    def __init__(self) -> None:
        self._source: object = None
        self._learner: Learner | None = None
        self._others: dict[str, Moments] = {}
        self._unread: list[str] = []
        self._classifier: LinearClassifier | None = None
        self._place: tuple[int, int] | None = None
        self._fourier_features = self._painted = np.empty(0)

    def sketch(self, request: Request) -> Sketch | None:
        """The outlines of a slice as all strokes so far have it; None for "as before"."""
        try:
            return self._sketch(request)
        except UserError as error:
            self._painted = np.empty(0)  # whatever comes next is new
            return Sketch(request, missing=str(error), more=bool(self._unread))

    def _sketch(self, request: Request) -> Sketch | None:
        labels = request.annotation.labels.copy()  # the hand may paint on meanwhile
        request = replace(request, annotation=replace(request.annotation, labels=labels))
        learner = self._turn_to(request)
        changed = learner.update(request.annotation)
        if self._unread and self._classifier is not None:  # the scan's own strokes come first
            self._read_another(request)
            changed = True
        if changed or self._classifier is None:
            self._classifier = None
            self._classifier = self._fit(learner, request)
        painted = slice_target(request.annotation, request.axis, request.index)
        place = (request.axis, request.index)
        if not changed and place == self._place and np.array_equal(painted, self._painted):
            return None
        if place != self._place:
            self._fourier_features = slice_fourier_features(learner.cache, *place)
        self._place, self._painted = place, painted
        scores = slice_scores(learner.cache, self._fourier_features, self._classifier, request.axis)
        return Sketch(request, outlines(scores, self._classifier, painted), more=bool(self._unread))

    def _turn_to(self, request: Request) -> Learner:
        """The learner of this scan under these weights, as their files are now."""
        project, scan, run = request.project, request.scan, request.run
        files = (project.root / "features" / f"{scan}-{run}.json", project.run(run).checkpoint)
        source = (str(project.root), scan, run, *(path.stat().st_mtime_ns for path in files if path.exists()))
        if self._learner is None or source != self._source:
            self._learner = self._classifier = self._place = None
            self._others, self._unread = {}, []
            self._learner = Learner(open_features(project, scan, run))
            self._source = source
            painted = [other for other in project.annotated() if other != scan]
            known = [other for other in painted if (files[0].parent / f"{other}-{run}.json").exists()]
            self._unread = known[:MOST_OTHERS]
        return self._learner

    def _fit(self, learner: Learner, request: Request) -> LinearClassifier:
        while True:
            try:
                return fit(learner.moments, self._others.values())
            except UserError:
                if not self._unread:
                    raise
                self._read_another(request)  # this scan alone says too little

    def _read_another(self, request: Request) -> None:
        """Take in what is painted on one more scan; one whose files are of no use is left out."""
        other = self._unread.pop(0)
        try:
            learner = Learner(open_features(request.project, other, request.run))
            annotation = request.project.annotation(other)
        except UserError:
            return
        if annotation is not None:
            learner.update(annotation)
            self._others[other] = learner.moments
