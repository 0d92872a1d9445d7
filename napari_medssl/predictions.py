"""What networks answered about the scan on the screen: the layer that shows it, and what an export takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from medssl.errors import UserError
from napari.layers import Labels

from napari_medssl import layers
from napari_medssl.guard import guarded

if TYPE_CHECKING:
    from napari_medssl.workspace import Workspace


class Predictions:
    """One locked layer; which run's answer is in it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.viewer = workspace.viewer
        self.shown_run = ""
        """The run whose prediction is on the screen."""
        self.session.predicted.connect(self._on_predicted)

    @property
    def layer(self) -> Labels | None:
        """The network's answer."""
        return layers.find(self.viewer.layers, layers.PREDICTION)

    def show_newest(self) -> None:
        """Show the newest prediction of the scan on the screen, if there is one."""
        newest = next(iter(self.session.predictions()), None)
        self.show(newest.id if newest else "")

    def show(self, run: str) -> None:
        """Show what a run predicted for the scan; "" hides the layer."""
        scan, layer = self.session.need_scan(), self.layer
        labels = self.session.need_project().prediction(run, scan.id) if run else None
        self.shown_run = run if labels is not None else ""
        if labels is None:
            if layer is not None:
                layer.data = np.zeros(scan.geometry.shape_zyx, np.uint8)
                layer.visible = False
            return
        if layer is None:
            layer = layers.prediction_layer(
                labels, scan.geometry, scan.id, self.session.need_project().classes
            )
            below = self.workspace.annotation_layer
            place = self.viewer.layers.index(below) if below is not None else len(self.viewer.layers)
            active = self.viewer.layers.selection.active
            self.viewer.layers.insert(place, layer)
            self.viewer.layers.selection.active = active
        layer.data = labels
        layer.scale = scan.geometry.spacing_mm
        layer.metadata = layers.metadata(layers.PREDICTION, scan.geometry, scan=scan.id)
        layer.visible = True

    def toggle(self) -> None:
        """Hide or show the prediction, to look at the scan below."""
        if self.layer is not None:
            self.layer.visible = not self.layer.visible

    def to_export(self) -> tuple[str, str]:
        """(scan, run) that an export writes now: strokes are saved, the run is the one on the screen.

        Raises UserError ("no-scan", "no-prediction").
        """
        scan = self.session.need_scan()
        self.workspace.autosave.flush()
        if not self.shown_run:
            raise UserError(
                "There is no prediction of this scan to export yet; fine-tune first (step 4).",
                code="no-prediction",
            )
        return scan.id, self.shown_run

    def _on_predicted(self, scan: str, run: str) -> None:
        if scan == self.session.scan:
            guarded(self.session, lambda: self.show(run))
