"""Uncertainty of a prediction and class probabilities, in one image layer that is computed on demand."""

from __future__ import annotations

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.jobs import PredictJob
from medssl.core.project.probabilities import ONE, open_probabilities
from napari.layers import Image
from napari.utils import Colormap
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal

from napari_medssl import layers
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.overlay_colors import overlay_colors
from napari_medssl.predict.predictions import Predictions

CLASSES_ONLY, UNCERTAINTY = -1, 0
"""Values of `displayed` besides class ids."""
ROLE = "uncertainty"


class UncertaintyLayer:
    """Follows the prediction on the screen; maps that are not saved yet are computed by the engine."""

    changed = Signal()

    def __init__(self, predictions: Predictions, jobs: JobRunner) -> None:
        self.predictions, self.session, self.jobs = predictions, predictions.session, jobs
        self.displayed = CLASSES_ONLY
        """CLASSES_ONLY, UNCERTAINTY or the id of a class."""
        self._source = ("", "")
        """(scan, run) of the displayed map."""
        self._requested = False
        predictions.changed.connect(self._on_prediction)
        self.session.job_changed.connect(self._on_job)
        self.session.project_changed.connect(self._remove)

    @property
    def layer(self) -> Image | None:
        """The image layer; None before anything was shown."""
        return layers.find(self.predictions.viewer.layers, ROLE)

    def show(self, content: int) -> None:
        """Show a map over the scan and the prediction as outlines; the map is computed first if necessary.

        Args:
            content: CLASSES_ONLY, UNCERTAINTY or the id of a class.

        Raises:
            UserError: "no-prediction", "busy".
        """
        scan, run = self.session.need_scan().id, self.predictions.need_shown().run
        if content == CLASSES_ONLY:
            self.hide()
            return
        try:
            probabilities = open_probabilities(self.session.need_project(), run, scan)
        except UserError as error:
            if error.code != "no-probabilities" or self._requested:
                raise
            self._request(scan, run, content)
            return
        values = probabilities.uncertainty if content == UNCERTAINTY else probabilities.classes.get(content)
        if values is None:
            raise UserError(
                "This class was added after the prediction; fine-tune again.", code="no-prediction"
            )
        self.displayed, self._source = content, (scan, run)
        self._show_values(values)
        self.changed.emit()

    def hide(self) -> None:
        """Show the prediction's areas again."""
        self.displayed = CLASSES_ONLY
        self._outline(False)
        if self.layer is not None:
            self.layer.visible = False
        self.changed.emit()

    def _request(self, scan: str, run: str, content: int) -> None:
        root = str(self.session.need_project().root)
        self.jobs.start(PredictJob(project=root, weights=run, scans=(scan,), probabilities=True))
        self.displayed, self._source, self._requested = content, (scan, run), True
        self.changed.emit()

    def _on_job(self) -> None:
        job = self.session.job
        if not self._requested or job.kind != "predict" or job.running:
            return
        if job.phase == "Finished" and self._source == self._current_source():
            catch_errors(self.session, lambda: self.show(self.displayed))
        else:
            self.hide()
        self._requested = False

    def _on_prediction(self) -> None:
        """Hide the map of another run or scan."""
        if self.displayed != CLASSES_ONLY and not self._requested and self._source != self._current_source():
            self.hide()
        elif self.displayed == CLASSES_ONLY:
            self._outline(False)

    def _current_source(self) -> tuple[str, str]:
        return self.session.scan or "", self.predictions.shown_run

    # --- the layer -----------------------------------------------------------------------------------

    def _show_values(self, values: np.ndarray) -> None:
        scan, layer, viewer = self.session.need_scan(), self.layer, self.predictions.viewer
        if layer is None:
            layer = uncertainty_image(values, scan.geometry, scan.id)
            above = self.predictions.layer
            position = layers.above_scan(viewer, scan.id) if above is None else viewer.layers.index(above)
            layers.add(viewer, layer, position)
        else:
            layer.data = values
            layer.scale = scan.geometry.spacing_mm
            layer.metadata = layers.metadata(ROLE, scan.geometry, scan=scan.id)
        item = next((item for item in self.session.need_project().classes if item.id == self.displayed), None)
        layer.name = "uncertainty" if item is None else f"probability of {item.name}"
        layer.colormap = uncertainty_colors() if item is None else class_colors(item.color)
        layer.visible = True
        self._outline(True)

    def _outline(self, on: bool) -> None:
        layer = self.predictions.layer
        if layer is not None and layer.contour != int(on):
            layer.contour = int(on)

    def _remove(self) -> None:
        """Another project."""
        self.displayed, self._requested = CLASSES_ONLY, False
        layers.remove(self.predictions.viewer, self.layer)


def uncertainty_image(values: np.ndarray, geometry: Geometry, scan: str) -> Image:
    """A layer for a probability map.

    Args:
        values: uint8 (Z, Y, X), a view of a memory map; 255 is a probability of 1.
        geometry: Geometry of the scan.
        scan: Id of the scan.
    """
    layer = Image(
        values,
        name="uncertainty",
        metadata=layers.metadata(ROLE, geometry, scan=scan),
        contrast_limits=(0, ONE),
        blending="translucent",
        opacity=0.8,
        **layers.placement(geometry),
    )
    layer.locked = True
    return layer


def class_colors(color: str) -> Colormap:
    """A colormap from transparent to the colour of a class."""
    red, green, blue, _ = transform_color(color)[0]
    return Colormap([[red, green, blue, 0], [red, green, blue, 1]], name=f"probability {color}")


def uncertainty_colors() -> Colormap:
    """A perceptually uniform colormap (inferno), transparent where uncertainty is low."""
    return overlay_colors("inferno", "uncertainty")
