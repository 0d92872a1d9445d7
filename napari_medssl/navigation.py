"""Which slice the viewer shows, in any of the three orientations, and where the camera looks from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from napari.components import Camera, Dims, ViewerModel
from napari.layers import Layer

RADIOLOGICAL_ORIENTATION = ("away", "up", "left")


def camera_of(viewer: ViewerModel) -> Camera:
    """The viewer's camera; napari 0.9 moved it from the viewer to its scene."""
    return getattr(viewer, "scene", viewer).camera


def grid_of(viewer: ViewerModel) -> Any:
    """The viewer's grid of layers; napari 0.9 moved it from the viewer to its canvas."""
    return getattr(viewer, "canvas", viewer).grid


def scale_bar_of(viewer: ViewerModel) -> Any:
    """The viewer's scale bar, in mm as its layers are; napari 0.9 moved it from the viewer to its canvas."""
    canvas = getattr(viewer, "canvas", None)
    return viewer.scale_bar if canvas is None else canvas.overlays.scale_bar


def show_radiologically(viewer: ViewerModel) -> None:
    """Orient the camera radiologically: anterior (or superior) up, the patient's right on the left."""
    camera_of(viewer).orientation = RADIOLOGICAL_ORIENTATION


def current_slice(dims: Dims, layer: Layer) -> tuple[int, int]:
    """The slice on the screen, in any of the three orientations.

    Returns:
        (canonical axis, voxel index).

    Raises:
        UserError: The viewer shows 3D ("not-2d"), or the slice is outside of the layer ("outside").
    """
    if dims.ndisplay != 2:
        raise UserError("Slices are marked in the 2D view; press Ctrl+Y to switch to it.", code="not-2d")
    extra = dims.ndim - layer.ndim
    axis = next(axis - extra for axis in dims.not_displayed if axis >= extra)
    index = round(layer.world_to_data(dims.point)[axis])
    if not 0 <= index < layer.data.shape[axis]:
        raise UserError("This slice is outside of the scan; move the slider back into it.", code="outside")
    return int(axis), int(index)


def slice_on_screen(dims: Dims, layer: Layer | None) -> tuple[int, int] | None:
    """The same as `current_slice`; None without a layer, in 3D, or outside of the layer."""
    try:
        return current_slice(dims, layer) if layer is not None else None
    except UserError:
        return None


def show_slice(dims: Dims, layer: Layer, axis: int, index: int) -> None:
    """Show a slice (canonical axis, voxel index) of a layer."""
    extra = dims.ndim - layer.ndim
    rest = [other for other in range(layer.ndim) if other != axis]
    dims.ndisplay = 2
    dims.order = (*range(extra), axis + extra, *(other + extra for other in rest))
    dims.set_point(axis + extra, index * layer.scale[axis] + layer.translate[axis])


def voxel_at(layer: Layer, position: Sequence[float]) -> tuple[int, int, int] | None:
    """The voxel (z, y, x) at a world position in mm; None outside of the layer."""
    voxel = np.round(layer.world_to_data(position)).astype(int)
    if np.any(voxel < 0) or np.any(voxel >= layer.data.shape):
        return None
    z, y, x = (int(value) for value in voxel)
    return z, y, x


def cross_hair(viewer: ViewerModel) -> np.ndarray:
    """The point in mm, along z, y, x, in which the three planes meet, float (3,): where the sliders stand."""
    return np.asarray(viewer.dims.point[-3:], dtype=float)


def move_cross_hair(viewer: ViewerModel, layer: Layer, point_mm: Sequence[float] | np.ndarray) -> None:
    """Move the cross-hair to the middle of the layer's voxel that is nearest to a point.

    Args:
        viewer: The viewer.
        layer: The layer of the scan.
        point_mm: The point along z, y, x, (3,).
    """
    scale, start = np.asarray(layer.scale), np.asarray(layer.translate)
    voxel = np.round((np.asarray(point_mm) - start) / scale)
    voxel = np.clip(voxel, 0, np.array(layer.data.shape) - 1)
    axes = range(viewer.dims.ndim - 3, viewer.dims.ndim)
    viewer.dims.set_point(list(axes), [float(value) for value in start + voxel * scale])
