"""Surfaces of the classes in 3D, and as STL files: computed in a thread from what an export would write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from medssl.core.errors import UserError
from medssl.core.export.files import segmentation_of
from medssl.core.export.stl import export_surfaces
from medssl.core.export.surface import Surface, surfaces_of
from medssl.core.io.geometry import Geometry
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.palette import class_color
from medssl.core.project.project import Scan
from napari.layers import Layer
from napari.layers import Surface as SurfaceLayer
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal

from napari_medssl import layers, navigation
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace

T = TypeVar("T")
SURFACE = "surface"
LIGHT = np.array([0.3, -0.75, 0.59])
"""Direction to the light in LPS coordinates, of length one."""
DARKEST = 0.15
FROM_THE_FRONT, HEAD_UP = (0, -1, 0), (1, 0, 0)
"""Directions along z, y, x."""


class Surfaces:
    """Shows surfaces instead of slices until the viewer is switched back to 2D."""

    changed = Signal()
    """The surfaces are being computed, on the screen, or gone."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session, self.viewer = workspace, workspace.session, workspace.viewer
        self.busy = False
        """Whether surfaces are being computed."""
        self._worker = LatestOnlyWorker(self.session)
        self._hidden: list[Layer] = []
        self._left: tuple[int, int] | None = None
        self.session.scan_leaving.connect(self.hide)
        self.viewer.dims.events.ndisplay.connect(self._on_ndisplay)

    @property
    def layers(self) -> list[SurfaceLayer]:
        """The surfaces on the screen."""
        return [layer for layer in self.viewer.layers if layers.entry_of(layer).get("role") == SURFACE]

    def show(self) -> None:
        """Compute and show the surface of each class, with its volume as its name.

        Raises:
            UserError: "no-scan", "disk-full", "not-writable".
        """
        project, (scan_id, run, postprocessing) = self.session.need_project(), self._source()
        geometry = project.scans[scan_id].geometry

        def compute() -> Iterator[tuple[Surface, np.ndarray]]:
            labels, _, _ = segmentation_of(project, scan_id, run, postprocessing)
            need_labels(project.scans[scan_id], labels.any())
            for surface in surfaces_of(labels, geometry):
                yield surface, brightness(surface, geometry)

        self.hide()
        self._submit(compute, self._add)

    def save(self, folder: Path) -> None:
        """Write the surfaces as STL files into a folder.

        Raises:
            UserError: "no-scan", "disk-full", "not-writable".
        """
        project, (scan_id, run, postprocessing) = self.session.need_project(), self._source()

        def write() -> Iterator[list[Path]]:
            written = export_surfaces(project, scan_id, run, folder, postprocessing)
            need_labels(project.scans[scan_id], written)
            yield written

        def tell(written: list[Path]) -> None:
            number = "1 surface" if len(written) == 1 else f"{len(written)} surfaces"
            self.session.notify("info", f"Saved {number} to {folder}, in mm, in LPS coordinates.")

        self._submit(write, tell)

    def hide(self) -> None:
        """Remove the surfaces and show the slices again."""
        self._worker.stop()
        self.busy = False
        for layer in self.layers:
            layers.remove(self.viewer, layer)
        for layer in self._hidden:
            layer.visible = True
        position, self._hidden, self._left = self._left, [], None
        if position is not None:
            self.workspace.go_to(*position)
        self.changed.emit()

    def close(self) -> None:
        """Disconnect from the viewer."""
        self.hide()
        self.viewer.dims.events.ndisplay.disconnect(self._on_ndisplay)

    def _submit(self, compute: Callable[[], Iterator[T]], on_result: Callable[[T], object]) -> None:
        def finished() -> None:
            self.busy = False
            self.changed.emit()

        self.busy = True
        self._worker.submit(compute, on_result, finished)
        self.changed.emit()

    def _source(self) -> tuple[str, str | None, Postprocessing]:
        """Scan, run on the screen and its post-processing, with all strokes saved."""
        scan = self.session.need_scan()
        self.workspace.autosave.flush()
        predictions = self.workspace.predictions
        return scan.id, predictions.shown_run or None, predictions.postprocessing

    def _add(self, result: tuple[Surface, np.ndarray]) -> None:
        surface, shade = result
        if not self.layers:
            self._enter_3d()
        scan = self.session.need_scan()
        classes = {item.id: item for item in self.session.need_project().classes}
        item = classes.get(surface.class_id)
        name = item.name if item else f"Class {surface.class_id}"
        color = transform_color(item.color if item else class_color(surface.class_id))
        layer = SurfaceLayer(
            (surface.vertices, surface.faces),
            name=f"{name}, {surface.ml:.0f} ml" if surface.ml >= 100 else f"{name}, {surface.ml:.2g} ml",
            metadata=layers.metadata(SURFACE, scan.geometry, scan=scan.id),
            vertex_colors=color * np.column_stack([shade, shade, shade, np.ones_like(shade)]),
            shading="none",
            **layers.placement(scan.geometry),
        )
        layer.locked = True
        layers.add(self.viewer, layer)

    def _enter_3d(self) -> None:
        """Hide what would cover the surfaces, and look at the patient from the front."""
        self._left = self.workspace.slice_on_screen()
        self._hidden = [layer for layer in self.viewer.layers if layer.visible]
        for layer in self._hidden:
            layer.visible = False
        dims = self.viewer.dims
        dims.order = tuple(range(dims.ndim))
        with dims.events.ndisplay.blocker(self._on_ndisplay):
            dims.ndisplay = 3
        self.viewer.reset_view()
        navigation.camera_of(self.viewer).set_view_direction(FROM_THE_FRONT, HEAD_UP)

    def _on_ndisplay(self, event: object = None) -> None:
        if self.viewer.dims.ndisplay == 2 and self.layers:
            self.hide()


def need_labels(scan: Scan, any_labels: object) -> None:
    """Raise UserError ("nothing-yet") where nothing is segmented."""
    if not any_labels:
        raise UserError(
            f"Nothing is segmented in {scan.title}; annotate (step 2) or predict it first.",
            code="nothing-yet",
        )


def brightness(surface: Surface, geometry: Geometry) -> np.ndarray:
    """Brightness of the vertices in a light from the front and above, float (N,).

    napari's own shading has its light behind the surface where its axes point as in radiology.
    """
    vertices, faces = surface.patient_mm(geometry), surface.faces
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    ends, count = faces.ravel(), len(vertices)
    normals = np.stack([np.bincount(ends, np.repeat(along, 3), count) for along in across.T], axis=1)
    facing = normals @ LIGHT / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    return DARKEST + (1 - DARKEST) * (facing + 1) / 2
