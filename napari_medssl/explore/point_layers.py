"""Points on the scan on the screen with a text beside each: clicks, best matches, landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from medssl.core.project.project import Scan
from napari.layers import Points

from napari_medssl import layers, navigation
from napari_medssl.workspace import Workspace

MATCHES, LANDMARKS = "matches", "landmarks"
"""Roles and names of the layers."""
ANCHORS = {MATCHES: "lower_left", LANDMARKS: "upper_left"}
"""Position of the text: a match and a landmark may be the same voxel."""
SIZE_PIXELS = 15
"""Size on the screen in pixels, at any zoom."""
BORDER_FRACTION = 0.06
"""Border width as a fraction of the size."""
STYLES = {
    "positive": ("cross", "#45c7a8", "#45c7a8"),
    "negative": ("x", "#ff6f61", "#ff6f61"),
    "match": ("disc", "transparent", "#ffffff"),
    "placed": ("diamond", "#ffd166", "#ffd166"),
    "propagated": ("diamond", "transparent", "#ffd166"),
}
"""Symbol, face colour and border colour by kind of point."""


@dataclass(frozen=True)
class PointMarker:
    """A point to draw; `kind` is a key of STYLES."""

    voxel_zyx: tuple[int, int, int]
    kind: str
    text: str = ""


def show_points(workspace: Workspace, role: str, markers: Sequence[PointMarker]) -> None:
    """Replace the points of a layer; the layer is created when it is first needed.

    Args:
        workspace: The viewer and its session.
        role: MATCHES or LANDMARKS.
        markers: The points to draw, in voxels (z, y, x).
    """
    viewer, scan = workspace.viewer, workspace.session.need_scan()
    layer = layers.find(viewer.layers, role)
    if layer is None:
        if not markers:
            return
        layer = _layer(role, scan)
        layers.add(viewer, layer)
    layer.visible = True  # napari does not slice a hidden layer, whose texts would be those of former points
    layer.scale = scan.geometry.spacing_mm
    layer.metadata = layers.metadata(role, scan.geometry, scan=scan.id)
    layer.data = np.array([marker.voxel_zyx for marker in markers], float).reshape(-1, 3)
    layer.features = {"text": [marker.text for marker in markers]}
    layer.visible = bool(markers)
    if not markers:
        return
    styles = [STYLES[marker.kind] for marker in markers]
    layer.symbol = [symbol for symbol, _, _ in styles]
    layer.face_color = [face for _, face, _ in styles]
    layer.border_color = [border for _, _, border in styles]
    layer.border_width = BORDER_FRACTION  # napari gives new points its default width
    # The size on the screen at this zoom: napari scales the borders by it.
    layer.size = SIZE_PIXELS / navigation.camera_of(viewer).zoom / max(scan.geometry.spacing_mm)
    layer.refresh()


def hide_points(workspace: Workspace, role: str) -> None:
    """Hide the points of a role. The layer stays: napari does not free all memory of a removed one."""
    layer = layers.find(workspace.viewer.layers, role)
    if layer is not None:
        layer.visible = False


def _layer(role: str, scan: Scan) -> Points:
    layer = Points(
        np.empty((0, 3)),
        name=role,
        ndim=3,
        metadata=layers.metadata(role, scan.geometry, scan=scan.id),
        features={"text": np.empty(0, object)},
        text={"string": "{text}", "color": "white", "size": 10, "anchor": ANCHORS[role]},
        canvas_size_limits=(SIZE_PIXELS, SIZE_PIXELS),
        border_width=BORDER_FRACTION,
        **layers.placement(scan.geometry),
    )
    layer.editable = False
    layer.locked = True
    return layer
