"""Bring a volume onto the voxel grid of another scan of the same patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.volume import Volume


def onto_grid(volume: Volume, geometry: Geometry) -> Volume:
    """Resample a volume linearly, unless it lies on the grid already.

    Voxels beyond its field of view have its lowest value and count as `Volume.missing`.

    Args:
        volume: The volume.
        geometry: The grid; both are positioned in the same patient coordinates.

    Returns:
        The volume on the grid, with a note if it was resampled.

    Raises:
        UserError: "no-overlap" if no voxel of the grid lies in the volume.
    """
    if geometry.same_grid(volume.geometry):
        return replace(volume, geometry=geometry)
    from scipy.ndimage import affine_transform

    def resampled(array: np.ndarray, order: int, mode: str, fill: float = 0.0) -> np.ndarray:
        result: np.ndarray = affine_transform(
            array, to_volume[:3, :3], to_volume[:3, 3], geometry.shape_zyx, order=order, mode=mode, cval=fill
        )
        return result

    to_volume = np.linalg.inv(volume.geometry.canonical_affine) @ geometry.canonical_affine
    unknown = np.zeros(volume.array.shape, bool) if volume.missing is None else volume.missing
    # "grid-constant" pads from half a voxel beyond the centres of the border voxels, which are the volume's.
    missing = resampled(unknown.astype(np.uint8), 0, "grid-constant", 1) > 0
    if missing.all():
        raise UserError(
            f"{volume.path} does not overlap with the scan: it lies elsewhere in the patient; choose an "
            "image of the same examination, or register it first.",
            code="no-overlap",
        )
    array = resampled(volume.array, 1, "nearest")
    array[missing] = volume.array.min()
    spacing, shape = (
        " x ".join(f"{length:.3g}" for length in reversed(lengths))
        for lengths in (volume.geometry.spacing_mm, volume.geometry.shape_zyx)
    )
    note = f"It was resampled (linear) from {shape} voxels of {spacing} mm to the grid of the first channel."
    beyond = 100 * float(missing.mean())
    notes = [note, f"It does not cover {beyond:.2g} % of the scan."] if beyond >= 0.05 else [note]
    return Volume(
        array, geometry, volume.path, volume.modality, (*volume.notes, *notes), missing if beyond else None
    )
