"""Shape-based interpolation between painted slices: what a clinician's contouring program offers.

Raya and Udupa, "Shape-based interpolation of multidimensional objects" (IEEE Transactions on Medical Imaging
9, 1990): between two painted slices the signed distance to a structure's outline is blended linearly, and the
structure is where it is positive. With several structures a voxel belongs to the one that it lies deepest in.

It looks at no grey value. So what it fills in is a guess (`Annotation.interpolated`): it says nothing about a
structure that begins and ends between the two slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.project.annotation import SURE_BACKGROUND, Annotation


def interpolate(
    labels: np.ndarray, slices: Sequence[int], class_ids: Sequence[int], spacing_mm: Sequence[float]
) -> np.ndarray:
    """Labels between the given slices, which stay as they are; 0 before the first and after the last.

    Args:
        labels: uint8 (slices, rows, columns), complete in `slices`.
        slices: rising.
        spacing_mm: along (rows, columns).
    """
    result = np.zeros_like(labels)
    result[list(slices)] = labels[list(slices)]
    ids = np.array([0, *class_ids], dtype=labels.dtype)
    for low, high in pairwise(slices):
        ends = [
            between(labels[low] == class_id, labels[high] == class_id, spacing_mm) for class_id in class_ids
        ]
        for index in range(low + 1, high):
            share = (index - low) / (high - low)
            depths = [np.zeros(labels.shape[1:])]  # background wins where all others are negative
            depths += [(1 - share) * first + share * last for first, last in ends]
            result[index] = ids[np.argmax(depths, axis=0)]
    return result


def between(
    first: np.ndarray, last: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances of a structure in two painted slices.

    Where one of them does not show it, it is as far outside there as it is deep in the other, and so tapers
    to an end halfway.
    """
    depths = [signed_distance(mask, spacing_mm) if mask.any() else None for mask in (first, last)]
    deepest = max((float(depth.max()) for depth in depths if depth is not None), default=1.0)
    one, other = (np.full(first.shape, -deepest) if depth is None else depth for depth in depths)
    return one, other


def signed_distance(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm to the edge of a mask that is not empty, positive inside; edges lie midway between
    pixels, and outside of the slice is outside."""
    from scipy.ndimage import distance_transform_edt  # a third of a second that only a fill costs

    half = min(spacing_mm) / 2
    inside = distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1]
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    return np.where(mask, inside - half, half - outside)


# --- the guess of an annotation ------------------------------------------------------------------------


def gaps(annotation: Annotation, axis: int, index: int) -> list[tuple[int, int]]:
    """(low, high) of complete slices across `axis` with slices between them, around slice `index`.

    A complete slice has one on either side; none where `index` is beyond the outermost complete slices.
    """
    slices = sorted(at for along, at in annotation.complete if along == axis)
    return [(low, high) for low, high in pairwise(slices) if low <= index <= high and high - low > 1]


def fill(annotation: Annotation, axis: int, index: int, spacing_mm: Sequence[float]) -> np.ndarray:
    """The annotation's guesses with what lies between the complete slices around slice `index`, uint8.

    Background is guessed as SURE_BACKGROUND. What a person has said is never guessed.

    spacing_mm: along (z, y, x).

    Raises UserError ("no-gap") where the slice does not lie between two complete ones.
    """
    found = gaps(annotation, axis, index)
    if not found:
        plane = AXIS_NAMES[axis]
        raise UserError(
            f"{plane.capitalize()} slice {index} does not lie between two complete {plane} slices; complete "
            "one on either side of it.",
            code="no-gap",
        )
    before = annotation.interpolated
    interpolated = np.zeros_like(annotation.labels) if before is None else before.copy()
    labels, open_ = (np.moveaxis(each, axis, 0) for each in (annotation.labels, interpolated))
    in_slice = [spacing for along, spacing in enumerate(spacing_mm) if along != axis]
    for low, high in found:
        part = np.ascontiguousarray(labels[low : high + 1])
        part = np.where(part == SURE_BACKGROUND, 0, part)
        ids = np.unique(part[[0, -1]])
        filled = interpolate(part, [0, high - low], ids[ids > 0].tolist(), in_slice)
        open_[low + 1 : high] = np.where(filled == 0, SURE_BACKGROUND, filled)[1:-1]
    return without_strokes(interpolated, annotation)


def without_strokes(interpolated: np.ndarray, annotation: Annotation) -> np.ndarray:
    """The guesses (changed in place) without what a person has said since."""
    interpolated[annotation.labels != 0] = 0
    for axis, index in annotation.complete:
        interpolated[(slice(None),) * axis + (index,)] = 0
    return interpolated
