"""Edits of many annotation voxels at once, each a single step of undo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from medssl.core.errors import UserError
from medssl.core.labels.rasterize import voxels_of_slice
from medssl.core.project.contents import LabelClass

from napari_medssl import navigation
from napari_medssl.annotate.class_changes import set_classes
from napari_medssl.model.annotation_state import SliceIndex
from napari_medssl.workspace import Workspace


class Edits:
    """Changes of the annotation other than strokes: recovered, imported or accepted labels."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.annotation = self.session.annotation

    def apply(
        self,
        voxels: np.ndarray,
        labels: np.ndarray,
        complete: Iterable[SliceIndex] | None = None,
        classes: Sequence[LabelClass] = (),
    ) -> None:
        """Assign labels to voxels as one step of undo.

        Args:
            voxels: (N,) flat indices into the annotation (Z, Y, X).
            labels: (N,) uint8 labels.
            complete: All complete slices after the edit; None leaves them as they are.
            classes: Classes that the project gets, in addition or for those of the same id.

        Raises:
            UserError: There is no annotation ("no-annotation") or another window has the project
                ("read-only").
        """
        layer = self.workspace.need_annotation()
        self.session.need_project().need_writable()
        data = np.asarray(layer.data)
        new = data.reshape(-1)[voxels] != labels
        voxels, labels = voxels[new], np.asarray(labels, np.uint8)[new]
        after = {*self.annotation.complete} if complete is None else {*complete}
        with self.workspace.undo.one_step(after - {*self.annotation.complete}) as step:
            if len(voxels):
                step.classes = set_classes(self.session, classes)
                self.annotation.expect(voxels, labels)
                with self.workspace.autosave.journaled():
                    layer.data_setitem(np.unravel_index(voxels, data.shape), labels)
                    layer.refresh()
            self.annotation.set_complete(after)

    def accept(self) -> None:
        """Copy the predicted slice on the screen into the annotation and mark it complete.

        Voxels that are already annotated keep their labels.

        Raises:
            UserError: "unfinished", "no-prediction", "not-2d", "outside" or "read-only".
        """
        predicted, annotation = self._predicted(), self.workspace.need_annotation()
        axis, index = navigation.current_slice(self.workspace.viewer.dims, annotation)
        taken = (np.asarray(annotation.data).take(index, axis) == 0) & (predicted.take(index, axis) > 0)
        voxels = voxels_of_slice(taken, axis, index, predicted.shape)
        self.apply(voxels, predicted.reshape(-1)[voxels], {*self.annotation.complete, (axis, index)})

    def accept_scan(self) -> None:
        """Copy the whole prediction on the screen into the annotation and mark all slices complete.

        Voxels that are already annotated keep their labels. The slices are those of the orientation on the
        screen, axial ones in 3D.

        Raises:
            UserError: "unfinished", "no-prediction" or "read-only".
        """
        predicted, annotation = self._predicted(), self.workspace.need_annotation()
        axis, _ = self.workspace.slice_on_screen() or (0, 0)
        voxels = np.flatnonzero((np.asarray(annotation.data) == 0) & (predicted > 0))
        self.apply(
            voxels, predicted.reshape(-1)[voxels],
            {*self.annotation.complete, *((axis, index) for index in range(predicted.shape[axis]))},
        )  # fmt: skip

    def _predicted(self) -> np.ndarray:
        """The prediction on the screen, uint8 (Z, Y, X); there is an annotation afterwards."""
        workspace = self.workspace
        if workspace.predictions.unfinished:
            raise UserError(
                "The slice on the screen is a preview of a running training; accept it when that has ended.",
                code="unfinished",
            )
        workspace.predictions.need_shown()
        layer = workspace.prediction_layer
        if workspace.annotation_layer is None:
            workspace.new_annotation()
        return np.asarray(layer.data if layer is not None else None)
