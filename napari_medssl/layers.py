"""napari layers and what the engine works with: the only place that turns the one into the other.

All our layers hold canonical (z, y, x) arrays with increasing index towards Superior, Anterior and
Right, `scale` in mm, no rotation. What a layer cannot hold (source affine, path, which scan of the
project) travels in `layer.metadata["medssl"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.io.geometry import Geometry
from medssl.core.project.project import SURE_BACKGROUND, LabelClass
from napari.layers import Image, Labels, Layer
from napari.utils import DirectLabelColormap
from napari.utils.transforms import Affine

KEY = "medssl"
SCAN, ANNOTATION, PREDICTION, SIMILARITY = "scan", "annotation", "prediction", "similarity"
PREVIEW = "preview"
SURE_BACKGROUND_COLOR = "#8f9aa8"
RADIOLOGICAL = ("away", "up", "left")
PLACE = ("scale", "translate", "rotate", "shear", "affine")
"""What a layer says about its place."""


# --- what a layer says about itself -----------------------------------------------------------------


def placement(geometry: Geometry) -> dict[str, Any]:
    """Layer arguments that put a canonical array of `geometry` where it belongs."""
    return {"scale": geometry.spacing_mm, "axis_labels": ("z", "y", "x"), "units": ("mm",) * 3}


def coarse_placement(geometry: Geometry, step_vox: Sequence[int]) -> dict[str, Any]:
    """The same for cells of `step_vox` voxels, the first from voxel 0 on."""
    spacing, step = np.asarray(geometry.spacing_mm), np.asarray(step_vox)
    scale, translate = spacing * step, spacing * (step - 1) / 2
    return {**placement(geometry), "scale": tuple(scale), "translate": tuple(translate)}


def metadata(
    role: str, geometry: Geometry, path: Path | str | None = None, scan: str | None = None
) -> dict[str, Any]:
    """What goes into `layer.metadata`; plain JSON values, so that any writer may keep it."""
    place = str(Path(path).resolve()) if path else ""
    return {KEY: {"role": role, "geometry": geometry.to_json(), "path": place, "scan": scan or ""}}


def entry_of(layer: Layer) -> dict[str, Any]:
    """Our part of the layer's metadata; empty for a layer that is not ours."""
    entry = layer.metadata.get(KEY)
    return entry if isinstance(entry, dict) else {}


def find(layers: Iterable[Layer], role: str) -> Any:
    """The layer with this role, or None."""
    return next((layer for layer in layers if entry_of(layer).get("role") == role), None)


def canonical(data: Any, attributes: dict[str, Any]) -> tuple[np.ndarray, Geometry]:
    """A layer's data as canonical (z, y, x) array and the geometry of its source.

    A layer of ours is canonical and knows its source's grid. Any other is taken as most programs keep
    arrays in memory: slices towards Superior, rows towards Posterior, columns towards Left, placed by all
    that the layer says about its place, in mm.

    Raises UserError ("not-3d", "wrong-shape") for data that fits no scan or not its own.
    """
    array, name = np.asarray(data), attributes.get("name", "")
    entry = attributes.get("metadata", {}).get(KEY)
    if isinstance(entry, dict) and entry.get("geometry"):
        geometry = Geometry.from_json(entry["geometry"])
        if array.shape != tuple(geometry.shape_zyx):
            raise UserError(
                f"Layer {name!r} has {times(array.shape)} voxels, its scan has "
                f"{times(geometry.shape_zyx)}; use a layer that belongs to the scan.",
                code="wrong-shape",
            )
        return array, geometry
    if array.ndim != 3:
        raise UserError(f"Layer {name!r} has {array.ndim} dimensions; choose one with three.", code="not-3d")
    towards_ras = np.array([-1.0, -1.0, 1.0])
    affine = _world_of(attributes)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # from z, y, x to x, y, z
    affine[:3] *= towards_ras[:, None]
    source = array.transpose(2, 1, 0)
    geometry = Geometry.of(affine, source.shape)
    return geometry.to_canonical(source), geometry


def _world_of(attributes: dict[str, Any]) -> np.ndarray:
    """(4, 4) from voxels to mm along z, y, x: scale, shear, rotation and translation, then the affine."""
    own = {name: attributes[name] for name in PLACE if name != "affine" and name in attributes}
    outer = attributes.get("affine")
    inner = Affine(ndim=3, **own).affine_matrix
    return inner if outer is None else np.asarray(getattr(outer, "affine_matrix", outer)) @ inner


def file_of(layer: Layer) -> Path | None:
    """The file that an image layer was read from, if it was read from one."""
    path = entry_of(layer).get("path") or layer.source.path
    return Path(path) if path else None


def remember_file(layer: Layer, path: Path) -> None:
    """Note in a layer of ours where its file is now."""
    if entry_of(layer):
        layer.metadata = {**layer.metadata, KEY: {**entry_of(layer), "path": str(path.resolve())}}


def save_image(layer: Image, folder: Path) -> Path:
    """Write an image layer that has no file (sample data, a result) as NIfTI, so that it can be a scan.

    Raises UserError for layers that are no 3D scalar volumes.
    """
    import nibabel

    if layer.multiscale or layer.rgb:
        raise UserError(
            f"Layer {layer.name!r} is multi-scale or colour; a scan has one plain channel.", code="not-scalar"
        )
    attributes = {name: getattr(layer, name) for name in ("name", "metadata", *PLACE)}
    array, geometry = canonical(np.asarray(layer.data, dtype=np.float32), attributes)
    image = nibabel.Nifti1Image(geometry.to_source(array), geometry.matrix)
    path = folder / f"{_file_name(layer.name)}.nii"
    write_whole(path, lambda file: file.write(image.to_bytes()))
    return path


