"""Voxel sizes of napari layers in mm, from their scale and units."""

from __future__ import annotations

from typing import Any

import numpy as np
from medssl.core.io.units import mm_per_unit
from napari.layers import Layer
from napari.utils.transforms import Affine

PLACEMENT_KEYS = ("scale", "translate", "rotate", "shear", "affine")
"""Attributes that place a layer in the world, in its units."""


def attributes_of(layer: Layer) -> dict[str, Any]:
    """Name, metadata, units and placement of a layer, as napari passes them to writers."""
    return {name: getattr(layer, name) for name in ("name", "metadata", "units", *PLACEMENT_KEYS)}


def affine_mm(attributes: dict[str, Any]) -> np.ndarray:
    """Affine from voxels to mm along z, y, x, float64 (4, 4); pixels are taken as mm, see `assumption`.

    napari applies scale, shear, rotation and translation, then the layer's affine.
    """
    own = {name: attributes[name] for name in PLACEMENT_KEYS if name != "affine" and name in attributes}
    world = np.array(Affine(ndim=3, **own).affine_matrix, dtype=np.float64)
    if (outer := attributes.get("affine")) is not None:
        world = np.asarray(getattr(outer, "affine_matrix", outer)) @ world
    world[:3] *= np.array([factor or 1.0 for factor in _mm_per_unit(attributes)])[:, None]
    return world


def show_in_mm(layer: Layer) -> None:
    """Give a layer of another source the unit of ours, without moving it; pixels are taken as mm.

    Where units differ, napari shows all layers without them; where one is smaller than mm, it counts in that.
    """
    spatial = min(layer.ndim, 3)
    factors = np.array([mm_per_unit(str(unit)) or 1.0 for unit in layer.units[-spatial:]])
    units = (*layer.units[:-spatial], *("mm",) * spatial)
    if (factors != 1).any():
        to_mm = np.diag([*np.ones(layer.ndim - spatial), *factors, 1.0])
        layer.affine = to_mm @ layer.affine.affine_matrix
    layer.units = units


def assumption(attributes: dict[str, Any]) -> str:
    """A sentence about the voxel size that is assumed for a layer; empty if the layer states it in full."""
    if None not in _mm_per_unit(attributes)[-3:]:
        return ""
    name, scale = attributes.get("name", ""), np.asarray(attributes.get("scale", (1, 1, 1)), dtype=float)[-3:]
    size = " × ".join(f"{length:.4g}" for length in scale[::-1])
    states = "a scale, but no unit of length" if (scale != 1).any() else "no voxel size"
    return f"Layer {name!r} has {states}, so {size} mm is assumed; set its scale and units if that is wrong."


def _mm_per_unit(attributes: dict[str, Any]) -> list[float | None]:
    """Millimetres per unit of the axes z, y, x; None for pixels."""
    return [mm_per_unit(str(unit)) for unit in attributes.get("units") or ("pixel",) * 3]
