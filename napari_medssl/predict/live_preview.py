"""The slice on the screen while a fine-tuning runs: what its network makes of it so far.

The engine is told which slice is on the screen and segments it every few seconds. Its answer is put into a
copy of the prediction that is shown: nothing of it is kept, exported or taken into the annotation. At the end
the new prediction takes its place; where there is none, what was there before comes back.
"""

from __future__ import annotations

import numpy as np
from medssl.core import events
from medssl.core.events import SliceInView, SlicePreview
from medssl.core.io.geometry import AXIS_NAMES
from psygnal import Signal
from superqt.utils import qdebounced

from napari_medssl.engine.child_process import Jobs
from napari_medssl.error_handling import guarded
from napari_medssl.workspace import Workspace

PAUSE_MS = 80
"""A slice that is scrolled past sooner is not asked for."""
MAKING = (
    "In the making: what the screen shows is what the network makes of this slice so far, renewed every few "
    "seconds and not saved."
)
OTHER_AXIS = "The network looks at {} slices: scroll through these to see what it makes of them so far."


class LivePreview:
    """Follows the view while a fine-tuning runs."""

    changed = Signal()
    """`words` are others."""

    def __init__(self, workspace: Workspace, jobs: Jobs) -> None:
        self.workspace, self.session, self.jobs = workspace, workspace.session, jobs
        self.words = ""
        """What is to be said of it, while a fine-tuning runs."""
        self._axis: int | None = None
        """Across the slices that the network looks at; None while it is not known."""
        self._told: SliceInView | None = None
        self._own: np.ndarray | None = None
        """The copy that the layer shows, and what it shows instead when this is over."""
        self._before: np.ndarray | None = None
        self._soon = qdebounced(self._follow, timeout=PAUSE_MS)
        for signal in (self.session.view_changed, self.session.scan_changed):
            signal.connect(self._later)
        self.session.job_changed.connect(self._on_job)
        workspace.predictions.changed.connect(self._speak)
        jobs.started.connect(self._begin)
        jobs.heard.connect(self._hear)

    def close(self) -> None:
        """Let the viewer go; whoever listened may be gone already."""
        self.changed.disconnect()
        self._soon.cancel()

    # --- which slice ---------------------------------------------------------------------------------

    @property
    def _running(self) -> bool:
        return self.session.job.running and self.session.job.kind == "finetune"

    def _begin(self) -> None:
        self._axis = self._told = None
        self._follow()

    def _later(self) -> None:
        if self._running:
            self._soon()

    def _follow(self) -> None:
        """Tell the engine which slice is on the screen, if it is another one."""
        if self.session.closed or not self._running or self.session.scan is None:
            return
        place = self.workspace.slice_on_screen()
        if place is None or self._axis not in (None, place[0]):
            self._take_back()  # from the side, single slices would look like stripes
        if place is not None:
            now = SliceInView(self.session.scan, *place)
            if now != self._told:
                self.jobs.show(now)
            self._told = now
        self._speak()

    # --- what comes of it ----------------------------------------------------------------------------

    def _hear(self, event: events.Event) -> None:
        if self.session.closed:
            return
        if isinstance(event, events.Started) and self._running:
            self._axis = event.plan.get("slice_axis")
            self._follow()
        elif isinstance(event, SlicePreview) and self._running:
            guarded(self.session, lambda: self._show(event))

    def _show(self, event: SlicePreview) -> None:
        place, shape = self.workspace.slice_on_screen(), self.session.need_scan().geometry.shape_zyx
        if event.scan != self.session.scan or place is None or place[0] != event.axis:
            return  # the view has gone on; the next one is under way
        new = event.labels()
        if not 0 <= event.index < shape[event.axis] or new.shape != tuple(np.delete(shape, event.axis)):
            return  # of a scan that was this one
        labels = self._copy()
        plane = labels[(slice(None),) * event.axis + (event.index,)]
        same = np.array_equal(plane, new)
        plane[...] = new
        layer, predictions = self.workspace.prediction_layer, self.workspace.predictions
        predictions.unfinished.add((event.axis, event.index))
        if layer is not None and place[1] == event.index and not same:
            layer.refresh(extent=False, thumbnail=False, highlight=False)
        self._speak()

    def _copy(self) -> np.ndarray:
        """The labels that previews are put into: of what is shown, or empty ones."""
        predictions, layer = self.workspace.predictions, self.workspace.prediction_layer
        if self._own is not None and layer is not None and layer.data is self._own:
            return self._own
        if layer is None or predictions.shown is None:
            self._before = None
            self._own = np.zeros(self.session.need_scan().geometry.shape_zyx, np.uint8)
            predictions.put(self._own)
        else:
            self._before = layer.data
            self._own = np.array(layer.data)
            layer.data = self._own
        return self._own

    def _on_job(self) -> None:
        if not self._running:
            self._axis = self._told = None
            self._take_back()
            self._speak()

    def _take_back(self) -> None:
        """Show what was there before, unless something else is shown by now."""
        own, before, self._own, self._before = self._own, self._before, None, None
        predictions, layer = self.workspace.predictions, self.workspace.prediction_layer
        predictions.unfinished.clear()
        if own is None or layer is None or layer.data is not own:
            return
        if before is None:
            predictions.hide()
        else:
            layer.data = before

    def _speak(self) -> None:
        words = ""
        if self._running and self._told is not None and self._axis is not None:
            if self._told.axis != self._axis:
                words = OTHER_AXIS.format(AXIS_NAMES[self._axis])
            elif self.workspace.predictions.unfinished:
                words = MAKING
        if words != self.words:
            self.words = words
            self.changed.emit()
