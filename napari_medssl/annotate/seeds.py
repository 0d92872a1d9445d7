"""Fills the slice on the screen from the strokes in it."""

from __future__ import annotations

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.labels.grow import grow
from medssl.core.labels.rasterize import voxels_of_slice
from medssl.core.project.annotation import SURE_BACKGROUND

from napari_medssl import navigation
from napari_medssl.annotate.edits import Edits
from napari_medssl.workspace import Workspace


def grow_from_seeds(workspace: Workspace, edits: Edits) -> None:
    """Grow the classes that are painted in the slice on the screen, as one step of undo.

    What grows of sure background is not painted: it bounds the classes.

    Args:
        workspace: The layers of the viewer.
        edits: Applies the labels.

    Raises:
        UserError: "few-seeds", "no-scan", "no-annotation", "not-2d", "outside", "read-only".
    """
    layer, scan = workspace.need_annotation(), workspace.front_layer
    if scan is None:
        raise UserError("The layer of the scan is closed; open the scan in step 1 again.", code="no-scan")
    axis, index = navigation.current_slice(workspace.viewer.dims, layer)
    seeds = np.asarray(layer.data).take(index, axis)
    grown = grow(np.asarray(scan.data.take(index, axis)), seeds)
    filled = (seeds == 0) & (grown != 0) & (grown != SURE_BACKGROUND)
    name = f"{AXIS_NAMES[axis]} slice {index}"
    if not filled.any():
        text = f"Nothing is left to fill in {name}; paint sure background (Q) around a class to bound it."
        workspace.session.notify("warning", text)
        return
    voxels = voxels_of_slice(filled, axis, index, layer.data.shape)
    edits.apply(voxels, grown[filled])
    workspace.session.notify(
        "info",
        f"Filled {len(voxels)} pixels of {name} from its seeds; correct them and mark the slice complete "
        "(K), or undo (Ctrl+Z).",
    )
