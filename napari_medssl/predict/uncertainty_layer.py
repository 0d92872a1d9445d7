"""Where a prediction is unsure, and how probable each class is: one image layer, filled on demand."""

from __future__ import annotations

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.jobs import PredictJob
from medssl.core.project.probabilities import ONE, open_probabilities
from napari.layers import Image
from napari.utils import Colormap
from napari.utils.colormaps import ensure_colormap
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal

from napari_medssl import layers
from napari_medssl.engine.child_process import Jobs
from napari_medssl.error_handling import guarded
from napari_medssl.predict.predictions import Predictions

NOTHING, UNCERTAINTY = -1, 0
"""What may be shown besides the classes' ids."""
ROLE = "certainty"


class Certainty:
    """Follows the prediction on the screen; what is not on the disk yet the engine computes first."""

    changed = Signal()

    def __init__(self, predictions: Predictions, jobs: Jobs) -> None:
        self.predictions, self.session, self.jobs = predictions, predictions.session, jobs
        self.what = NOTHING
        """NOTHING, UNCERTAINTY or the id of a class."""
        self._of = ("", "")
        """(scan, run) that it belongs to."""
        self._asked = False
        predictions.changed.connect(self._on_prediction)
        self.session.job_changed.connect(self._on_job)
        self.session.project_changed.connect(self._remove)

    @property
    def layer(self) -> Image | None:
        """The image, once there was something to show."""
        return layers.find(self.predictions.viewer.layers, ROLE)

    def show(self, what: int) -> None:
        """Show it over the scan, the prediction as outlines; starts the engine where it has to be computed.

        Raises UserError ("no-prediction", "busy").
        """
        scan, run = self.session.need_scan().id, self.predictions.need_shown().run
        if what == NOTHING:
            self.hide()
            return
        try:
            found = open_probabilities(self.session.need_project(), run, scan)
        except UserError as error:
            if error.code != "no-probabilities" or self._asked:
                raise
            self._ask(scan, run, what)
            return
        values = found.uncertainty if what == UNCERTAINTY else found.classes.get(what)
        if values is None:
            raise UserError("The prediction was made before there was this class.", code="no-prediction")
        self.what, self._of = what, (scan, run)
        self._put(values)
        self.changed.emit()

    def hide(self) -> None:
        """Show the prediction's areas again."""
        self.what = NOTHING
        self._outline(False)
        if self.layer is not None:
            self.layer.visible = False
        self.changed.emit()

    def _ask(self, scan: str, run: str, what: int) -> None:
        root = str(self.session.need_project().root)
        self.jobs.start(PredictJob(project=root, weights=run, scans=(scan,), probabilities=True))
        self.what, self._of, self._asked = what, (scan, run), True
        self.changed.emit()

    def _on_job(self) -> None:
        job = self.session.job
        if not self._asked or job.kind != "predict" or job.running:
            return
        if job.phase == "Finished" and self._of == self._on_screen():
            guarded(self.session, lambda: self.show(self.what))
        else:
            self.hide()
        self._asked = False

    def _on_prediction(self) -> None:
        """Probabilities of another run, or of another scan, are not those of what is on the screen."""
        if self.what != NOTHING and not self._asked and self._of != self._on_screen():
            self.hide()
        elif self.what == NOTHING:
            self._outline(False)

    def _on_screen(self) -> tuple[str, str]:
        return self.session.scan or "", self.predictions.shown_run

    # --- the layer -----------------------------------------------------------------------------------

    def _put(self, values: np.ndarray) -> None:
        scan, layer, viewer = self.session.need_scan(), self.layer, self.predictions.viewer
        if layer is None:
            layer = certainty_layer(values, scan.geometry, scan.id)
            place = self.predictions.layer
            layers.add(viewer, layer, viewer.layers.index(place) if place is not None else 1)
        else:
            layer.data = values
            layer.scale = scan.geometry.spacing_mm
            layer.metadata = layers.metadata(ROLE, scan.geometry, scan=scan.id)
        item = next((each for each in self.session.need_project().classes if each.id == self.what), None)
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
        self.what, self._asked = NOTHING, False
        layer = self.layer
        if layer is not None:
            layer.locked = False
            self.predictions.viewer.layers.remove(layer)


def certainty_layer(values: np.ndarray, geometry: Geometry, scan: str) -> Image:
    """values: uint8 (Z, Y, X), a view of a memory map; 255 is 1."""
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
    """From transparent to the class's colour."""
    red, green, blue, _ = transform_color(color)[0]
    return Colormap([[red, green, blue, 0], [red, green, blue, 1]], name=f"probability {color}")


def uncertainty_colors() -> Colormap:
    """Perceptually even (inferno), transparent where nothing is doubted."""
    colors = np.array(ensure_colormap("inferno").colors)
    colors[:, 3] = np.linspace(0, 1, len(colors)).clip(0, 0.5) * 2
    return Colormap(colors, name="uncertainty")
