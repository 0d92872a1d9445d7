"""A simulated annotator, which completes a few slices of a scan from its reference labels.

It replaces the user in the demo and in benchmarks and produces the same kind of annotation: a few complete
slices, some of them beyond the structure, with background only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.core.errors import UserError
from medssl.core.project.project import Annotation

MARGIN_SLICES = 2
"""Distance in slices of the outermost slices from the ends of the structure, to show where it ends."""


def choose_slices(labels_zyx: np.ndarray, count: int, axis: int = 0) -> tuple[int, ...]:
    """Choose evenly spaced slices, from two before the first of the structure to two after its last.

    The range covers the structures that begin and end inside the scan. A structure that leaves the scan, such
    as the spine, has no visible end and would move slices away from the others. One or two slices would only
    show the ends, so they are placed inside the structure.

    Args:
        labels_zyx: reference labels, integer (Z, Y, X); 0 is background.
        count: number of slices; fewer are returned if the range is smaller.
        axis: canonical axis across the slices (0 axial, 1 coronal, 2 sagittal).

    Returns:
        Distinct indices along `axis` in ascending order.

    Raises:
        UserError: "no-structure" if all labels are background.
    """
    first, last = _extent(labels_zyx, axis)
    if count <= 2:
        positions = np.linspace(first, last, count + 2)[1:-1]
    else:
        positions = np.linspace(
            max(first - MARGIN_SLICES, 0), min(last + MARGIN_SLICES, labels_zyx.shape[axis] - 1), count
        )
    return tuple(int(index) for index in np.unique(np.round(positions).astype(int)))


def _extent(labels_zyx: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last slice of the structures that lie inside the scan, or of all if none does."""
    others = tuple(other for other in range(3) if other != axis)
    indices = [
        np.flatnonzero((labels_zyx == class_id).any(axis=others))
        for class_id in np.unique(labels_zyx)
        if class_id != 0
    ]
    if not indices:
        raise UserError(
            "The reference labels contain no structure to annotate; choose another scan.", code="no-structure"
        )
    end = labels_zyx.shape[axis] - 1
    inside = [rows for rows in indices if rows[0] > 0 and rows[-1] < end] or indices
    return int(min(rows[0] for rows in inside)), int(max(rows[-1] for rows in inside))


def annotate(labels_zyx: np.ndarray, slices: Sequence[int], axis: int = 0) -> Annotation:
    """Create an annotation with some complete slices, equal to the reference.

    Unlabelled voxels of a complete slice are background.

    Args:
        labels_zyx: reference labels, integer (Z, Y, X).
        slices: indices along `axis`.
        axis: canonical axis across the slices.
    """
    labels = np.zeros(labels_zyx.shape, dtype=np.uint8)
    chosen = tuple(list(slices) if position == axis else slice(None) for position in range(3))
    labels[chosen] = labels_zyx[chosen]
    return Annotation(labels=labels, complete=tuple((axis, int(index)) for index in slices))
