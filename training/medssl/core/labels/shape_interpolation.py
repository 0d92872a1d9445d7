"""Shape-based interpolation between annotated slices, as contouring programs offer it.

Raya and Udupa, "Shape-based interpolation of multidimensional objects" (IEEE Transactions on Medical Imaging
9, 1990): between two annotated slices the signed distance to the outline of a structure is interpolated
linearly, and the structure is where it is positive. With several structures a voxel belongs to the one with
the largest distance.

Grey values are used where a scan is given (guided_interpolation.py). A structure that begins and ends
between the two slices is missed. The result is therefore stored apart from the annotation
(`Annotation.interpolated`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.labels.guided_interpolation import DistancePair, guided_distances
from medssl.core.project.annotation import SURE_BACKGROUND, Annotation


def interpolate(
    labels: np.ndarray,
    slices: Sequence[int],
    class_ids: Sequence[int],
    spacing_mm: Sequence[float],
    scan: np.ndarray | None = None,
    slice_mm: float = 1.0,
) -> np.ndarray:
    """Interpolate labels between annotated slices.

    Args:
        labels: Class ids, uint8 (slices, rows, columns), complete in `slices`.
        slices: Indices of the annotated slices, ascending.
        spacing_mm: Pixel spacing along (rows, columns).
        scan: Grey values that guide the outlines, any real type (slices, rows, columns); None interpolates
            shapes alone.
        slice_mm: Spacing of the slices of `scan`.

    Returns:
        uint8 (slices, rows, columns): annotated slices unchanged, interpolated labels between them, 0 before
        the first and after the last.

    Example:
        >>> interpolate(labels, [4, 10], class_ids=[1], spacing_mm=(0.8, 0.8))
    """
    result = np.zeros_like(labels)
    result[list(slices)] = labels[list(slices)]
    ids = np.array([0, *class_ids], dtype=labels.dtype)
    for low, high in pairwise(slices):
        ends = [
            distance_pair(labels[low] == class_id, labels[high] == class_id, spacing_mm)
            for class_id in class_ids
        ]
        if scan is None or not labels[[low, high]].any():
            between = _between(ends, high - low)
        else:
            between = guided_distances(scan[low : high + 1], ends, spacing_mm, slice_mm)
        for index, distances in enumerate(between, low + 1):
            background = np.zeros(labels.shape[1:])  # which wins where all others are negative
            result[index] = ids[np.argmax([background, *distances], axis=0)]
    return result


def _between(ends: Sequence[DistancePair], steps: int) -> Iterator[list[np.ndarray]]:
    """Linearly interpolated distances of all structures in the slices between two that are `steps` apart."""
    for weight in np.arange(1, steps) / steps:
        yield [(1 - weight) * first + weight * last for first, last in ends]


def distance_pair(first: np.ndarray, last: np.ndarray, spacing_mm: Sequence[float]) -> DistancePair:
    """Signed distances of a structure in two annotated slices.

    If one slice does not contain the structure, its distance there is minus the largest distance in the other
    slice, so that the structure ends halfway between them.

    Args:
        first: Mask of the structure in one slice, bool (rows, columns).
        last: Mask of the structure in the other slice, bool (rows, columns).
        spacing_mm: Pixel spacing along (rows, columns).

    Returns:
        Two signed distances in mm, float64 (rows, columns), positive inside.
    """
    distances = [signed_distance(mask, spacing_mm) if mask.any() else None for mask in (first, last)]
    largest = max((float(distance.max()) for distance in distances if distance is not None), default=1.0)
    start, end = (np.full(first.shape, -largest) if distance is None else distance for distance in distances)
    return start, end


def signed_distance(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Signed Euclidean distance to the edge of a mask; edges lie midway between pixels.

    Args:
        mask: Foreground, bool (rows, columns), not empty; everything beyond the slice is background.
        spacing_mm: Pixel spacing along (rows, columns).

    Returns:
        Distance in mm, float64 (rows, columns), positive inside.
    """
    from scipy.ndimage import distance_transform_edt  # imported late: it takes a third of a second

    half = min(spacing_mm) / 2
    inside = distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1]
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    return np.where(mask, inside - half, half - outside)


# --- interpolated labels of an annotation --------------------------------------------------------------


def gaps(annotation: Annotation, axis: int, index: int) -> list[tuple[int, int]]:
    """Pairs of complete slices that enclose slice `index` and have other slices between them.

    Args:
        axis: Canonical axis across the slices.

    Returns:
        (low, high) indices: two pairs if `index` is itself complete, none if it lies beyond the outermost
        complete slices.
    """
    slices = sorted(position for along, position in annotation.complete if along == axis)
    return [(low, high) for low, high in pairwise(slices) if low <= index <= high and high - low > 1]


def fill(
    annotation: Annotation,
    axis: int,
    index: int,
    spacing_mm: Sequence[float],
    scan: np.ndarray | None = None,
) -> np.ndarray:
    """Interpolate between the complete slices around slice `index`.

    Args:
        axis: Canonical axis across the slices.
        spacing_mm: Voxel spacing along (z, y, x).
        scan: Grey values that guide the outlines, any real type (Z, Y, X); None interpolates shapes alone.

    Returns:
        The interpolated labels of the annotation with those of this gap added, uint8 (Z, Y, X): class ids,
        SURE_BACKGROUND for background, 0 wherever the annotation is known.

    Raises:
        UserError: "no-gap" if the slice does not lie between two complete ones.
    """
    pairs = gaps(annotation, axis, index)
    if not pairs:
        plane = AXIS_NAMES[axis]
        raise UserError(
            f"{plane.capitalize()} slice {index} does not lie between two complete {plane} slices; complete "
            "one on either side of it.",
            code="no-gap",
        )
    before = annotation.interpolated
    interpolated = np.zeros_like(annotation.labels) if before is None else before.copy()
    labels, output = (np.moveaxis(array, axis, 0) for array in (annotation.labels, interpolated))
    pixel_mm = [spacing for along, spacing in enumerate(spacing_mm) if along != axis]
    for low, high in pairs:
        slab = np.ascontiguousarray(labels[low : high + 1])
        slab = np.where(slab == SURE_BACKGROUND, 0, slab)
        ids = np.unique(slab[[0, -1]])
        grey = None if scan is None else np.moveaxis(scan, axis, 0)[low : high + 1]
        filled = interpolate(slab, [0, high - low], ids[ids > 0].tolist(), pixel_mm, grey, spacing_mm[axis])
        output[low + 1 : high] = np.where(filled == 0, SURE_BACKGROUND, filled)[1:-1]
    return without_strokes(interpolated, annotation)


def without_strokes(interpolated: np.ndarray, annotation: Annotation) -> np.ndarray:
    """Clear interpolated labels in annotated voxels and complete slices.

    Args:
        interpolated: Interpolated labels, uint8 (Z, Y, X), changed in place.

    Returns:
        `interpolated`.
    """
    interpolated[annotation.labels != 0] = 0
    for axis, index in annotation.complete:
        interpolated[(slice(None),) * axis + (index,)] = 0
    return interpolated
