"""Label files as napari layers, and back: names and colours that the file has stay with the layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.io.geometry import Geometry
from medssl.core.io.label_grid import on_grid
from medssl.core.io.labels import LabelVolume, checked_labels
from napari.layers import Labels
from napari.utils import DirectLabelColormap

from napari_medssl import layers

WITHOUT_COLOR = "#8f9aa8"
LabelsData = tuple[np.ndarray, dict[str, Any], str]


def layer_data(volume: LabelVolume, name: str) -> LabelsData:
    """Layer-data tuple of a label file: its names are shown in the status bar, its colours in the canvas.

    Args:
        volume: The labels.
        name: Name of the layer.
    """
    labels = volume.array if volume.array.dtype == np.uint8 else volume.array.astype(np.int64, copy=False)
    if labels.dtype == np.int64 and labels.max() <= np.iinfo(np.int32).max:
        labels = labels.astype(np.int32)
    data, kwargs, kind = layers.labels_data(labels, volume.geometry, name, volume.path)
    entry = kwargs["metadata"][layers.KEY]
    entry["is_segmentation"] = volume.is_segmentation
    for key, texts in (("names", volume.names), ("colors", volume.colors)):
        entry[key] = {str(value): text for value, text in texts.items()}
    if volume.names:
        values = sorted({0, *volume.names})
        titles = ["background" if value == 0 else volume.names[value] for value in values]
        kwargs["features"] = {"index": values, "name": titles}
    if volume.colors:
        colors: dict[int | None, Any] = {None: WITHOUT_COLOR, 0: (0, 0, 0, 0)}
        kwargs["colormap"] = DirectLabelColormap(color_dict=colors | volume.colors)
    return data, kwargs, kind


def label_volume(layer: Labels, scan: Geometry) -> LabelVolume:
    """The labels of a layer that was read from a file, on the grid of a scan.

    Args:
        layer: The layer.
        scan: Grid of the scan.

    Raises:
        UserError: "other-grid", "not-labels".
    """
    entry = layers.entry_of(layer)
    labels, notes = checked_labels(layer.name, np.array(layer.data))
    geometry = Geometry.from_json(entry["geometry"]) if entry.get("geometry") else scan
    placed, more = on_grid(layer.name, labels, geometry, scan, bool(entry.get("is_segmentation")))
    names, colors = (
        {int(value): text for value, text in entry.get(key, {}).items()} for key in ("names", "colors")
    )
    path = layers.file_of(layer) or Path(layer.name)
    return LabelVolume(placed, scan, path, names, colors, (*notes, *more))
