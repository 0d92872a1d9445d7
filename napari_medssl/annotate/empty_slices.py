"""Marks ranges of slices complete in which there is nothing to paint."""

from __future__ import annotations

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.project.annotation import SURE_BACKGROUND

from napari_medssl import navigation
from napari_medssl.workspace import Workspace


class EmptySlices:
    """Completes the empty slices beyond a structure, as one step of undo."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session

    def proposed(self) -> tuple[int, int, int]:
        """The slices from the one on the screen to the end of the scan, away from what is painted.

        Returns:
            Canonical axis, first and last index.

        Raises:
            UserError: "no-annotation", "not-2d", "outside", "between" if the slice is painted or lies between
                painted ones.
        """
        layer = self.workspace.need_annotation()
        axis, index = navigation.current_slice(self.workspace.viewer.dims, layer)
        painted, last = self._painted(axis), layer.data.shape[axis] - 1
        if len(painted) == 0:
            return axis, 0, last
        if index < painted[0]:
            return axis, 0, index
        if index > painted[-1]:
            return axis, index, last
        raise UserError(
            f"{AXIS_NAMES[axis].capitalize()} slice {index} is painted or lies between painted slices; go to "
            "the first slice beyond the structure.",
            code="between",
        )

    def complete(self, axis: int, first: int, last: int) -> None:
        """Mark slices complete, in which everything becomes background.

        Args:
            axis: Canonical axis across the slices.
            first: Index of the first slice.
            last: Index of the last slice.

        Raises:
            UserError: "painted" if a class is painted in one of them, "no-annotation", "read-only".
        """
        painted = [index for index in self._painted(axis) if first <= index <= last]
        if painted:
            raise UserError(
                f"{AXIS_NAMES[axis].capitalize()} slice {painted[0]} is painted; choose slices in which no "
                "class is painted.",
                code="painted",
            )
        added = {(axis, index) for index in range(first, last + 1)}
        self.session.annotation.set_complete({*self.session.annotation.complete} | added)

    def _painted(self, axis: int) -> list[int]:
        """Slices in which a class is painted."""
        labels = np.asarray(self.workspace.need_annotation().data)
        others = tuple(other for other in range(3) if other != axis)
        used = (labels != 0) & (labels != SURE_BACKGROUND)
        return [int(index) for index in np.flatnonzero(used.any(axis=others))]
