"""A slice of a layer as a Qt image, along any axis, whatever the viewer's own canvas shows."""

from __future__ import annotations

import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QRectF
from qtpy.QtGui import QImage, qRgba

LEVELS = 256


class SliceImages:
    """Slices of layers along one axis, made again only where the slice or the layer has changed."""

    def __init__(self) -> None:
        self._kept: dict[object, tuple[int, int, QImage]] = {}
        """By layer: axis, index and image."""

    def forget(self, layer: Layer) -> None:
        """The layer looks different now."""
        self._kept.pop(layer.unique_id, None)

    def get(self, layer: Layer, axis: int, point_mm: np.ndarray) -> tuple[QImage, QRectF] | None:
        """The slice of a layer through a point.

        Args:
            layer: An image or labels layer; of others, and of those that are no volumes, there is no slice.
            axis: Canonical axis across the slice.
            point_mm: The point along z, y, x, float (3,).

        Returns:
            The image, and the rectangle that it fills in mm: the first of the other two axes downwards, the
            second to the right. None outside of the layer.
        """
        if not _is_volume(layer):
            return None
        scale, start = np.asarray(layer.scale), np.asarray(layer.translate)
        index = round(float((point_mm[axis] - start[axis]) / scale[axis]))
        if not 0 <= index < layer.data.shape[axis]:
            return None
        known = self._kept.get(layer.unique_id)
        if known is None or known[:2] != (axis, index):
            known = self._kept[layer.unique_id] = (axis, index, _slice_image(layer, axis, index))
        down, right = (other for other in range(3) if other != axis)
        size = (float(layer.data.shape[right] * scale[right]), float(layer.data.shape[down] * scale[down]))
        corner = (float(start[right] - scale[right] / 2), float(start[down] - scale[down] / 2))
        return known[2], QRectF(*corner, *size)


def _is_volume(layer: Layer) -> bool:
    if not isinstance(layer, Image | Labels) or layer.ndim != 3 or layer.multiscale:
        return False
    return not (isinstance(layer, Image) and layer.rgb)


def _slice_image(layer: Image | Labels, axis: int, index: int) -> QImage:
    plane = np.asarray(layer.data[(slice(None),) * axis + (index,)])
    return _image(layer, plane) if isinstance(layer, Image) else _labels(layer, plane)


def indexed_image(levels: np.ndarray, colors: np.ndarray) -> QImage:
    """An image of numbered colours, which Qt looks up as it draws.

    Args:
        levels: uint8 (rows, columns).
        colors: RGBA of each level, float (up to 256, 4), from 0 to 1.
    """
    rows, columns = levels.shape
    image = QImage(levels.tobytes(), columns, rows, columns, QImage.Format.Format_Indexed8).copy()
    image.setColorTable([qRgba(*color) for color in _bytes(colors).tolist()])
    return image


def _image(layer: Image, plane: np.ndarray) -> QImage:
    low, high = (float(limit) for limit in layer.contrast_limits)
    colors = layer.colormap.map(np.linspace(0, 1, LEVELS) ** layer.gamma)
    with np.errstate(invalid="ignore"):
        level = (plane.astype(np.float32) - low) * ((LEVELS - 1) / max(high - low, 1e-12))
    return indexed_image(np.nan_to_num(level).clip(0, LEVELS - 1).astype(np.uint8), colors)


def _labels(layer: Labels, plane: np.ndarray) -> QImage:
    if layer.contour:
        plane = np.where(_outline(plane), plane, 0)
    if plane.dtype == np.uint8:
        return indexed_image(plane, layer.colormap.map(np.arange(LEVELS, dtype=np.uint8)))
    pixels, (rows, columns) = _bytes(layer.colormap.map(plane)), plane.shape
    return QImage(pixels.tobytes(), columns, rows, 4 * columns, QImage.Format.Format_RGBA8888).copy()


def _outline(plane: np.ndarray) -> np.ndarray:
    """Where a pixel differs from one beside it."""
    differs = np.zeros(plane.shape, bool)
    down, right = plane[1:] != plane[:-1], plane[:, 1:] != plane[:, :-1]
    for part, change in (
        (differs[1:], down),
        (differs[:-1], down),
        (differs[:, 1:], right),
        (differs[:, :-1], right),
    ):
        part |= change
    return differs


def _bytes(colors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((np.asarray(colors) * 255).round().astype(np.uint8))
