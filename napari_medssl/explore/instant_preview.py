"""Outlines predicted from the strokes for the slice on the screen, updated while painting.

They are drawn as a Vectors layer, a short vector for each segment of an outline: napari redraws it fastest
(Shapes are triangulated in Python), it has the resolution of the screen instead of the voxels, and vectors of
one slice are not shown on another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from medssl.core.features.similarity import any_features
from medssl.core.io.geometry import Geometry
from medssl.core.project.project import LabelClass
from napari.layers import Vectors
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal
from superqt.utils import FunctionWorker, create_worker

from napari_medssl import layers, navigation
from napari_medssl.class_colors import PREVIEWED, shade
from napari_medssl.error_handling import catch_errors
from napari_medssl.explore.preview_worker import PreviewRequest, PreviewResult, PreviewWorker
from napari_medssl.explore.similarity import SimilaritySearch
from napari_medssl.model.session import Session
from napari_medssl.qt import timer
from napari_medssl.workspace import Workspace

LINE_PIXELS = 2.2
FEATURES_PENDING = "The features of this scan are being computed; outlines follow in a few seconds."
NO_FEATURES = "This scan has no features yet; compute them in step 6."
OTHER_WEIGHTS = (
    "This scan has features of other weights than those selected in step 6; select them or compute features."
)
NOT_2D = "The preview is drawn on slices; press Ctrl+Y to leave the 3D view."


class InstantPreview:
    """Follows strokes and slices while it is on; the newest request replaces earlier ones."""

    changed = Signal()
    """It was turned on or off, or `missing` has changed."""
    drawn = Signal()
    """The outlines in the layer are those of the newest strokes."""

    def __init__(self, workspace: Workspace, similar: SimilaritySearch) -> None:
        self.workspace, self.session, self._similarity = workspace, workspace.session, similar
        self.on = False
        self.missing = ""
        """Message that says what the preview needs; empty while it can be drawn."""
        self._computation = PreviewWorker()
        self._worker: FunctionWorker[PreviewResult | None] | None = None
        self._repeat = False
        self._touched: set[int] | None = None
        """Axial slices that strokes have changed since the last request; None for unknown."""
        self._result: PreviewResult | None = None
        self._drawn: PreviewResult | None = None
        self._soon = timer(0, self.ask)
        session: Session = self.session
        for signal in (session.view_changed, session.scan_changed, session.classes_changed,
                       session.annotation.changed, session.runs_changed):  # fmt: skip
            signal.connect(self.ask)
        for signal in (session.scan_leaving, session.project_changed):
            signal.connect(self._clear)
        session.annotation.stroke.connect(self._on_stroke)
        session.annotation.redrawn.connect(self._on_redrawn)

    @property
    def layer(self) -> Vectors | None:
        """The layer of outlines; None before anything was drawn."""
        return layers.find(self.workspace.viewer.layers, layers.PREVIEW)

    def switch(self, on: bool) -> None:
        """Turn the preview on or off; off removes its layer."""
        self.on = on
        if on:
            self._computation, self._result, self._touched = PreviewWorker(), None, None
            self.ask()
        else:
            self._soon.stop()
            self._clear()
            self._set_missing("")
        self.changed.emit()

    def close(self) -> None:
        """Disconnect from the viewer and all listeners."""
        self.changed.disconnect()
        if self.on:
            self.switch(False)

    # --- from strokes to a request -------------------------------------------------------------------

    def ask(self, event: object = None) -> None:
        """Request the outlines of the slice on the screen."""
        if not self.on or self.session.closed:
            return
        position, missing = self.workspace.slice_on_screen(), self._missing_requirement()
        if self._drawn is not None and position and position[0] != self._drawn.request.axis:
            self._clear()  # across the slice its outlines are lines
        if missing or position is None:
            self._clear()
            self._set_missing(missing)
        elif self._worker is not None:
            self._repeat = True
        else:
            self._start(*position)

    def _on_stroke(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Ask as soon as the labels have changed, too: some strokes are announced first."""
        if self.on and self._touched is not None:
            _, height, width = self.session.need_scan().geometry.shape_zyx
            self._touched.update(np.unique(voxels // (height * width)).tolist())
        self._soon.start()

    def _on_redrawn(self) -> None:
        self._touched = None
        self._soon.start()

    def _missing_requirement(self) -> str:
        run, project, scan = self._similarity.run, self.session.project, self.session.scan
        if project is None or scan is None:
            return "Open a scan first (step 1)."
        if not self.session.has_features(run):
            if self._similarity.pending_scan == scan:
                return FEATURES_PENDING
            return OTHER_WEIGHTS if any_features(project, scan) else NO_FEATURES
        return NOT_2D if self.workspace.viewer.dims.ndisplay == 3 else ""

    def _start(self, axis: int, index: int) -> None:
        project, scan = self.session.need_project(), self.session.need_scan()
        annotation = self.session.annotation.current()
        touched = None if self._touched is None else frozenset(self._touched)
        request = PreviewRequest(
            project, scan.id, self._similarity.run or "", annotation, axis, index, touched
        )
        self._touched = set()
        self._worker = create_worker(
            self._computation.compute,
            request,
            _start_thread=False,
            _connect={"returned": self._on_result, "errored": self._on_error},
        )
        self._worker.start()

    # --- from an answer to the screen ----------------------------------------------------------------

    def _on_result(self, result: PreviewResult | None) -> None:
        self._worker = None
        repeat, self._repeat = self._repeat, False
        if not self.on or self.session.closed:
            return
        catch_errors(self.session, lambda: self._show(result))
        if repeat or (result is not None and result.more):
            self.ask()
        elif not self.missing:
            self.drawn.emit()

    def _on_error(self, error: Exception) -> None:
        """A defect: it is reported once, and the preview turns off."""
        self._worker = None

        def fail() -> None:
            raise error

        if not self.session.closed:
            catch_errors(self.session, fail)
            self.switch(False)

    def _show(self, result: PreviewResult | None) -> None:
        self._result = result or self._result  # None: unchanged
        if self._result is None or self._result is self._drawn:
            return
        result, request = self._result, self._result.request
        if request.scan != self.session.scan or request.project is not self.session.project:
            return
        if (request.axis, request.index) != self.workspace.slice_on_screen():
            return  # the view has moved on; the next result is being computed
        self._set_missing(result.missing)
        if result.missing:
            self._clear()
        else:
            self._draw(result)

    def _draw(self, result: PreviewResult) -> None:
        scan, project = self.session.need_scan(), self.session.need_project()
        self._drawn, axis = result, result.request.axis
        scale = scale_of(scan.geometry, axis)
        vectors, colors = vectors_of(result, scan.geometry, project.classes)
        layer = self.layer
        if layer is None:
            layer = preview_layer(scan.geometry, scan.id, scale)
            viewer = self.workspace.viewer
            layers.add(viewer, layer)
        if tuple(layer.scale) != scale:
            layer.data = np.empty((0, 2, 3))
            layer.scale = scale
        width = LINE_PIXELS / navigation.camera_of(self.workspace.viewer).zoom / max(scale)
        layer.visible = True
        if abs(layer.edge_width - width) > width / 20:  # setting it rebuilds the whole layer
            layer.edge_width = width
        with layer.events.set_data.blocker():  # otherwise the mesh is built twice
            layer.data = vectors
        layer.edge_color = colors

    def _clear(self) -> None:
        """Remove the outlines. While on, the layer stays: a removed one keeps memory in napari."""
        layer, self._drawn = self.layer, None
        if layer is None:
            return
        if self.on:
            layer.visible = False
            layer.data = np.empty((0, 2, 3))
        else:
            layers.remove(self.workspace.viewer, layer)

    def _set_missing(self, missing: str) -> None:
        if missing != self.missing:
            self.missing = missing
            self.changed.emit()


# --- what napari draws ------------------------------------------------------------------------------


def scale_of(geometry: Geometry, axis: int) -> tuple[float, float, float]:
    """Scale of the preview layer for slices along an axis.

    Isotropic within the slice, because lines of one width would otherwise look unequal. Never finer than the
    scan's spacing, which napari would take as the step of its sliders.

    Args:
        geometry: Geometry of the scan.
        axis: Canonical axis across the slices.

    Returns:
        Scale in mm along z, y, x.
    """
    z, y, x = (
        spacing if at == axis else max(geometry.spacing_mm) for at, spacing in enumerate(geometry.spacing_mm)
    )
    return z, y, x


def vectors_of(
    result: PreviewResult, geometry: Geometry, classes: Sequence[LabelClass]
) -> tuple[np.ndarray, np.ndarray]:
    """The outlines as napari vectors.

    Args:
        result: Outlines by class id, (N, 2, 2) in voxels of the slice.
        geometry: Geometry of the scan.
        classes: The classes, for their colours.

    Returns:
        Vectors (N, 2, 3), start and direction in layer coordinates, and their RGBA colours (N, 4).
    """
    axis, outlines = result.request.axis, result.outlines
    colors = {item.id: shade(item.color, PREVIEWED) for item in classes}
    counts = [len(lines) for lines in outlines.values()]
    color = transform_color([colors.get(label, "white") for label in outlines] or ["white"])
    scale = scale_of(geometry, axis)
    vectors = np.zeros((sum(counts), 2, 3), np.float32)
    vectors[:, 0, axis] = result.request.index
    if outlines:
        lines = np.concatenate(list(outlines.values()))
        for along, other in enumerate(dim for dim in range(3) if dim != axis):
            lines[..., along] *= geometry.spacing_mm[other] / scale[other]
            vectors[:, 0, other] = lines[:, 0, along]
            vectors[:, 1, other] = lines[:, 1, along] - lines[:, 0, along]
    return vectors, np.repeat(color[: len(counts)], counts, axis=0)


def preview_layer(geometry: Geometry, scan: str, scale: tuple[float, float, float]) -> Vectors:
    """An empty, locked layer for the outlines.

    Args:
        geometry: Geometry of the scan.
        scan: Id of the scan.
        scale: Scale in mm along z, y, x.
    """
    layer = Vectors(
        np.empty((0, 2, 3)),
        name="preview",
        ndim=3,
        metadata=layers.metadata(layers.PREVIEW, geometry, scan=scan),
        vector_style="line",
        opacity=1,
        **{**layers.placement(geometry), "scale": scale},
    )
    layer._max_vectors_thumbnail = 1  # napari draws thumbnails in Python: 15 ms of a stroke's 150
    layer.editable = False
    layer.locked = True
    return layer
