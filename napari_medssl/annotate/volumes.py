"""How large each class is on the screen: in the prediction that is shown, else in what is painted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from napari.layers import Labels
from psygnal import Signal

from napari_medssl.latest_only_worker import Background
from napari_medssl.workspace import Workspace


class Volumes:
    """Voxels by label, counted in a thread once and then stroke by stroke."""

    changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self._thread = Background(self.session)
        self._counts = np.zeros(256, np.int64)
        self._prediction: Labels | None = None
        self.predicted = False
        """Whether the numbers are those of the prediction."""
        for signal in (self.session.scan_changed, workspace.autosave.redrawn):
            signal.connect(self.count)
        self.session.view_changed.connect(self._watch)
        workspace.autosave.stroke.connect(self._on_stroke)

    def ml(self, class_id: int) -> float:
        """Volume of a class."""
        return float(self._counts[class_id] * self.session.need_scan().geometry.voxel_ml)

    def count(self) -> None:
        """Count anew, in a thread."""
        if self.session.scan is None:
            return
        shown = self._prediction
        self.predicted = shown is not None and shown.visible and bool(self.workspace.predictions.shown_run)
        layer = shown if self.predicted else self.workspace.annotation_layer
        if layer is None:
            self._take(np.zeros(256, np.int64))
            return
        labels = np.asarray(layer.data)
        self._thread.ask(lambda: _counted(labels), self._take)

    def _take(self, counts: np.ndarray) -> None:
        self._counts = counts
        self.changed.emit()

    def _watch(self) -> None:
        """The prediction's layer comes with the first prediction."""
        layer = self.workspace.prediction_layer
        if layer is not self._prediction:
            self._prediction = layer
            if layer is not None:
                layer.events.data.connect(lambda event: self.count())
                layer.events.visible.connect(lambda event: self.count())
            self.count()

    def _on_stroke(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        if self._thread.busy:
            self.count()
        elif not self.predicted:
            gone, come = (np.bincount(each, minlength=256) for each in (before, after))
            self._counts = self._counts - gone + come
            self.changed.emit()


def _counted(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Slice by slice: numpy counts in 64 bits, and holds Python up meanwhile."""
    counts = np.zeros(256, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    yield counts
