"""Strokes of a brush on a slice along any axis."""

from __future__ import annotations

import numpy as np
from medssl.core.labels.rasterize import stroke_mask, voxels_of_slice
from napari.layers import Labels

ERASE, PAINTING = "erase", ("paint", "erase")
"""Modes of a labels layer."""


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
        spacing = [float(self.layer.scale[axis]) for axis in self._axes]
        ends = np.round(np.stack([start_mm, end_mm])[:, self._axes] / spacing)
        self.covered |= stroke_mask(ends, radius_mm, spacing, self.covered.shape)

    def edit(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices into the annotation, (N,), and the labels that they get, uint8 (N,)."""
        flat = voxels_of_slice(self.covered, self._axis, self._index, self.layer.data.shape)
        if self.layer.preserve_labels:
            replaced = 0 if self.label else self.layer.selected_label
            flat = flat[self.layer.data.reshape(-1)[flat] == replaced]
        return flat, np.full(len(flat), self.label, np.uint8)
