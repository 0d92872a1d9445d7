"""Strokes of a brush on a slice along any axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from napari.layers import Labels

ERASE, PAINTING = "erase", ("paint", "erase")
"""Modes of a labels layer."""
Pair = Sequence[float] | np.ndarray


def brush_stroke(
    shape: Sequence[int], spacing_mm: Pair, start: Pair, end: Pair, radius_mm: float
) -> np.ndarray:
    """Pixels that are no further than a radius from a line, and those on it.

    Args:
        shape: Shape of the slice.
        spacing_mm: Size of a pixel along both axes, (2,).
        start: Pixel in which the line begins, (2,).
        end: Pixel in which it ends, (2,).
        radius_mm: Radius of the brush.

    Returns:
        bool, of that shape.
    """
    covered = np.zeros(tuple(shape), bool)
    spacing, first, last = np.asarray(spacing_mm), np.asarray(start, int), np.asarray(end, int)
    reach = np.ceil(radius_mm / spacing).astype(int)
    low = np.maximum(np.minimum(first, last) - reach, 0)
    high = np.minimum(np.maximum(first, last) + reach + 1, covered.shape)
    if (low >= high).any():
        return covered
    box = tuple(slice(*span) for span in zip(low, high, strict=True))
    away = (np.moveaxis(np.indices(high - low), 0, -1) + low - first) * spacing
    line = (last - first) * spacing
    along = np.clip(away @ line / max(float(line @ line), 1e-12), 0, 1)
    covered[box] = np.linalg.norm(away - along[..., None] * line, axis=-1) <= radius_mm
    points = np.round(np.linspace(first, last, int(np.abs(last - first).max()) + 1)).astype(int)
    inside = points[((points >= 0) & (points < covered.shape)).all(1)]
    covered[tuple(inside.T)] = True  # a brush that is smaller than a pixel, too
    return covered


class SliceStroke:
    """What the brush has covered on a slice of the annotation since the button went down."""

    def __init__(self, layer: Labels, axis: int, index: int) -> None:
        """Begin a stroke.

        Args:
            layer: The annotation, whose tool is used.
            axis: Canonical axis across the slice.
            index: Number of the slice.
        """
        self.layer, self._axis, self._index = layer, axis, index
        self._axes = [other for other in range(3) if other != axis]
        self.label = 0 if layer.mode == ERASE else int(layer.selected_label)
        self.covered = np.zeros([layer.data.shape[other] for other in self._axes], bool)

    def extend(self, start_mm: np.ndarray, end_mm: np.ndarray, radius_mm: float) -> None:
        """Go on from one point to another.

        Args:
            start_mm: Where the brush was, along z, y, x, (3,).
            end_mm: Where it is, (3,).
            radius_mm: Radius of the brush.
        """
        spacing = np.asarray(self.layer.scale)[self._axes]
        start, end = (np.round(point[self._axes] / spacing) for point in (start_mm, end_mm))
        self.covered |= brush_stroke(self.covered.shape, spacing, start, end, radius_mm)

    def edit(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices into the annotation, (N,), and the labels that they get, uint8 (N,)."""
        voxels: list[np.ndarray] = [*np.nonzero(self.covered)]
        voxels.insert(self._axis, np.full(len(voxels[0]), self._index))
        flat = np.ravel_multi_index(tuple(voxels), self.layer.data.shape)
        if self.layer.preserve_labels:
            replaced = 0 if self.label else self.layer.selected_label
            flat = flat[self.layer.data.reshape(-1)[flat] == replaced]
        return flat, np.full(len(flat), self.label, np.uint8)
