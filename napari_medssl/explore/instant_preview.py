"""Outlines of what the strokes say about the slice on the screen, drawn while one paints.

They are drawn as vectors, a short one for each step of an outline: that is the layer which napari redraws
fastest (Shapes make triangles in Python), it is as fine as the screen and not as coarse as the voxels, and
vectors of one slice are not shown on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from medssl.core.features.similarity import has_features
from medssl.core.io.geometry import Geometry
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import LabelClass
from medssl.core.shipped import SHAPES
from napari.layers import Labels, Vectors
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal
from superqt.utils import create_worker, qdebounced

from napari_medssl import layers
from napari_medssl.error_handling import guarded
from napari_medssl.explore.preview_worker import Request, Sketch, Sketcher
from napari_medssl.explore.similarity import Similar
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

PAUSE_MS = 30
"""What tells nobody that it is finished (undo, a slider) is waited for so long."""
LINE_PIXELS = 2.2
COMING = "The features of this scan are being computed; outlines come in some seconds."
NO_FEATURES = "There are no features of this scan yet; compute them in step 6."
OTHER_WEIGHTS = (
    "This scan has features of other weights than those chosen in step 6; choose these or compute features."
)
NOT_2D = "The preview is drawn on slices; press Ctrl+Y to leave the 3D view."


class InstantPreview:
    """Follows strokes and slices while it is switched on; the newest request wins."""

    changed = Signal()
    """It was switched, or `missing` is another sentence."""
    drawn = Signal()
    """The outlines in the layer are those of the newest strokes."""

    def __init__(self, workspace: Workspace, similar: Similar) -> None:
        self.workspace, self.session, self._similar = workspace, workspace.session, similar
        self.on = False
        self.missing = ""
        """What there is no preview without, in one sentence."""
        self._sketcher = Sketcher()
        self._worker: Any = None
        self._again = False
        self._watched: Labels | None = None
        self._answer: Sketch | None = None
        self._on_screen: Sketch | None = None
        self._soon = qdebounced(self.ask, timeout=PAUSE_MS)
        session: Session = self.session
        for signal in (session.view_changed, session.scan_changed, session.classes_changed,
                       session.annotation_changed, session.runs_changed):  # fmt: skip
            signal.connect(self.ask)
        for signal in (session.scan_leaving, session.project_changed):
            signal.connect(self._clear)

    @property
    def layer(self) -> Vectors | None:
        """The outlines, where there are any."""
        return layers.find(self.workspace.viewer.layers, layers.PREVIEW)

    def switch(self, on: bool) -> None:
        """Begin to follow, or leave nothing."""
        self.on = on
        if on:
            self._sketcher, self._answer = Sketcher(), None
            self.ask()
        else:
            self._watch(None)
            self._soon.cancel()
            self._clear()
            self._say("")
        self.changed.emit()

    def close(self) -> None:
        """Let the viewer go; whoever listened may be gone already."""
        self.changed.disconnect()
        if self.on:
            self.switch(False)

    # --- from strokes to a request -------------------------------------------------------------------

    def ask(self, event: Any = None) -> None:
        """Draw the slice on the screen anew, after what is being computed now."""
        if not self.on or self.session.closed:
            return
        self._watch(self.workspace.annotation_layer)
        place, missing = self.workspace.slice_on_screen(), self._what_is_missing()
        if self._on_screen is not None and place and place[0] != self._on_screen.request.axis:
            self._clear()  # seen from the side, outlines are lines
        if missing or place is None:
            self._clear()
            self._say(missing)
        elif self._worker is not None:
            self._again = True
        else:
            self._start(*place)

    def _watch(self, layer: Labels | None) -> None:
        if layer is self._watched:
            return
        for old, action in ((self._watched, "disconnect"), (layer, "connect")):
            if old is not None:
                getattr(old.events.paint, action)(self.ask)
                for emitter in (old.events.data, old.events.set_data):  # undo says nothing but that it redrew
                    getattr(emitter, action)(self._later)
        self._watched = layer

    def _later(self, event: Any = None) -> None:
        self._soon()

    def _what_is_missing(self) -> str:
        run, project, scan = self._similar.run, self.session.project, self.session.scan
        if project is None or scan is None:
            return "Open a scan first (step 1)."
        if not self.session.has_features(run):
            if self._similar.coming == scan:
                return COMING
            own = (project.root / "features").glob(f"{scan}-[0-9]*.json")
            return OTHER_WEIGHTS if any(own) or has_features(project, scan, SHAPES) else NO_FEATURES
        return NOT_2D if self.workspace.viewer.dims.ndisplay == 3 else ""

    def _start(self, axis: int, index: int) -> None:
        project, scan = self.session.need_project(), self.session.need_scan()
        layer = self._watched
        labels = np.zeros(scan.geometry.shape_zyx, np.uint8) if layer is None else np.asarray(layer.data)
        annotation = Annotation(labels, self.session.complete)
        request = Request(project, scan.id, self._similar.run or "", annotation, axis, index)
        self._worker = create_worker(
            self._sketcher.sketch,
            request,
            _start_thread=False,
            _connect={"returned": self._on_sketch, "errored": self._on_error},
        )
        self._worker.start()

    # --- from an answer to the screen ----------------------------------------------------------------

    def _on_sketch(self, sketch: Sketch | None) -> None:
        self._worker = None
        again, self._again = self._again, False
        if not self.on or self.session.closed:
            return
        guarded(self.session, lambda: self._show(sketch))
        if again or (sketch is not None and sketch.more):
            self.ask()
        elif not self.missing:
            self.drawn.emit()

    def _on_error(self, error: Exception) -> None:
        """A defect: it is said once, and the preview is off."""
        self._worker = None

        def fail() -> None:
            raise error

        if not self.session.closed:
            guarded(self.session, fail)
            self.switch(False)

    def _show(self, sketch: Sketch | None) -> None:
        self._answer = sketch or self._answer  # None: the last one still holds
        if self._answer is None or self._answer is self._on_screen:
            return
        sketch, request = self._answer, self._answer.request
        if request.scan != self.session.scan or request.project is not self.session.project:
            return
        if (request.axis, request.index) != self.workspace.slice_on_screen():
            return  # the view has gone on; the next answer is under way
        self._say(sketch.missing)
        if sketch.missing:
            self._clear()
        else:
            self._draw(sketch)

    def _draw(self, sketch: Sketch) -> None:
        scan, project = self.session.need_scan(), self.session.need_project()
        self._on_screen, axis = sketch, sketch.request.axis
        scale = scale_of(scan.geometry, axis)
        vectors, colors = vectors_of(sketch, scan.geometry, project.classes)
        layer = self.layer
        if layer is None:
            layer = preview_layer(scan.geometry, scan.id, scale)
            viewer = self.workspace.viewer
            layers.add(viewer, layer)
        if tuple(layer.scale) != scale:
            layer.data = np.empty((0, 2, 3))
            layer.scale = scale
        width = LINE_PIXELS / layers.camera_of(self.workspace.viewer).zoom / max(scale)
        layer.visible = True
        if abs(layer.edge_width - width) > width / 20:  # napari makes all of the layer anew
            layer.edge_width = width
        with layer.events.set_data.blocker():  # or the mesh is made twice, first in the old colours
            layer.data = vectors
        layer.edge_color = colors

    def _clear(self) -> None:
        """Show no outlines; while switched on the layer stays, for napari never lets go of all of one."""
        layer, self._on_screen = self.layer, None
        if layer is None:
            return
        if self.on:
            layer.visible = False
            layer.data = np.empty((0, 2, 3))
        else:
            layer.locked = False
            self.workspace.viewer.layers.remove(layer)

    def _say(self, missing: str) -> None:
        if missing != self.missing:
            self.missing = missing
            self.changed.emit()


# --- what napari draws ------------------------------------------------------------------------------


def scale_of(geometry: Geometry, axis: int) -> tuple[float, float, float]:
    """The layer's mm for slices along `axis`: alike in the slice, or lines of one width would look unequal.

    None is below the scan's own spacing, which the viewer would take for the step of its sliders.
    """
    z, y, x = (
        spacing if at == axis else max(geometry.spacing_mm) for at, spacing in enumerate(geometry.spacing_mm)
    )
    return z, y, x


def vectors_of(
    sketch: Sketch, geometry: Geometry, classes: Sequence[LabelClass]
) -> tuple[np.ndarray, np.ndarray]:
    """The outlines as vectors (N, 2, 3), start and direction in the layer's coordinates; colours (N, 4)."""
    axis, found = sketch.request.axis, sketch.outlines
    colors = {item.id: item.color for item in classes}
    count = [len(lines) for lines in found.values()]
    color = transform_color([colors.get(label, "white") for label in found] or ["white"])
    scale = scale_of(geometry, axis)
    vectors = np.zeros((sum(count), 2, 3), np.float32)
    vectors[:, 0, axis] = sketch.request.index
    if found:
        lines = np.concatenate(list(found.values()))
        for along, other in enumerate(each for each in range(3) if each != axis):
            lines[..., along] *= geometry.spacing_mm[other] / scale[other]
            vectors[:, 0, other] = lines[:, 0, along]
            vectors[:, 1, other] = lines[:, 1, along] - lines[:, 0, along]
    return vectors, np.repeat(color[: len(count)], count, axis=0)


def preview_layer(geometry: Geometry, scan: str, scale: tuple[float, float, float]) -> Vectors:
    """A layer for the outlines: to look at only, and deleted by switching the preview off."""
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