# --- making layers ----------------------------------------------------------------------------------


def scan_data(
    array: np.ndarray, geometry: Geometry, name: str, path: Path | str | None = None, scan: str | None = None
) -> tuple[np.ndarray, dict[str, Any], str]:
    """A scan as napari's layer-data tuple."""
    kwargs = {"name": name, "metadata": metadata(SCAN, geometry, path, scan), **placement(geometry)}
    looks = {"colormap": "gray", "contrast_limits": contrast(array), "interpolation2d": "linear"}
    return (array, {**kwargs, **looks}, "image")


def labels_data(
    labels: np.ndarray, geometry: Geometry, name: str, path: Path | str | None = None
) -> tuple[np.ndarray, dict[str, Any], str]:
    """A label volume as napari's layer-data tuple."""
    return (
        labels,
        {"name": name, "metadata": metadata("labels", geometry, path), **placement(geometry)},
        "labels",
    )


def contrast(array: np.ndarray) -> tuple[float, float]:
    """Display limits from a thin sample of the voxels: CT soft tissue to bone, else percentiles."""
    step = max(1, round((array.size / 300_000) ** (1 / 3)))
    sample = np.asarray(array[::step, ::step, ::step], dtype=np.float32)
    if sample.min() < -500:  # Hounsfield units: nothing else has air there
        return (-160.0, 260.0)
    low, high = np.percentile(sample, (1, 99.5))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def add(viewer: Any, layer: Layer, place: int | None = None) -> None:
    """Put a layer at a place in the list, or on top; what is selected, with the tool in hand, stays so."""
    active = viewer.layers.selection.active
    viewer.layers.insert(len(viewer.layers) if place is None else place, layer)
    viewer.layers.selection.active = active


def annotation_layer(
    labels: np.ndarray, geometry: Geometry, scan: str, classes: Sequence[LabelClass]
) -> Labels:
    """The layer that is painted on; edits one slice at a time."""
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
    """The network's answer: can be neither painted on nor deleted by accident."""
    layer = Labels(
        labels,
        name="prediction",
        metadata=metadata(PREDICTION, geometry, scan=scan),
        opacity=0.4,
        colormap=colormap(classes),
        **placement(geometry),
    )
    layer.editable = False
    layer.locked = True
    return layer


def similarity_layer(values: np.ndarray, geometry: Geometry, step_vox: Sequence[int], scan: str) -> Image:
    """Similarity at the features' own resolution."""
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


def colormap(classes: Sequence[LabelClass]) -> DirectLabelColormap:
    """The classes' colours, grey for "background, I am sure", nothing for what is not annotated."""
    colors: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
    colors |= {item.id: item.color for item in classes}
    colors[SURE_BACKGROUND] = SURE_BACKGROUND_COLOR
    return DirectLabelColormap(color_dict=colors)


# --- where the viewer is ----------------------------------------------------------------------------


def camera_of(viewer: Any) -> Any:
    """The viewer's camera; it moved from the viewer to its scene in napari 0.9."""
    return getattr(viewer, "scene", viewer).camera


def show_radiologically(viewer: Any) -> None:
    """Anterior (or superior) up, the patient's right on the left, as if one looked from the feet."""
    camera_of(viewer).orientation = RADIOLOGICAL


def current_slice(dims: Any, layer: Layer) -> tuple[int, int]:
    """(canonical axis, voxel index) of the slice on the screen, in any of the three orientations.

    Raises UserError ("not-2d", "outside").
    """
    if dims.ndisplay != 2:
        raise UserError("A slice can only be marked in the 2D view; press Ctrl+Y to go there.", code="not-2d")
    extra = dims.ndim - layer.ndim
    axis = next(axis - extra for axis in dims.not_displayed if axis >= extra)
    index = round(layer.world_to_data(dims.point)[axis])
    if not 0 <= index < layer.data.shape[axis]:
        raise UserError("This slice is outside of the scan; move the slider back into it.", code="outside")
    return int(axis), int(index)


def show_slice(dims: Any, layer: Layer, axis: int, index: int) -> None:
    """Turn the viewer to a slice (canonical axis, voxel index)."""
    extra = dims.ndim - layer.ndim
    rest = [other for other in range(layer.ndim) if other != axis]
    dims.ndisplay = 2
    dims.order = (*range(extra), axis + extra, *(other + extra for other in rest))
    dims.set_point(axis + extra, index * layer.scale[axis] + layer.translate[axis])


def voxel_at(layer: Layer, position: Sequence[float]) -> tuple[int, int, int] | None:
    """The voxel (z, y, x) under a world position, or None outside of the layer."""
    voxel = np.round(layer.world_to_data(position)).astype(int)
    if np.any(voxel < 0) or np.any(voxel >= layer.data.shape):
        return None
    z, y, x = (int(value) for value in voxel)
    return z, y, x


def times(shape: Iterable[int]) -> str:
    """Sizes as people write them: "64 × 112 × 112"."""
    return " × ".join(str(int(n)) for n in shape)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name).strip("-") or "layer"
