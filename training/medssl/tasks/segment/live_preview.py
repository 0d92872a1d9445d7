"""Live preview: segmentation of the slice on the screen while a fine-tuning runs.

The moving average of the weights segments that slice before the first step and then every few seconds, sooner
when another slice is shown. This takes a small fraction of the training time and affects neither the weights
nor the random draws.

Labels are decided as in a whole scan (threshold.py), but from the adjacent slices and the annotated
orientation alone. Without the thresholds of the whole scan, the other orientations and the location prior,
the preview may differ slightly from the final prediction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medssl.core.errors import UserError
from medssl.core.events import Emit, SliceInView, SlicePreview
from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn import devices
from medssl.nn.models.unet import Network
from medssl.tasks.inference.predict import segment_work
from medssl.tasks.inference.slabs import halo, slab_of, work_of
from medssl.tasks.segment.validation_slice import TIME_FRACTION

EVERY_S = 2.0
"""Minimum interval in seconds between previews of the same slice."""
SCROLLING_TIME_FRACTION = 2 * TIME_FRACTION
"""Maximum fraction of the training time for previews while the slice changes; else TIME_FRACTION."""


class LivePreview:
    """Segments the slice on the screen, if it lies in the plan's orientation.

    Args:
        project: The project with the scans.
        class_ids: Ids of the network's classes.
        device: Where the network is.
        emit: Receives SlicePreview events.
        in_view: Returns the slice on the screen; None while it is unknown.
    """

    def __init__(
        self,
        project: Project,
        class_ids: Sequence[int],
        device: torch.device,
        emit: Emit,
        in_view: Callable[[], SliceInView | None],
    ) -> None:
        self._project, self._device, self._emit, self._in_view = project, device, emit, in_view
        self._ids = np.array([0, *class_ids], np.uint8)
        self._last: SliceInView | None = None
        self._segmented_at: float | None = None
        self._began, self._spent_s, self._last_duration_s = 0.0, 0.0, 0.0
        self._slab: tuple[SliceInView, Tensor, int] | None = None

    def update_when_due(self, network: Network, plan: Plan) -> None:
        """Emit a preview if one is due and the slice on the screen can be segmented."""
        view = self._in_view()
        now = time.monotonic()
        if view is None or not self._is_valid(view, plan) or not self._due(view, now):
            return
        first, self._last = self._segmented_at is None, view
        try:
            labels = self._segment(network, plan, view)
        except (UserError, OSError):  # the scan's file is missing: the training continues without previews
            labels = None
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            labels = None
        self._segmented_at = time.monotonic()
        if first:  # before any step, and slower than later ones: not counted
            self._began = self._segmented_at
        else:
            self._last_duration_s = self._segmented_at - now
            self._spent_s += self._last_duration_s
        if labels is not None:
            self._emit(SlicePreview.of(view, labels))

    def _is_valid(self, view: SliceInView, plan: Plan) -> bool:
        scan = self._project.scans.get(view.scan)
        if scan is None or view.axis != plan.slice_axis:
            return False
        return 0 <= view.index < scan.geometry.shape_zyx[view.axis]

    def _due(self, view: SliceInView, now: float) -> bool:
        if self._segmented_at is None:
            return True
        same = view == self._last
        max_fraction = TIME_FRACTION if same else SCROLLING_TIME_FRACTION
        if same and now - self._segmented_at < EVERY_S:
            return False
        return self._spent_s + self._last_duration_s <= max_fraction * (now - self._began)

    @devices.full_precision
    def _segment(self, network: Network, plan: Plan, view: SliceInView) -> np.ndarray:
        """Class ids of the slice, uint8 (rows, columns)."""
        spacing = self._project.scans[view.scan].geometry.spacing_mm
        work_spacing = [spacing[axis] for axis in plan.work_axes]
        if self._slab is None or self._slab[0] != view:
            work = work_of(self._project, view.scan, plan)
            margin = halo(plan, work_spacing)
            first, last = max(0, view.index - margin), min(len(work[0]), view.index + margin + 1)
            self._slab = view, slab_of(work, first, last, self._device), view.index - first
        _, slab, offset = self._slab
        labels = segment_work(network, replace(plan, multiplanar=False), slab, work_spacing, self._device)
        return self._ids[labels[offset].cpu().numpy()]
