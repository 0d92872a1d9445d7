"""Places of the scan on the screen that were clicked or found, as a Points layer with a word beside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from medssl.core.project.project import Scan
from napari.layers import Points

from napari_medssl import layers
from napari_medssl.workspace import Workspace

MATCHES, LANDMARKS = "matches", "landmarks"
"""Roles of the layers, and what they are called."""
ANCHORS = {MATCHES: "lower_left", LANDMARKS: "upper_left"}
"""Where words stand: a match and a landmark may be the same place."""
PIXELS = 15
"""Size on the screen, however far one zooms in."""
BORDER = 0.06
"""Of the size."""
LOOKS = {
    "like": ("cross", "#45c7a8", "#45c7a8"),
    "unlike": ("x", "#ff6f61", "#ff6f61"),
    "match": ("disc", "transparent", "#ffffff"),
    "set": ("diamond", "#ffd166", "#ffd166"),
    "found": ("diamond", "transparent", "#ffd166"),
}
"""Symbol, inside and border of each kind of place."""


@dataclass(frozen=True)
class Mark:
    """A place to draw; kind: a key of LOOKS."""

    voxel_zyx: tuple[int, int, int]
    kind: str
    text: str = ""


def show_marks(workspace: Workspace, role: str, marks: Sequence[Mark]) -> None:
    """Draw these places and no others in the layer of that role, which is made where it is first needed."""
    viewer, scan = workspace.viewer, workspace.session.need_scan()
    layer = layers.find(viewer.layers, role)
    if layer is None:
        if not marks:
            return
        layer = _layer(role, scan)
        layers.add(viewer, layer)
    layer.visible = bool(marks)
    layer.scale = scan.geometry.spacing_mm
    layer.metadata = layers.metadata(role, scan.geometry, scan=scan.id)
    layer.data = np.array([each.voxel_zyx for each in marks], float).reshape(-1, 3)
    layer.features = {"text": [each.text for each in marks]}
    if not marks:
        return
    looks = [LOOKS[each.kind] for each in marks]
    layer.symbol = [symbol for symbol, _, _ in looks]
    layer.face_color = [inside for _, inside, _ in looks]
    layer.border_color = [border for _, _, border in looks]
    layer.border_width = BORDER  # napari gives points that come later its own width
    # Of this size now, so that borders, which napari clamps to nothing, are as thin as they should be.
    layer.size = PIXELS / layers.camera_of(viewer).zoom / max(scan.geometry.spacing_mm)
    layer.refresh()


def hide_marks(workspace: Workspace, role: str) -> None:
    """Show none of that role; the layer stays, for napari never lets go of all of one."""
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
        canvas_size_limits=(PIXELS, PIXELS),
        border_width=BORDER,
        **layers.placement(scan.geometry),
    )
    layer.editable = False
    layer.locked = True
    return layer
