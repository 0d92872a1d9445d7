"""Volumes of the classes: in the prediction on the screen, otherwise in the annotation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from napari.layers import Labels
from psygnal import Signal

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace


class ClassVolumes:
    """Voxel counts by label, computed once in a thread and then updated with every stroke."""

    changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self._worker = LatestOnlyWorker(self.session)
        self._counts = np.zeros(256, np.int64)
        self._prediction: Labels | None = None
        self.predicted = False
        """Whether the volumes are those of the prediction, not of the annotation."""
        for signal in (self.session.scan_changed, self.session.annotation.redrawn):
            signal.connect(self.count)
        self.session.view_changed.connect(self._follow_layer)
        self.session.annotation.stroke.connect(self._on_stroke)

    def ml(self, class_id: int) -> float:
        """Volume of a class in millilitres."""
        return float(self._counts[class_id] * self.session.need_scan().geometry.voxel_ml)

    def count(self) -> None:
        """Count all voxels again, in a thread; `changed` is emitted at the end."""
        if self.session.scan is None:
            return
        shown = self._prediction
        self.predicted = shown is not None and shown.visible and bool(self.workspace.predictions.shown_run)
        layer = shown if self.predicted else self.workspace.annotation_layer
        if layer is None:
            self._take(np.zeros(256, np.int64))
            return
        labels = np.asarray(layer.data)
        self._worker.submit(lambda: _count_labels(labels), self._take)

    def _take(self, counts: np.ndarray) -> None:
        self._counts = counts
        self.changed.emit()

    def _follow_layer(self) -> None:
        """The prediction layer is created by the first prediction."""
        layer = self.workspace.prediction_layer
        if layer is not self._prediction:
            self._prediction = layer
            if layer is not None:
                layer.events.data.connect(lambda event: self.count())
                layer.events.visible.connect(lambda event: self.count())
            self.count()

    def _on_stroke(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        if self._worker.busy:
            self.count()
        elif not self.predicted:
            removed, added = (np.bincount(labels, minlength=256) for labels in (before, after))
            self._counts = self._counts - removed + added
            self.changed.emit()


def _count_labels(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Slice by slice: numpy counts in 64 bits and holds the GIL."""
    counts = np.zeros(256, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    yield counts
