"""Edits of many annotation voxels at once, each a single step of undo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from medssl.core.errors import UserError
from medssl.core.project.contents import LabelClass
from napari.layers import Labels

from napari_medssl import navigation
from napari_medssl.annotate.class_changes import ClassChange, repeat, set_classes, take_back
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.annotation_state import SliceIndex
from napari_medssl.workspace import Workspace

SAMPLE_SIZE = 64
"""Number of voxels of an edit that are compared to detect its undo."""


@dataclass(frozen=True)
class EditRecord:
    """What undo and redo of one edit change besides voxels.

    voxels: index arrays of a sample of the edited voxels; `before` and `after` are their labels, by which
    undo and redo are recognised. added, removed: slices that became complete, or are no longer complete.
    classes: classes that came with it.
    """

    voxels: tuple[np.ndarray, ...]
    before: np.ndarray
    after: np.ndarray
    added: frozenset[tuple[int, int]]
    removed: frozenset[tuple[int, int]]
    classes: tuple[ClassChange, ...]


class Edits:
    """Changes of the annotation other than strokes: recovered, imported or accepted labels."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.annotation = self.session.annotation
        self._applied: list[EditRecord] = []
        self._undone: list[EditRecord] = []
        self.session.scan_changed.connect(self._clear)
        self.annotation.redrawn.connect(self._on_redrawn)
        self.annotation.stroke.connect(self._on_redrawn)

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
        before = frozenset(self.annotation.complete)
        after = before if complete is None else frozenset(complete)
        if len(voxels):
            coordinates = np.unravel_index(voxels, data.shape)
            sparse = slice(None, None, max(1, len(voxels) // SAMPLE_SIZE))
            sample = tuple(along[sparse] for along in coordinates)
            changes = set_classes(self.session, classes)
            step = EditRecord(sample, data[sample], labels[sparse], after - before, before - after, changes)
            self.annotation.expect(voxels, labels)
            layer.data_setitem(coordinates, labels)
            self._applied.append(step)
            self._undone.clear()
        self.annotation.set_complete(after)
        layer.refresh()

    def accept(self) -> None:
        """Copy the predicted slice on the screen into the annotation and mark it complete.

        Voxels that are already annotated keep their labels.

        Raises:
            UserError: "unfinished", "no-prediction", "not-2d", "outside" or "read-only".
        """
        predicted, annotation = self._predicted(), self.workspace.need_annotation()
        axis, index = navigation.current_slice(self.workspace.viewer.dims, annotation)
        plane = (slice(None),) * axis + (slice(index, index + 1),)
        taken = (np.asarray(annotation.data)[plane] == 0) & (predicted[plane] > 0)
        coordinates = list(np.nonzero(taken))
        coordinates[axis] += index
        voxels = np.ravel_multi_index(tuple(coordinates), predicted.shape)
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

    def _on_redrawn(self, *stroke: object) -> None:
        catch_errors(self.session, self._follow_undo)

    def _follow_undo(self) -> None:
        """Complete slices follow undo and redo: an emptied slice must not become background."""
        layer = self.workspace.annotation_layer
        if layer is None:
            return
        while self._applied and _has_labels(layer, self._applied[-1].voxels, self._applied[-1].before):
            last = self._applied.pop()
            self._undone.append(last)
            self.annotation.set_complete((set(self.annotation.complete) - last.added) | last.removed)
            take_back(self.session, last.classes)
            self.annotation.invalidate()
        while self._undone and _has_labels(layer, self._undone[-1].voxels, self._undone[-1].after):
            step = self._undone.pop()
            self._applied.append(step)
            repeat(self.session, step.classes)
            self.annotation.set_complete((set(self.annotation.complete) | step.added) - step.removed)
            self.annotation.invalidate()

    def _clear(self) -> None:
        self._applied, self._undone = [], []


def _has_labels(layer: Labels, voxels: tuple[np.ndarray, ...], labels: np.ndarray) -> bool:
    return bool((np.asarray(layer.data)[voxels] == labels).all())
