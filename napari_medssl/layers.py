"""Converts between napari layers and the engine's arrays and geometries; no other module does.

All layers of the plugin hold canonical (z, y, x) arrays whose indices increase towards superior, anterior and
right, with `scale` in mm and no rotation. What a layer cannot hold (source affine, path, id of the scan) is
in `layer.metadata["medssl"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry, size_text
from medssl.core.project.project import LabelClass
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_medssl import layer_units
from napari_medssl.class_colors import PREDICTED, colormap
from napari_medssl.contrast import usual_limits

KEY = "medssl"
SCAN, LABELS, ANNOTATION, PREDICTION, SIMILARITY = "scan", "labels", "annotation", "prediction", "similarity"
PREVIEW, CHANNEL = "preview", "channel"


# --- what a layer says about itself -----------------------------------------------------------------


def placement(geometry: Geometry) -> dict[str, Any]:
    """Layer arguments that place a canonical array of this geometry in mm."""
    return {"scale": geometry.spacing_mm, "axis_labels": ("z", "y", "x"), "units": ("mm",) * 3}


def coarse_placement(geometry: Geometry, step_vox: Sequence[int]) -> dict[str, Any]:
    """Layer arguments for a coarser grid.

    Args:
        geometry: Geometry of the scan.
        step_vox: Voxels per cell along z, y, x; the first cell begins at voxel 0.
    """
    spacing, step = np.asarray(geometry.spacing_mm), np.asarray(step_vox)
    scale, translate = spacing * step, spacing * (step - 1) / 2
    return {**placement(geometry), "scale": tuple(scale), "translate": tuple(translate)}


def metadata(
    role: str, geometry: Geometry, path: Path | str | None = None, scan: str | None = None
) -> dict[str, Any]:
    """The plugin's entry for `layer.metadata`, as plain JSON values.

    Args:
        role: What the layer shows, such as SCAN or ANNOTATION.
        geometry: Geometry of the source.
        path: File of the source.
        scan: Id of the scan in the project.
    """
    source = str(Path(path).absolute()) if path else ""
    return {KEY: {"role": role, "geometry": geometry.to_json(), "path": source, "scan": scan or ""}}


def entry_of(layer: Layer) -> dict[str, Any]:
    """The plugin's entry in the layer's metadata; empty for other layers."""
    entry = layer.metadata.get(KEY)
    return entry if isinstance(entry, dict) else {}


def find(layers: Iterable[Layer], role: str) -> Any:
    """The layer with this role, or None."""
    return next((layer for layer in layers if entry_of(layer).get("role") == role), None)


def canonical(data: Any, attributes: dict[str, Any]) -> tuple[np.ndarray, Geometry]:
    """A layer's data as a canonical array, and the geometry of its source.

    A layer of the plugin is canonical and has its source's geometry. Any other is taken in the usual memory
    order (slices towards superior, rows towards posterior, columns towards left), placed by its transforms in
    its units; pixels are taken as mm, see `layer_units.assumption`.

    Args:
        data: Array of the layer.
        attributes: Attributes of the layer, as napari passes them to writers.

    Returns:
        The array (Z, Y, X) and its geometry.

    Raises:
        UserError: The data are not 3D ("not-3d") or differ from their scan's shape ("wrong-shape").
    """
    array, name = np.asarray(data), attributes.get("name", "")
    entry = attributes.get("metadata", {}).get(KEY)
    if isinstance(entry, dict) and entry.get("geometry"):
        geometry = Geometry.from_json(entry["geometry"])
        if array.shape != tuple(geometry.shape_zyx):
            raise UserError(
                f"Layer {name!r} has {size_text(array.shape)} voxels, its scan has "
                f"{size_text(geometry.shape_zyx)}; use a layer that belongs to the scan.",
                code="wrong-shape",
            )
        return array, geometry
    if array.ndim != 3:
        raise UserError(f"Layer {name!r} has {array.ndim} dimensions; choose one with three.", code="not-3d")
    towards_ras = np.array([-1.0, -1.0, 1.0])
    affine = layer_units.affine_mm(attributes)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # from z, y, x to x, y, z
    affine[:3] *= towards_ras[:, None]
    source = array.transpose(2, 1, 0)
    try:
        geometry = Geometry.of(affine, source.shape)
    except UserError as error:
        sentence = f"Layer {name!r} has no valid voxel size or direction; set its scale."
        raise UserError(sentence, code=error.code) from error
    return geometry.to_canonical(source), geometry


def file_of(layer: Layer) -> Path | None:
    """The file that an image layer was read from; None for none."""
    path = entry_of(layer).get("path") or layer.source.path
    return Path(path) if path else None


def remember_file(layer: Layer, path: Path) -> None:
    """Store the path of its file in a layer of the plugin."""
    if entry_of(layer):
        layer.metadata = {**layer.metadata, KEY: {**entry_of(layer), "path": str(path.absolute())}}


# --- making layers ----------------------------------------------------------------------------------


def scan_data(
    array: np.ndarray,
    geometry: Geometry,
    name: str,
    path: Path | str | None = None,
    scan: str | None = None,
    sha256: str | None = None,
) -> tuple[np.ndarray, dict[str, Any], str]:
    """Layer-data tuple of a scan for napari.

    Args:
        array: The scan, (Z, Y, X).
        geometry: Geometry of the scan.
        name: Name of the layer.
        path: File of the scan, if any.
        scan: Id of the scan, if it belongs to a project.
        sha256: Fingerprint of the scan, if it was read from its file.
    """
    kwargs = {"name": name, "metadata": metadata(SCAN, geometry, path, scan), **placement(geometry)}
    kwargs["metadata"][KEY]["sha256"] = sha256 or ""
    style = {"colormap": "gray", "contrast_limits": usual_limits(array), "interpolation2d": "linear"}
    return (array, {**kwargs, **style}, "image")


def labels_data(
    labels: np.ndarray, geometry: Geometry, name: str, path: Path | str | None = None
) -> tuple[np.ndarray, dict[str, Any], str]:
    """Layer-data tuple of a label volume for napari.

    Args:
        labels: Labels, integer (Z, Y, X).
        geometry: Geometry of the volume.
        name: Name of the layer.
        path: File of the labels, if any.
    """
    return (
        labels,
        {"name": name, "metadata": metadata(LABELS, geometry, path), **placement(geometry)},
        "labels",
    )


def add(viewer: ViewerModel, layer: Layer, position: int | None = None) -> None:
    """Insert a layer without changing the selection, so that the active tool stays active.

    Args:
        viewer: The viewer.
        layer: The layer to insert.
        position: Index in the layer list; None for the top.
    """
    active = viewer.layers.selection.active
    viewer.layers.insert(len(viewer.layers) if position is None else position, layer)
    viewer.layers.selection.active = active


def above_scan(viewer: ViewerModel, scan: str) -> int:
    """Index in the layer list above a scan and its channels, below what is shown on them.

    Args:
        viewer: The viewer.
        scan: Id of the scan.
    """
    return max((viewer.layers.index(layer) for layer in of_scan(viewer, scan)), default=-1) + 1


def of_scan(viewer: ViewerModel, scan: str) -> list[Layer]:
    """The layers of a scan and its channels, from the bottom.

    Args:
        viewer: The viewer.
        scan: Id of the scan.
    """
    images = [layer for layer in viewer.layers if entry_of(layer).get("role") in (SCAN, CHANNEL)]
    return [layer for layer in images if entry_of(layer)["scan"] == scan]


def remove(viewer: ViewerModel, layer: Layer | None) -> None:
    """Remove a layer, also a locked one; nothing where it is gone already."""
    if layer is not None and layer in viewer.layers:
        layer.locked = False
        viewer.layers.remove(layer)


def annotation_layer(
    labels: np.ndarray, geometry: Geometry, scan: str, classes: Sequence[LabelClass]
) -> Labels:
    """The layer that is painted on, one slice at a time.

    Args:
        labels: uint8 (Z, Y, X), edited in place.
        geometry: Geometry of the scan.
        scan: Id of the scan.
        classes: The classes, for their colours.
    """
    layer = Labels(
        labels,
        name="annotation",
        metadata=metadata(ANNOTATION, geometry, scan=scan),
        opacity=0.75,
        colormap=colormap(classes),
        **placement(geometry),
    )
    layer.n_edit_dimensions = 2
    layer.brush_size = 6
    return layer


def prediction_layer(
    labels: np.ndarray, geometry: Geometry, scan: str, classes: Sequence[LabelClass]
) -> Labels:
    """Layer for predicted labels, protected from painting and accidental deletion.

    Args:
        labels: Predicted labels, uint8 (Z, Y, X).
        geometry: Geometry of the scan.
        scan: Id of the scan.
        classes: Classes with their colours.
    """
    layer = Labels(
        labels,
        name="prediction",
        metadata=metadata(PREDICTION, geometry, scan=scan),
        opacity=0.5,
        colormap=colormap(classes, PREDICTED),
        **placement(geometry),
    )
    layer.editable = False
    layer.locked = True
    return layer


def similarity_layer(values: np.ndarray, geometry: Geometry, step_vox: Sequence[int], scan: str) -> Image:
    """Layer for a similarity map.

    Args:
        values: Similarities, float32 (Z', Y', X') on a grid with cells of `step_vox` voxels.
        geometry: Geometry of the scan.
        step_vox: Size of a cell in voxels (z, y, x).
        scan: Id of the scan.
    """
    return Image(
        values,
        name="similarity",
        metadata=metadata(SIMILARITY, geometry, scan=scan),
        colormap="inferno",
        opacity=0.6,
        contrast_limits=(0, 1),
        interpolation2d="linear",
        **coarse_placement(geometry, step_vox),
    )
