"""One order of undo for strokes, edits of many voxels, complete slices and interpolated labels.

napari keeps the voxels of each step in the layer and knows nothing of complete slices. Here is the order of
all steps: what was done last is undone first, so a slice that loses its strokes has lost its mark before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from napari.layers import Labels

from napari_medssl.annotate.class_changes import ClassChange, repeat, take_back
from napari_medssl.annotate.fill_changes import FillChange
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.annotation_state import SliceIndex
from napari_medssl.model.messages import LAST_UNDOABLE
from napari_medssl.model.session import Session

MOST_STEPS = 100
"""Number of steps with voxels or interpolated labels that are kept: as many as napari keeps."""


@dataclass
class Step:
    """One step of undo.

    Attributes:
        voxels: Whether labels have changed, which napari undoes.
        edit: Whether they may have changed on any slice, not only on the one on the screen.
        added: Slices that became complete.
        removed: Slices that are no longer complete.
        classes: Changes of classes that came with it.
        fills: What was interpolated, or removed from that, in the whole scan (None) or in completed slices.
        empty: Whether it has changed nothing: it is passed over.
    """

    voxels: bool = False
    edit: bool = False
    added: set[SliceIndex] = field(default_factory=set)
    removed: set[SliceIndex] = field(default_factory=set)
    classes: tuple[ClassChange, ...] = ()
    fills: dict[SliceIndex | None, FillChange] = field(default_factory=dict)
    empty: bool = False


class UndoHistory:
    """Undoes and redoes the steps of the annotation on the screen."""

    def __init__(self, session: Session) -> None:
        self.session, self.annotation = session, session.annotation
        self._layer: Labels | None = None
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._open: Step | None = None
        self._restoring = False
        session.scan_changed.connect(self.clear)
        self.annotation.marking.connect(self._on_marking)

    def watch(self, layer: Labels) -> None:
        """Keep the order of this layer's steps from now on.

        Args:
            layer: The annotation layer.
        """
        self.clear()
        self._layer = layer
        layer.events.paint.connect(self._on_paint)
        layer.events.editable.connect(self._on_editable)
        # napari's keys and other plugins undo by these methods: a step that only the layer undoes would leave
        # an emptied slice complete.
        layer.undo, layer.redo = self.undo, self.redo

    def clear(self) -> None:
        """Forget all steps."""
        self._done, self._undone = [], []

    @contextmanager
    def one_step(self, added: Iterable[SliceIndex] = ()) -> Iterator[Step]:
        """All that is edited meanwhile is one step, which is yielded.

        Args:
            added: Slices that become complete.
        """
        self._open = step = Step(edit=True, fills=self._fills_of(added))
        try:
            yield step
        finally:
            self._open = None
            self._push(step)

    def set_interpolated(self, labels: np.ndarray | None) -> None:
        """Replace the interpolated labels, as one step.

        Args:
            labels: Interpolated labels, uint8 (Z, Y, X); None removes them.
        """
        change = FillChange.between(self.annotation.interpolated, labels)
        self._push(Step(fills={None: change} if change is not None else {}))
        self.annotation.set_interpolated(labels)

    def pass_over_last(self) -> None:
        """The last stroke has changed nothing: it is undone and redone together with another step."""
        self._done[-1].empty = True

    def undo(self) -> None:
        """Undo the last step."""
        self.session.messages.end(LAST_UNDOABLE)
        catch_errors(self.session, lambda: self._move(self._done, self._undone, self._take_back), self)

    def redo(self) -> None:
        """Redo the step that was undone last."""
        catch_errors(self.session, lambda: self._move(self._undone, self._done, self._repeat), self)

    def _move(self, source: list[Step], target: list[Step], apply: Callable[[Step], None]) -> None:
        if source:
            self.session.need_project().need_writable()
        while source:
            step = source.pop()
            target.append(step)
            self._restoring = True
            try:
                apply(step)
            finally:
                self._restoring = False
            if not step.empty:
                return

    def _take_back(self, step: Step) -> None:
        """Marks first: wherever the journal of a killed viewer ends, no emptied slice is complete in it."""
        self.annotation.set_complete(({*self.annotation.complete} - step.added) | step.removed)
        if step.voxels:
            self._move_voxels(Labels.undo, step)
        take_back(self.session, step.classes)
        self._swap_fills(step)

    def _repeat(self, step: Step) -> None:
        repeat(self.session, step.classes)
        if step.voxels:
            self._move_voxels(Labels.redo, step)
        self._swap_fills(step)
        self.annotation.set_complete(({*self.annotation.complete} | step.added) - step.removed)

    def _move_voxels(self, move: Callable[[Labels], None], step: Step) -> None:
        if self._layer is not None:
            move(self._layer)
            if (
                step.edit or not self._layer.visible
            ):  # a hidden layer redraws nothing, which autosave would see
                self.annotation.invalidate()

    # --- what happens --------------------------------------------------------------------------------

    def _on_paint(self, event: object = None) -> None:
        """napari emits this once for each step that it can undo."""
        if self._open is not None:
            self._open.voxels = True
        else:
            self._push(Step(voxels=True))

    def _on_marking(self, added: set[SliceIndex], removed: set[SliceIndex]) -> None:
        if self._restoring:
            return
        step = self._open or Step()
        step.added |= added
        step.removed |= removed
        step.fills = {**self._fills_of(added), **step.fills}
        if self._open is None:
            self._push(step)

    def _on_editable(self, event: object = None) -> None:
        """napari forgets its steps where a layer is locked."""
        if self._layer is not None and not self._layer.editable:
            self.clear()

    def _push(self, step: Step) -> None:
        if not (step.voxels or step.added or step.removed or step.fills):
            return
        self._undone.clear()
        self._done.append(step)
        large = [position for position, each in enumerate(self._done) if each.voxels or None in each.fills]
        if len(large) > MOST_STEPS:
            del self._done[: large[0] + 1]

    # --- interpolated labels -------------------------------------------------------------------------

    def _swap_fills(self, step: Step) -> None:
        painted = self.annotation.labels
        if not step.fills or painted is None:
            return
        labels = self.annotation.interpolated
        for change in step.fills.values():
            labels = change.swap(labels, painted)
        self.annotation.set_interpolated(labels)

    def _fills_of(self, slices: Iterable[SliceIndex]) -> dict[SliceIndex | None, FillChange]:
        """What slices lose when they become complete."""
        labels = self.annotation.interpolated
        if labels is None:
            return {}
        changes = {(axis, index): FillChange.of_slice(labels, axis, index) for axis, index in slices}
        return {position: change for position, change in changes.items() if change is not None}
