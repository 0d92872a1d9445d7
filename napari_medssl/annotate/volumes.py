"""Volumes of the classes in the annotation and in the prediction on the screen."""

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
        self._painted_worker, self._predicted_worker = (LatestOnlyWorker(self.session) for _ in range(2))
        self._painted = self._predicted = np.zeros(256, np.int64)
        self._prediction: Labels | None = None
        for signal in (self.session.scan_changed, self.session.annotation.redrawn):
            signal.connect(self.count_painted)
        self.session.view_changed.connect(self._follow_layer)
        self.session.annotation.stroke.connect(self._on_stroke)

    @property
    def has_prediction(self) -> bool:
        """Whether there are volumes of a prediction."""
        return bool(self.workspace.predictions.shown_run)

    def painted_ml(self, class_id: int) -> float:
        """Painted volume of a class in millilitres."""
        return float(self._painted[class_id] * self.session.need_scan().geometry.voxel_ml)

    def predicted_ml(self, class_id: int) -> float:
        """Volume of a class in the prediction, in millilitres."""
        return float(self._predicted[class_id] * self.session.need_scan().geometry.voxel_ml)

    def count_painted(self) -> None:
        """Count all painted voxels again, in a thread; `changed` is emitted at the end."""
        labels = self.session.annotation.labels
        if labels is None:
            self._painted_worker.stop()
            self._take_painted(np.zeros(256, np.int64))
        else:
            self._painted_worker.submit(lambda: _count_labels(labels), self._take_painted)

    def _count_predicted(self) -> None:
        if self._prediction is not None and self.session.scan is not None:
            labels = np.asarray(self._prediction.data)
            self._predicted_worker.submit(lambda: _count_labels(labels), self._take_predicted)

    def _take_painted(self, counts: np.ndarray) -> None:
        self._painted = counts
        self.changed.emit()

    def _take_predicted(self, counts: np.ndarray) -> None:
        self._predicted = counts
        self.changed.emit()

    def _follow_layer(self) -> None:
        """The prediction layer is created by the first prediction."""
        layer = self.workspace.prediction_layer
        if layer is not self._prediction:
            self._prediction = layer
            if layer is not None:
                layer.events.data.connect(lambda event: self._count_predicted())
            self._count_predicted()

    def _on_stroke(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        if self._painted_worker.busy:
            self.count_painted()
        else:
            removed, added = (np.bincount(labels, minlength=256) for labels in (before, after))
            self._take_painted(self._painted - removed + added)


def _count_labels(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Slice by slice: numpy counts in 64 bits and holds the GIL."""
    counts = np.zeros(256, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    yield counts
