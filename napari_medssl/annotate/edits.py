"""Many voxels of the annotation changed at once: one step, which Ctrl+Z takes back whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from medssl.core.errors import UserError
from napari.layers import Labels

from napari_medssl import layers
from napari_medssl.workspace import Workspace

Places = Iterable[tuple[int, int]]
SAMPLE = 64
"""So many voxels of an edit are looked at to see whether it was undone."""


@dataclass(frozen=True)
class Marked:
    """Slices that an edit marked complete (or no longer), and voxels by which is seen whether it holds."""

    voxels: tuple[np.ndarray, ...]
    before: np.ndarray
    after: np.ndarray
    added: frozenset[tuple[int, int]]
    removed: frozenset[tuple[int, int]]


class Edits:
    """Changes of the annotation that are no strokes: brought back, imported, accepted, relabelled."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self._holding: list[Marked] = []
        self._undone: list[Marked] = []
        self.session.scan_changed.connect(self._forget)
        workspace.autosave.redrawn.connect(self._on_redrawn)
        workspace.autosave.stroke.connect(self._on_redrawn)

    def apply(self, voxels: np.ndarray, labels: np.ndarray, complete: Places | None = None) -> None:
        """Give voxels (flat indices) of the annotation these labels; `complete`: all complete slices then.

        Raises UserError ("no-annotation", "read-only").
        """
        layer = self.workspace.need_annotation()
        self.session.need_project().need_writable()
        data = np.asarray(layer.data)
        new = data.reshape(-1)[voxels] != labels
        voxels, labels = voxels[new], np.asarray(labels, np.uint8)[new]
        before = frozenset(self.session.complete)
        after = before if complete is None else frozenset(complete)
        if len(voxels):
            at = np.unravel_index(voxels, data.shape)
            some = slice(None, None, max(1, len(voxels) // SAMPLE))
            sample = tuple(along[some] for along in at)
            step = Marked(sample, data[sample], labels[some], after - before, before - after)
            self.workspace.autosave.expect(voxels, labels)
            layer.data_setitem(at, labels)
            self._holding.append(step)
            self._undone.clear()
        self._mark(after)
        layer.refresh()

    def accept(self) -> None:
        """Take the predicted slice on the screen, as it is shown, and mark it complete.

        What a person has painted there stays.
        Raises UserError ("unfinished", "no-prediction", "not-2d", "outside", "read-only").
        """
        workspace = self.workspace
        if workspace.predictions.unfinished:
            raise UserError(
                "What is on the screen is still in the making; accept it when the training has ended.",
                code="unfinished",
            )
        workspace.predictions.need_shown()
        layer = workspace.prediction_layer
        predicted = np.asarray(layer.data if layer is not None else None)
        if workspace.annotation_layer is None:
            workspace.new_annotation()
        annotation = workspace.need_annotation()
        axis, index = layers.current_slice(workspace.viewer.dims, annotation)
        plane = (slice(None),) * axis + (slice(index, index + 1),)
        taken = (np.asarray(annotation.data)[plane] == 0) & (predicted[plane] > 0)
        at = list(np.nonzero(taken))
        at[axis] += index
        voxels = np.ravel_multi_index(tuple(at), predicted.shape)
        self.apply(voxels, predicted.reshape(-1)[voxels], {*self.session.complete, (axis, index)})

    def _mark(self, complete: Places) -> None:
        if tuple(sorted(complete)) != self.session.complete:
            self.session.complete = tuple(sorted(complete))
            self.session.annotation_changed.emit()
            self.workspace.autosave.touch()

    def _on_redrawn(self, *of: object) -> None:
        """Complete slices follow undo and redo: an empty slice that is called complete would be a lie."""
        layer = self.workspace.annotation_layer
        if layer is None:
            return
        while self._holding and _are(layer, self._holding[-1].voxels, self._holding[-1].before):
            last = self._holding.pop()
            self._undone.append(last)
            self._mark((set(self.session.complete) - last.added) | last.removed)
            self.workspace.autosave.doubt()
        while self._undone and _are(layer, self._undone[-1].voxels, self._undone[-1].after):
            again = self._undone.pop()
            self._holding.append(again)
            self._mark((set(self.session.complete) | again.added) - again.removed)
            self.workspace.autosave.doubt()

    def _forget(self) -> None:
        self._holding, self._undone = [], []


def _are(layer: Labels, voxels: tuple[np.ndarray, ...], labels: np.ndarray) -> bool:
    return bool((np.asarray(layer.data)[voxels] == labels).all())
