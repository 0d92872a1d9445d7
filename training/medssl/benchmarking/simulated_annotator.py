"""A simulated annotator: completes a few slices of a scan from its reference labels.

Stands in for the person at the viewer in the demo and in the benchmarks, and makes the same kind of
annotation: a handful of whole slices, some of them beyond the structure, where all is background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.core.errors import UserError
from medssl.core.project.project import Annotation

MARGIN_SLICES = 2
"""How far past the structure's ends the outermost slices lie: somebody has to show where it stops."""


def choose_slices(labels_zyx: np.ndarray, count: int, axis: int = 0) -> tuple[int, ...]:
    """Slices to complete, evenly from two before the structure's first to two after its last.

    Of several structures those count that both begin and end inside the scan: one that runs out of it, as a
    spine does, has no end to be shown and would draw the slices away from the others. One or two slices could
    show nothing but the ends, so they are spread inside the structure.

    Args:
        labels_zyx: reference labels (Z, Y, X), 0 is background.
        count: how many; fewer come back where the range has fewer.
        axis: canonical axis across the slices (0 axial, 1 coronal, 2 sagittal).

    Returns:
        Distinct indices along `axis`, rising.

    Raises:
        UserError: "no-structure" where the labels are all background.
    """
    first, last = _extent(labels_zyx, axis)
    if count <= 2:
        places = np.linspace(first, last, count + 2)[1:-1]
    else:
        places = np.linspace(
            max(first - MARGIN_SLICES, 0), min(last + MARGIN_SLICES, labels_zyx.shape[axis] - 1), count
        )
    return tuple(int(index) for index in np.unique(np.round(places).astype(int)))


def _extent(labels_zyx: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last slice of the structures that end inside the scan, or of all where none does."""
    others = tuple(other for other in range(3) if other != axis)
    places = [
        np.flatnonzero((labels_zyx == class_id).any(axis=others))
        for class_id in np.unique(labels_zyx)
        if class_id != 0
    ]
    if not places:
        raise UserError(
            "The reference labels hold no structure to annotate; choose another scan.", code="no-structure"
        )
    end = labels_zyx.shape[axis] - 1
    inside = [place for place in places if place[0] > 0 and place[-1] < end] or places
    return int(min(place[0] for place in inside)), int(max(place[-1] for place in inside))


def annotate(labels_zyx: np.ndarray, slices: Sequence[int], axis: int = 0) -> Annotation:
    """The annotation of somebody who completes these slices exactly as the reference has them.

    Outside the structure a complete slice is background by being complete, as when it is painted.
    """
    labels = np.zeros(labels_zyx.shape, dtype=np.uint8)
    chosen = tuple(list(slices) if position == axis else slice(None) for position in range(3))
    labels[chosen] = labels_zyx[chosen]
    return Annotation(labels=labels, complete=tuple((axis, int(index)) for index in slices))
