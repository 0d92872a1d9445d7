"""A simulated annotator: completes a few slices of a scan from its reference labels.

Stands in for the person at the viewer in the demo and in the benchmarks, and makes the same kind of
annotation: a handful of whole slices, some of them beyond the structure, where all is background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.errors import UserError
from medssl.project import Annotation

MARGIN_SLICES = 2
"""How far past the structure's ends the outermost slices lie: somebody has to show where it stops."""


def choose_slices(labels_zyx: np.ndarray, count: int, axis: int = 0) -> tuple[int, ...]:
    """Slices to complete, evenly from two before the structure's first to two after its last.

    One or two slices could show nothing but the ends, so they are spread inside the structure.

    Args:
        labels_zyx: reference labels (Z, Y, X), 0 is background.
        count: how many; fewer come back where the range has fewer.
        axis: canonical axis across the slices (0 axial, 1 coronal, 2 sagittal).

    Returns:
        Distinct indices along `axis`, rising.

    Raises:
        UserError: "no-structure" where the labels are all background.
    """
    others = tuple(other for other in range(3) if other != axis)
    occupied = np.flatnonzero(labels_zyx.any(axis=others))
    if occupied.size == 0:
        raise UserError(
            "The reference labels hold no structure to annotate; choose another scan.", code="no-structure"
        )
    first, last = int(occupied[0]), int(occupied[-1])
    if count <= 2:
        places = np.linspace(first, last, count + 2)[1:-1]
    else:
        places = np.linspace(
            max(first - MARGIN_SLICES, 0), min(last + MARGIN_SLICES, labels_zyx.shape[axis] - 1), count
        )
    return tuple(int(index) for index in np.unique(np.round(places).astype(int)))


def annotate(labels_zyx: np.ndarray, slices: Sequence[int], axis: int = 0) -> Annotation:
    """The annotation of somebody who completes these slices exactly as the reference has them.

    Outside the structure a complete slice is background by being complete, as when it is painted.
    """
    labels = np.zeros(labels_zyx.shape, dtype=np.uint8)
    chosen = tuple(list(slices) if position == axis else slice(None) for position in range(3))
    labels[chosen] = labels_zyx[chosen]
    return Annotation(labels=labels, complete=tuple((axis, int(index)) for index in slices))
