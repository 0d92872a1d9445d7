"""Keeps napari's sliders on the slices of the scan: its numbers are then those of the dock, from 0.

napari's sliders cover all layers, hidden ones as well, in steps of the finest. A second scan in the viewer
would change the number of each slice, and rounding hides the last slice of some spacings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer

from napari_medssl import layers


class SliceSlider:
    """Sets the range of the sliders, again whenever napari or a layer changes it."""

    def __init__(self, viewer: ViewerModel, scan_layer: Callable[[], Image | None]) -> None:
        self.viewer, self._scan_layer = viewer, scan_layer
        viewer.dims.events.range.connect(self.align)
        viewer.layers.events.inserted.connect(self._on_inserted)
        for layer in viewer.layers:
            layer.events.visible.connect(self.align)

    def close(self) -> None:
        """Disconnect from the viewer."""
        self.viewer.dims.events.range.disconnect(self.align)
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        for layer in self.viewer.layers:
            layer.events.visible.disconnect(self.align)

    def align(self, event: object = None) -> None:
        """One step for each slice of the scan, unless a visible layer of the user reaches beyond the scan."""
        scan, dims = self._scan_layer(), self.viewer.dims
        if scan is None or dims.ndim < scan.ndim:
            return
        extra = dims.ndim - scan.ndim
        if dims.units is not None and tuple(dims.units[extra:]) != tuple(scan.units):
            return
        world = self.viewer.layers.extent
        ranges = list(zip(*world.world, world.step, strict=True))
        if not any(self._reaches_beyond(layer, scan) for layer in self.viewer.layers):
            ranges[extra:] = [
                _slices(*of) for of in zip(scan.data.shape, scan.scale, scan.translate, strict=True)
            ]
        dims.range = tuple(ranges)

    def _reaches_beyond(self, layer: Layer, scan: Image) -> bool:
        own = layers.entry_of(layer).get("scan") == layers.entry_of(scan)["scan"]
        if own or not layer.visible or layer.ndim != scan.ndim:
            return False
        (low, high), (first, last) = layer.extent.world, scan.extent.world
        half = np.asarray(scan.scale) / 2
        return bool(np.any(low < first - half) or np.any(high > last + half))

    def _on_inserted(self, event: Any) -> None:
        event.value.events.visible.connect(self.align)


def _slices(number: int, spacing: float, start: float) -> tuple[float, float, float]:
    """First position, last position and step in mm; napari rounds the number of steps between them down."""
    last = start + (number - 1) * spacing
    while int((last - start) / spacing) < number - 1:
        last = math.nextafter(last, math.inf)
    return float(start), float(last), float(spacing)
