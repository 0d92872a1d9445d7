"""A brush that paints only voxels whose grey values lie in a range.

napari paints under the whole brush; what is out of range is restored at once, as part of the same step of
undo. Erasing is not limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from napari.layers import Labels
from psygnal import Signal

from napari_medssl import navigation
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.annotation_model import Region
from napari_medssl.workspace import Workspace

SPREAD = 2.5
"""Half the width of a range around a click, in standard deviations of the values there."""
REACH_PIXELS = 2
"""Pixels on each side of a click whose values give the range; under a wide brush are several tissues."""


class RangeBrush:
    """Limits strokes on the annotation to a range of grey values while it is on."""

    changed = Signal()
    """`on` or the range has changed."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.on = False
        self.follows_click = True
        """Whether each stroke sets the range from the values around its first click."""
        self.range = (0.0, 0.0)
        """Lowest and highest grey value that is painted, in the units of the channel on the screen."""
        self._channel = ""
        """Name of the channel whose grey values count."""
        self._ranges: dict[str, tuple[float, float]] = {}
        """Ranges of other channels, by their names."""
        self._layer: Labels | None = None
        self._before: tuple[Region, np.ndarray] | None = None
        """Labels of a region when the stroke began; None between strokes."""
        self._step: list[Any] | None = None
        """The step of undo that the stroke belongs to already; None while it is still open."""
        self._dragging = self._drawn = False
        """Whether the button is down, and whether the open step of undo has painted anything."""
        self.session.annotation.stroke.connect(self._on_stroke)
        self.session.view_changed.connect(self._on_view)
        self.workspace.channels.changed.connect(self._on_channels)

    def set_on(self, on: bool) -> None:
        """Limit the strokes from now on, or no longer."""
        self.on = on
        self._end()
        self._start_range()
        self.changed.emit()

    def _start_range(self) -> None:
        """Take the window of a channel that has no range yet."""
        scan = self.workspace.front_layer
        if self.on and scan is not None and self.range[0] == self.range[1]:
            self.range = tuple(scan.contrast_limits)

    def _on_channels(self) -> None:
        """Each channel has a range of its own, because its grey values mean something else."""
        front = self.workspace.channels.front
        if front is None or front[0].channel == self._channel:
            return
        self._ranges[self._channel] = self.range
        self._channel = front[0].channel
        self.range = self._ranges.get(self._channel, (0.0, 0.0))
        self._start_range()
        self.changed.emit()

    def set_follows_click(self, on: bool) -> None:
        """Let each stroke set the range from the grey values around its first click, or not."""
        self.follows_click = on

    def set_range(self, low: float, high: float) -> None:
        """Set the lowest and the highest grey value that is painted."""
        if (low, high) != self.range:
            self.range = (low, high)
            self.changed.emit()

    def _on_view(self) -> None:
        """The annotation layer may be new; a stroke may go on in another slice."""
        layer = self.workspace.annotation_layer
        if layer is not None and self._on_drag not in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.insert(0, self._on_drag)  # before the one that paints
        if layer is not None and self._before is not None:
            self._remember(layer)

    # --- a stroke ------------------------------------------------------------------------------------

    def _on_drag(self, layer: Labels, event: Any) -> Iterator[None]:
        """From press to release; napari advances this before the mode that paints."""
        self._end()
        if not self.on or self.session.closed:
            return
        if layer is not self._layer:  # connected after `autosave` was: it records what is left of a stroke
            self._layer = layer
            layer.events.paint.connect(self._on_paint, position="first")
            layer.events.paint.connect(self._on_painted, position="last")
            layer.events.labels_update.connect(self._on_labels_update, position="first")
        shown = self.workspace.slice_on_screen()
        if shown is not None and event.button == 1:
            catch_errors(self.session, lambda: self.begin(layer, event.position, shown[0]))
        self._remember(layer)
        self._dragging = True
        yield
        while event.type == "mouse_move":
            yield
        self._dragging = False

    def _remember(self, layer: Labels) -> None:
        region = self.workspace.autosave.region()
        self._before = region, np.array(layer.data[region])

    def _on_stroke(self, *stroke: object) -> None:
        """A stroke is recorded, or another change of the annotation follows, which is not limited."""
        if not self._dragging:
            self._end()

    def _end(self) -> None:
        self._before = self._step = None
        self._drawn = False

    def _on_paint(self, event: Any) -> None:
        self._step = event.value

    def _on_painted(self, event: object = None) -> None:
        """A stroke has ended, and was recorded if anything is left of it; a polygon is painted only now."""
        if self._drawn:
            self._pass_over_nothing()

    def _pass_over_nothing(self) -> None:
        """Take care that no press of Ctrl+Z is needed for a stroke of which nothing is left."""
        layer, before = self._layer, self._before
        if layer is not None and before is not None and np.array_equal(layer.data[before[0]], before[1]):
            self.workspace.undo.pass_over_last()
            self._end()

    def _on_labels_update(self, event: object = None) -> None:
        if self._before is not None:
            catch_errors(self.session, self._restore)

    def _restore(self) -> None:
        """Give back their labels to the voxels out of range that have been painted."""
        layer, scan = self._layer, self.workspace.front_layer
        if layer is None or scan is None or self._before is None:
            return
        region, before = self._before
        after = layer.data[region]
        local = np.nonzero((after != before) & (after != 0))
        voxels = tuple(along + (span.start or 0) for along, span in zip(local, region, strict=True))
        out = ~self._is_in_range(np.asarray(scan.data[voxels]))
        if not out.any():
            return
        voxels, labels = tuple(along[out] for along in voxels), before[local][out]
        if self._step is None:
            self._drawn = True
            layer.data_setitem(voxels, labels)
        else:  # a polygon: its step of undo is closed before its voxels change
            self._step.append((voxels, layer.data[voxels], labels))
            layer.data[voxels] = labels
            self._pass_over_nothing()
            layer.refresh()

    def may_paint(self, voxels: np.ndarray) -> np.ndarray:
        """Which voxels of the scan on the screen, flat indices (N,), a brush may paint: bool (N,)."""
        scan = self.workspace.front_layer
        if not self.on or scan is None:
            return np.ones(len(voxels), bool)
        return self._is_in_range(np.asarray(scan.data[np.unravel_index(voxels, scan.data.shape)]))

    def _is_in_range(self, grey: np.ndarray) -> np.ndarray:
        return (grey >= self.range[0]) & (grey <= self.range[1])

    # --- the range -----------------------------------------------------------------------------------

    def begin(self, layer: Labels, position: Any, axis: int) -> None:
        """A stroke begins: take the range from the grey values around it, if it follows clicks.

        Args:
            layer: The annotation layer, whose tool is used.
            position: Where it begins, in mm along the axes of the viewer.
            axis: Canonical axis across the slice that is painted on.
        """
        scan, voxel = self.workspace.front_layer, navigation.voxel_at(layer, position)
        follows = self.on and self.follows_click and layer.mode == "paint"
        if not follows or scan is None or voxel is None:
            return
        box = tuple(
            slice(at, at + 1) if along == axis else slice(max(at - REACH_PIXELS, 0), at + REACH_PIXELS + 1)
            for along, at in enumerate(voxel)
        )
        self.set_range(*range_of(np.asarray(scan.data[box])))


def range_of(values: np.ndarray) -> tuple[float, float]:
    """Range of the tissue that is most of some grey values, robust against a border in a corner of them.

    Args:
        values: Grey values (any shape).

    Returns:
        Lowest and highest value.
    """
    median = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - median)))  # of a normal distribution
    return median - SPREAD * deviation, median + SPREAD * deviation
