"""Shape-based interpolation between painted slices: what a clinician's contouring program offers.

Raya and Udupa, "Shape-based interpolation of multidimensional objects" (IEEE Transactions on Medical Imaging
9, 1990): between two painted slices the signed distance to a structure's outline is blended linearly, and the
structure is where it is positive. With several structures a voxel belongs to the one that it lies deepest in.

It looks at no grey value, so it says nothing about scans in which nothing was painted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from medssl.project import Annotation
from medssl.study import Assignment
from medssl.trial import Outcome
from scipy.ndimage import distance_transform_edt


def interpolated(assignment: Assignment) -> Outcome:
    """Fill the annotated scans between their painted slices; outside of these is background."""
    project = assignment.material.project
    class_ids = [each.id for each in project.classes]
    filled = {}
    begin = time.monotonic()
    for scan_id, slices in assignment.annotated.items():
        annotation = project.annotation(scan_id)
        assert isinstance(annotation, Annotation)  # the assignment says so
        spacing = project.scans[scan_id].geometry.spacing_mm[1:]
        filled[scan_id] = interpolate(annotation.labels, slices, class_ids, spacing)
    seconds = time.monotonic() - begin
    return Outcome(
        prediction=lambda scan_id: filled[scan_id],
        seconds={"finetune": seconds, "wall": seconds},
        painted_only=True,
    )


def interpolate(
    labels_zyx: np.ndarray, slices: Sequence[int], class_ids: Sequence[int], spacing_mm: Sequence[float]
) -> np.ndarray:
    """Labels between the given axial slices, which stay as they are; 0 before the first and after the last.

    Args:
        labels_zyx: uint8 (Z, Y, X), complete in `slices`.
        slices: rising.
        spacing_mm: along (y, x).
    """
    result = np.zeros_like(labels_zyx)
    result[list(slices)] = labels_zyx[list(slices)]
    ids = np.array([0, *class_ids], dtype=labels_zyx.dtype)
    for low, high in pairwise(slices):
        ends = [
            between(labels_zyx[low] == class_id, labels_zyx[high] == class_id, spacing_mm)
            for class_id in class_ids
        ]
        for index in range(low + 1, high):
            share = (index - low) / (high - low)
            depths = [np.zeros(labels_zyx.shape[1:])]  # background wins where all others are negative
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
    half = min(spacing_mm) / 2
    inside = distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1]
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    return np.where(mask, inside - half, half - outside)
