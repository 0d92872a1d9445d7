"""Live preview: the slice on the screen as segmented by a fine-tuning that is still running.

The engine is told which slice is on the screen and segments it every few seconds. The result is written into
a copy of the prediction that is shown; it is not saved, exported or copied into the annotation. At the end
the final prediction replaces it; without one, the previous content is restored.
"""

from __future__ import annotations

import numpy as np
from medssl.core import events
from medssl.core.events import SliceInView, SlicePreview
from medssl.core.io.geometry import AXIS_NAMES
from psygnal import Signal
from superqt.utils import qdebounced

from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.workspace import Workspace

PAUSE_MS = 80
"""A slice that is on the screen for less time is not requested."""
IN_PROGRESS = (
    "Live preview: this slice as segmented by the network so far, updated every few seconds and not saved."
)
OTHER_AXIS = "The live preview shows {} slices; change the orientation to see it."


class LivePreview:
    """Follows the view while a fine-tuning runs."""

    changed = Signal()
    """`status` has changed."""

    def __init__(self, workspace: Workspace, jobs: JobRunner) -> None:
        self.workspace, self.session, self.jobs = workspace, workspace.session, jobs
        self.status = ""
        """Message for the user while a fine-tuning runs."""
        self._axis: int | None = None
        """Canonical axis across the network's slices; None while unknown."""
        self._last_sent: SliceInView | None = None
        self._preview: np.ndarray | None = None
        """The copy that the layer shows; `_original` is restored at the end."""
        self._original: np.ndarray | None = None
        self._soon = qdebounced(self._follow, timeout=PAUSE_MS)
        for signal in (self.session.view_changed, self.session.scan_changed):
            signal.connect(self._schedule)
        self.session.job_changed.connect(self._on_job)
        workspace.predictions.changed.connect(self._update_status)
        jobs.started.connect(self._on_started)
        jobs.event_received.connect(self._on_event)

    def close(self) -> None:
        """Disconnect from the viewer and all listeners."""
        self.changed.disconnect()
        self._soon.cancel()

    # --- which slice ---------------------------------------------------------------------------------

    @property
    def _running(self) -> bool:
        return self.session.job.running and self.session.job.kind == "finetune"

    def _on_started(self) -> None:
        self._axis = self._last_sent = None
        self._follow()

    def _schedule(self) -> None:
        if self._running:
            self._soon()

    def _follow(self) -> None:
        """Tell the engine which slice is on the screen, if it is another one."""
        if self.session.closed or not self._running or self.session.scan is None:
            return
        position = self.workspace.slice_on_screen()
        if position is None or self._axis not in (None, position[0]):
            self._restore()  # in another orientation single slices look like stripes
        if position is not None:
            view = SliceInView(self.session.scan, *position)
            if view != self._last_sent:
                self.jobs.show(view)
            self._last_sent = view
        self._update_status()

    # --- what comes of it ----------------------------------------------------------------------------

    def _on_event(self, event: events.Event) -> None:
        if self.session.closed:
            return
        if isinstance(event, events.Started) and self._running:
            self._axis = event.plan.get("slice_axis")
            self._follow()
        elif isinstance(event, SlicePreview) and self._running:
            catch_errors(self.session, lambda: self._show(event))

    def _show(self, event: SlicePreview) -> None:
        position, shape = self.workspace.slice_on_screen(), self.session.need_scan().geometry.shape_zyx
        if event.scan != self.session.scan or position is None or position[0] != event.axis:
            return  # the view has moved on; the next preview follows
        new = event.labels()
        if not 0 <= event.index < shape[event.axis] or new.shape != tuple(np.delete(shape, event.axis)):
            return  # the scan has changed
        labels = self._preview_labels()
        plane = labels[(slice(None),) * event.axis + (event.index,)]
        unchanged = np.array_equal(plane, new)
        plane[...] = new
        layer, predictions = self.workspace.prediction_layer, self.workspace.predictions
        predictions.unfinished.add((event.axis, event.index))
        if layer is not None and position[1] == event.index and not unchanged:
            layer.refresh(extent=False, thumbnail=False, highlight=False)
        self._update_status()

    def _preview_labels(self) -> np.ndarray:
        """The labels that previews are put into: of what is shown, or empty ones."""
        predictions, layer = self.workspace.predictions, self.workspace.prediction_layer
        if self._preview is not None and layer is not None and layer.data is self._preview:
            return self._preview
        if layer is None or predictions.shown is None:
            self._original = None
            self._preview = np.zeros(self.session.need_scan().geometry.shape_zyx, np.uint8)
            predictions.show_labels(self._preview)
        else:
            self._original = layer.data
            self._preview = np.array(layer.data)
            layer.data = self._preview
        return self._preview

    def _on_job(self) -> None:
        if not self._running:
            self._axis = self._last_sent = None
            self._restore()
            self._update_status()

    def _restore(self) -> None:
        """Show what was there before, unless something else is shown by now."""
        preview, original, self._preview, self._original = self._preview, self._original, None, None
        predictions, layer = self.workspace.predictions, self.workspace.prediction_layer
        predictions.unfinished.clear()
        if preview is None or layer is None or layer.data is not preview:
            return
        if original is None:
            predictions.hide()
        else:
            layer.data = original

    def _update_status(self) -> None:
        status = ""
        if self._running and self._last_sent is not None and self._axis is not None:
            if self._last_sent.axis != self._axis:
                status = OTHER_AXIS.format(AXIS_NAMES[self._axis])
            elif self.workspace.predictions.unfinished:
                status = IN_PROGRESS
        if status != self.status:
            self.status = status
            self.changed.emit()
