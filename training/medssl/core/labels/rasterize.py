"""Voxels of discs, polygons and lines that somebody has drawn on slices, and of masks of slices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def slice_of(vertices: np.ndarray, axis: int) -> tuple[int, int] | None:
    """The slice that all vertices of a shape lie on.

    Args:
        vertices: (N, 3) in voxels (z, y, x).
        axis: Canonical axis of the slices that are preferred if there are several: a line lies on two.

    Returns:
        (canonical axis, voxel index); None if the shape crosses the slices of every axis.
    """
    rounded = np.round(vertices).astype(int)
    flat = np.flatnonzero(np.ptp(rounded, axis=0) == 0).tolist()
    if not flat:
        return None
    chosen = axis if axis in flat else flat[0]
    return chosen, int(rounded[0, chosen])


def polygon_mask(vertices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Pixels whose centres lie in a polygon.

    Args:
        vertices: (N, 2) in pixels (row, column).
        shape: Rows and columns of the slice.

    Returns:
        bool (rows, columns).
    """
    from skimage.draw import polygon  # imported late: it takes a tenth of a second

    mask = np.zeros(tuple(shape), bool)
    mask[polygon(vertices[:, 0], vertices[:, 1], mask.shape)] = True
    return mask


def stroke_mask(
    vertices: np.ndarray, radius_mm: float, spacing_mm: Sequence[float], shape: Sequence[int]
) -> np.ndarray:
    """Pixels within a radius of a line through some points, and those on it; of a single point, a disc.

    Args:
        vertices: (N, 2) in pixels (row, column).
        radius_mm: Half the width of the line.
        spacing_mm: Pixel spacing along (rows, columns).
        shape: Rows and columns of the slice.

    Returns:
        bool (rows, columns).
    """
    mask = np.zeros(tuple(shape), bool)
    for start, end in pairwise([*vertices, vertices[-1]]):
        _add_segment(mask, start, end, radius_mm, np.asarray(spacing_mm))
    on_line = line_voxels(vertices)  # of a radius that is smaller than a pixel, too
    mask[tuple(on_line[((on_line >= 0) & (on_line < mask.shape)).all(1)].T)] = True
    return mask


def line_voxels(vertices: np.ndarray) -> np.ndarray:
    """Voxels (N, D) on straight lines from each point to the next; of a single point, the voxel around it.

    Args:
        vertices: (N, D) in voxels.
    """
    lines = [
        np.linspace(start, end, int(np.ceil(np.abs(end - start).max())) + 1)
        for start, end in pairwise([*vertices, vertices[-1]])
    ]
    return np.round(np.concatenate(lines)).astype(int)


def voxels_of_slice(mask: np.ndarray, axis: int, index: int, shape_zyx: Sequence[int]) -> np.ndarray:
    """Flat indices (N,) into a volume of the pixels of a slice, in the order of `slice[mask]`.

    Args:
        mask: bool (rows, columns).
        axis: Canonical axis across the slice.
        index: Number of the slice.
        shape_zyx: Shape of the volume.
    """
    coordinates = [*np.nonzero(mask)]
    coordinates.insert(axis, np.full(len(coordinates[0]), index))
    return np.ravel_multi_index(tuple(coordinates), tuple(shape_zyx))


def _add_segment(
    mask: np.ndarray, start: np.ndarray, end: np.ndarray, radius_mm: float, spacing: np.ndarray
) -> None:
    """Add the pixels within a radius of a line between two points (row, column) to a mask, in its box."""
    reach = radius_mm / spacing
    low = np.maximum(np.floor(np.minimum(start, end) - reach), 0).astype(int)
    high = np.minimum(np.ceil(np.maximum(start, end) + reach) + 1, mask.shape).astype(int)
    if (high <= low).any():
        return
    grid = np.moveaxis(np.indices(high - low), 0, -1) + low
    offset, line = (grid - start) * spacing, (end - start) * spacing
    along = np.clip(offset @ line / max(float(line @ line), 1e-12), 0, 1)
    distance = np.linalg.norm(offset - along[..., None] * line, axis=-1)
    mask[low[0] : high[0], low[1] : high[1]] |= distance <= radius_mm
