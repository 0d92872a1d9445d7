"""Annotation from napari's Points and Shapes layers: discs, outlines and lines become labels of a class."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.units import mm_per_unit
from medssl.core.labels.rasterize import polygon_mask, slice_of, stroke_mask, voxels_of_slice
from napari.layers import Labels, Layer, Points, Shapes

from napari_medssl import layers
from napari_medssl.annotate.edits import Edits
from napari_medssl.layer_units import affine_mm, assumption, attributes_of
from napari_medssl.workspace import Workspace

CIRCLE_VERTICES = 64
FILLED = ("polygon", "rectangle", "ellipse")


@dataclass
class _Canvas:
    """Collects the voxels of drawn shapes on the grid of the annotation."""

    layer: Labels
    axis: int
    radius_mm: float
    voxels: list[np.ndarray] = field(default_factory=list)

    def draw(self, vertices: np.ndarray, slice_index: tuple[int, int], filled: bool) -> None:
        """Add the voxels of a shape (N, 3), in voxels, that lies on a slice; none outside of the scan."""
        axis, index = slice_index
        shape = self.layer.data.shape
        if not 0 <= index < shape[axis]:
            return
        others = [other for other in range(3) if other != axis]
        plane, pixels = [shape[other] for other in others], vertices[:, others]
        spacing = [float(self.layer.scale[other]) for other in others]
        mask = polygon_mask(pixels, plane) if filled else stroke_mask(pixels, self.radius_mm, spacing, plane)
        self.voxels.append(voxels_of_slice(mask, axis, index, shape))


class DrawnLayers:
    """Turns what is drawn in Points and Shapes layers into strokes."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self.edits = workspace, workspace.session, edits

    def available(self) -> list[Layer]:
        """The open layers of points and shapes that are not the plugin's own."""
        stack = self.workspace.viewer.layers
        return [layer for layer in stack if isinstance(layer, Points | Shapes) and not layers.entry_of(layer)]

    def take(self, layer: Points | Shapes, label: int) -> None:
        """Label what is drawn in a layer, as one step of undo; voxels that are annotated keep their labels.

        Points become discs and lines strokes of the brush's width, on slices of the orientation that is
        shown; polygons, rectangles and ellipses are filled.

        Args:
            layer: The layer, in any three-dimensional position.
            label: Class id, or sure background (255).

        Raises:
            UserError: "not-3d", "other-units", "crosses-slices", "empty-layer", "beside-scan",
                "no-annotation", "read-only".
        """
        _check(layer)
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        voxels = self._voxels(layer)
        if len(voxels) == 0:
            raise UserError(
                f"Everything in the layer {layer.name!r} lies outside of the scan; move it onto the scan.",
                code="beside-scan",
            )
        annotation = self.workspace.need_annotation()
        free = voxels[np.asarray(annotation.data).reshape(-1)[voxels] == 0]
        self.edits.apply(free, np.full(len(free), label, np.uint8))
        if len(free) == 0:
            text = f"Everything in the layer {layer.name!r} lies on voxels that have labels, which stay."
            self.session.notify("warning", text)
            return
        text = f"Labelled {len(free)} voxels from the layer {layer.name!r}; Ctrl+Z removes them again."
        self.session.notify("info", text)
        if note := assumption(attributes_of(layer)):
            self.session.notify("warning", note, [layer.unique_id])

    def _voxels(self, layer: Points | Shapes) -> np.ndarray:
        """Flat indices of the voxels of all that is drawn, each once."""
        annotation = self.workspace.need_annotation()
        position = self.workspace.slice_on_screen()
        canvas = _Canvas(annotation, position[0] if position else 0, self.workspace.brush_size.radius_mm)
        to_voxels = np.linalg.inv(affine_mm(attributes_of(annotation))) @ affine_mm(attributes_of(layer))
        for number, (kind, drawn) in enumerate(_shapes(layer), 1):
            vertices = drawn @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            if len(vertices) == 1:
                slice_index = canvas.axis, round(float(vertices[0, canvas.axis]))
            else:
                found = slice_of(vertices, canvas.axis)
                if found is None:
                    raise UserError(
                        f"Shape {number} of the layer {layer.name!r} crosses several slices; draw each shape "
                        "on one slice.",
                        code="crosses-slices",
                    )
                slice_index = found
            canvas.draw(vertices, slice_index, kind in FILLED)
        return np.unique(np.concatenate(canvas.voxels)) if canvas.voxels else np.empty(0, np.int64)


def _check(layer: Points | Shapes) -> None:
    if layer.ndim != 3:
        raise UserError(
            f"The layer {layer.name!r} has {layer.ndim} dimensions; draw in a layer with three, which napari "
            "creates while a scan is open.",
            code="not-3d",
        )
    other = next((str(u) for u in layer.units if str(u) != "pixel" and mm_per_unit(str(u)) is None), None)
    if other is not None:
        raise UserError(
            f"The unit of the layer {layer.name!r} is {other!r}, which is no length; set its units to mm.",
            code="other-units",
        )
    if len(layer.data) == 0:
        raise UserError(f"The layer {layer.name!r} is empty; draw something first.", code="empty-layer")


def _shapes(layer: Points | Shapes) -> list[tuple[str, np.ndarray]]:
    """Kind and vertices (N, 3) of all that is drawn, in the layer's own coordinates."""
    if isinstance(layer, Points):
        return [("point", point[None]) for point in np.asarray(layer.data, float)[layer.shown]]
    return [
        (kind, _ellipse(vertices) if kind == "ellipse" else np.asarray(vertices, float))
        for kind, vertices in zip(layer.shape_type, layer.data, strict=True)
    ]


def _ellipse(corners: np.ndarray) -> np.ndarray:
    """Polygon (N, 3) of the ellipse in a box of four corners (4, 3)."""
    angle = np.linspace(0, 2 * np.pi, CIRCLE_VERTICES, endpoint=False)[:, None]
    centre, across, down = (
        corners.mean(0), (corners[1] - corners[0]) / 2, (corners[2] - corners[1]) / 2
    )  # fmt: skip
    return centre + np.cos(angle) * across + np.sin(angle) * down
