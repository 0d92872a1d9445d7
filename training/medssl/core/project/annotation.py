"""Annotations of a scan, and the training targets derived from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SURE_BACKGROUND = 255
"""Annotation value of voxels that belong to none of the classes."""
IGNORE = 255
"""Target value of voxels without annotation."""


@dataclass(frozen=True)
class Annotation:
    """The annotation of a scan.

    Attributes:
        labels: uint8 (Z, Y, X): 0 not annotated, 1..254 class ids, 255 sure background.
        complete: (canonical axis, index) of complete slices, in which all voxels without annotation are
            background.
        interpolated: Labels between complete slices (shape_interpolation.py), uint8 (Z, Y, X) with the same
            values as `labels`; None for none. They are not ground truth: they count neither as annotated nor
            as complete and are not exported.
    """

    labels: np.ndarray
    complete: tuple[tuple[int, int], ...] = ()
    interpolated: np.ndarray | None = None

    def target(self) -> np.ndarray:
        """Training target, uint8 (Z, Y, X): 0 background, 1..254 class ids, IGNORE without annotation."""
        target = _target(self.labels)
        for axis, index in self.complete:
            plane = target[(slice(None),) * axis + (index,)]
            plane[plane == IGNORE] = 0
        return target

    def interpolated_target(self) -> np.ndarray | None:
        """Training target from the interpolated labels alone.

        Returns:
            uint8 (Z, Y, X) as in `target`, with IGNORE in annotated voxels and complete slices; None if
            nothing remains.
        """
        if self.interpolated is None:
            return None
        target = _target(np.where(self.labels == 0, self.interpolated, 0))
        for axis, index in self.complete:
            target[(slice(None),) * axis + (index,)] = IGNORE
        return None if (target == IGNORE).all() else target


def _target(labels: np.ndarray) -> np.ndarray:
    """Swap the two special values: 0 (not annotated) becomes IGNORE, SURE_BACKGROUND becomes 0."""
    swap = np.arange(256, dtype=np.uint8)
    swap[[0, SURE_BACKGROUND]] = IGNORE, 0
    return swap[labels]
