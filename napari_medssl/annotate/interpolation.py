"""Labels interpolated between complete slices: a layer of outlines, which vanish where somebody paints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.labels.rasterize import voxels_of_slice
from medssl.core.labels.shape_interpolation import fill, gaps
from medssl.core.project.annotation import SURE_BACKGROUND, Annotation
from napari.layers import Labels
from napari.utils import DirectLabelColormap
from psygnal import Signal

from napari_medssl import layers, navigation
from napari_medssl.annotate.edits import Edits
from napari_medssl.class_colors import INTERPOLATED as INTERPOLATED_SHADE
from napari_medssl.class_colors import colormap
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.annotation_state import SliceIndex
from napari_medssl.workspace import Workspace

INTERPOLATED = "interpolated"


class Interpolation:
    """Makes, shows and accepts the interpolated labels, which `session.annotation` holds."""

    changed = Signal()

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self.annotation = self.session.annotation
        self._worker = LatestOnlyWorker(self.session)
        self._painted: list[np.ndarray] = []
        self.session.project_changed.connect(self._remove_layer)
        self.session.scan_changed.connect(self._show)
        self.session.classes_changed.connect(self._recolor)
        self.annotation.interpolated_changed.connect(self._show)
        self.annotation.stroke.connect(self._on_stroke)

    @property
    def layer(self) -> Labels | None:
        """The layer of outlines; None before anything was interpolated."""
        return layers.find(self.workspace.viewer.layers, INTERPOLATED)

    @property
    def available(self) -> bool:
        """Whether anything is interpolated in the scan on the screen."""
        return self.annotation.interpolated is not None

    @property
    def busy(self) -> bool:
        """Whether labels are being interpolated: a second or more for a large slice."""
        return self._worker.busy

    def possible(self, slice_index: SliceIndex | None) -> bool:
        """Whether a slice lies between two complete ones."""
        complete = Annotation(np.empty(0), self.annotation.complete)
        return slice_index is not None and bool(gaps(complete, *slice_index))

    def covers(self, slice_index: SliceIndex | None) -> bool:
        """Whether any structure is interpolated on a slice."""
        return slice_index is not None and len(self._unpainted(*slice_index)[0]) > 0

    def interpolate(self, guided: bool = True) -> None:
        """Interpolate between the complete slices around the one on the screen; in a thread.

        Args:
            guided: Let the grey values of the channel on the screen guide the outlines.

        Raises:
            UserError: "no-gap", "no-annotation", "not-2d", "read-only".
        """
        self.session.need_project().need_writable()
        layer, scan = self.workspace.need_annotation(), self.session.need_scan()
        axis, index = navigation.current_slice(self.workspace.viewer.dims, layer)
        if not self.possible((axis, index)):
            raise UserError(
                f"{AXIS_NAMES[axis].capitalize()} slice {index} does not lie between two complete slices; "
                "complete one on either side of it.",
                code="no-gap",
            )
        now = self.annotation.current()
        copy = replace(now, labels=now.labels.copy())
        self._painted = []
        spacing, shown = scan.geometry.spacing_mm, self.workspace.front_layer
        grey = shown.data if guided and shown is not None else None
        if grey is not None and grey.shape != copy.labels.shape:
            grey = None
        self._worker.submit(
            lambda: iter([fill(copy, axis, index, spacing, grey)]),
            lambda labels: self._take(scan.id, labels),
            self.changed.emit,
        )
        self.changed.emit()

    def remove(self) -> None:
        """Remove all interpolated labels of the scan.

        Raises:
            UserError: Another window has the project ("read-only").
        """
        self.session.need_project().need_writable()
        self.workspace.undo.set_interpolated(None)

    def accept(self, axis: int, index: int) -> bool:
        """Turn a slice's interpolated labels into strokes and mark it complete, as one step.

        Returns:
            False where nothing is interpolated on the slice.
        """
        voxels, labels = self._unpainted(axis, index)
        if len(voxels) == 0:
            return False
        self.edits.apply(voxels, labels, {*self.annotation.complete, (axis, index)})
        return True

    def _take(self, scan: str, labels: np.ndarray) -> None:
        if scan != self.session.scan:
            return
        for voxels in self._painted:  # since the thread began
            labels.reshape(-1)[voxels] = 0
        self.workspace.undo.set_interpolated(labels)

    def _on_stroke(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        if self._worker.busy:
            self._painted.append(voxels)

    def _unpainted(self, axis: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices of a slice's interpolated structures that nobody has painted on, and their labels."""
        interpolated, painted = self.annotation.interpolated, self.annotation.labels
        if interpolated is None or painted is None:
            return np.empty(0, np.int64), np.empty(0, np.uint8)
        labels = interpolated.take(index, axis)
        unpainted = (labels != 0) & (labels != SURE_BACKGROUND) & (painted.take(index, axis) == 0)
        return voxels_of_slice(unpainted, axis, index, interpolated.shape), labels[unpainted]

    # --- the layer -----------------------------------------------------------------------------------

    def _show(self) -> None:
        labels, layer, viewer = self.annotation.interpolated, self.layer, self.workspace.viewer
        if layer is not None and (labels is None or layer.data.shape != labels.shape):
            self._remove_layer()
            layer = None
        if labels is not None:
            if layer is None:
                layers.add(viewer, self._new_layer(labels))
            elif layer.data is labels:
                layer.refresh()
            else:
                layer.data = labels
        self.changed.emit()

    def _new_layer(self, labels: np.ndarray) -> Labels:
        scan = self.session.need_scan()
        layer = Labels(
            labels,
            name="interpolated",
            metadata=layers.metadata(INTERPOLATED, scan.geometry, scan=scan.id),
            opacity=0.9,
            colormap=self._colors(),
            **layers.placement(scan.geometry),
        )
        layer.contour = 1
        layer.editable = False
        layer.locked = True
        return layer

    def _colors(self) -> DirectLabelColormap:
        return colormap(self.session.need_project().classes, INTERPOLATED_SHADE)

    def _recolor(self) -> None:
        if self.layer is not None and self.session.project is not None:
            self.layer.colormap = self._colors()

    def _remove_layer(self) -> None:
        layers.remove(self.workspace.viewer, self.layer)
