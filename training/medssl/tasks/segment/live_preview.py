"""The slice on the screen, segmented by the weights of a fine-tuning that is still running.

The moving average of the weights segments that slice before the first step and every few seconds from then
on, sooner when another slice comes on the screen. It takes a small share of the training's time and changes
nothing else of it: neither the weights nor what is drawn at random.

Labels are decided as in a whole scan (threshold.py), but from the slices around this one alone and from
the painted side: no more of a scan is looked at. The thresholds of a whole scan, its other sides and its
layout are missing, so the slice of the prediction at the end may differ a little.
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
from medssl.tasks.inference.predict import segment_work, slab_of
from medssl.tasks.segment.validation_slice import SHARE, radius

EVERY_S = 2.0
"""The same slice is not segmented sooner again."""
SCROLLING_SHARE = 2 * SHARE
"""Of the time of a training that previews may take while other slices come on the screen; else SHARE."""


class LivePreview:
    """Segments the slice that `in_view` names, where the network can: slices lie across the plan's axis."""

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
        self._looked_at: float | None = None
        self._began, self._spent_s, self._took_s = 0.0, 0.0, 0.0
        self._slab: tuple[SliceInView, Tensor, int] | None = None

    def update_when_due(self, network: Network, plan: Plan) -> None:
        """Emit a preview, unless it is too early for one or there is nothing to look at."""
        place = self._in_view()
        now = time.monotonic()
        if place is None or not self._known(place, plan) or not self._due(place, now):
            return
        first, self._last = self._looked_at is None, place
        try:
            labels = self._segment(network, plan, place)
        except (UserError, OSError):  # the scan's file is gone: the training goes on without it
            labels = None
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            labels = None
        self._looked_at = time.monotonic()
        if first:  # before any step; and it takes longer than those to come
            self._began = self._looked_at
        else:
            self._took_s = self._looked_at - now
            self._spent_s += self._took_s
        if labels is not None:
            self._emit(SlicePreview.of(place, labels))

    def _known(self, place: SliceInView, plan: Plan) -> bool:
        scan = self._project.scans.get(place.scan)
        if scan is None or place.axis != plan.slice_axis:
            return False
        return 0 <= place.index < scan.geometry.shape_zyx[place.axis]

    def _due(self, place: SliceInView, now: float) -> bool:
        if self._looked_at is None:
            return True
        same = place == self._last
        share = SHARE if same else SCROLLING_SHARE
        if same and now - self._looked_at < EVERY_S:
            return False
        return self._spent_s + self._took_s <= share * (now - self._began)

    @devices.full_precision
    def _segment(self, network: Network, plan: Plan, place: SliceInView) -> np.ndarray:
        """Class ids, uint8 (rows, columns)."""
        spacing = self._project.scans[place.scan].geometry.spacing_mm
        steps = [spacing[axis] for axis in plan.work_axes]
        if self._slab is None or self._slab[0] != place:
            work = np.transpose(self._project.image(place.scan), plan.work_axes)
            around = radius(plan, steps)
            first, last = max(0, place.index - around), min(len(work), place.index + around + 1)
            self._slab = place, slab_of(work, first, last, self._device), place.index - first
        _, slab, at = self._slab
        found = segment_work(network, replace(plan, multiplanar=False), slab, steps, self._device)
        return self._ids[found[at].cpu().numpy()]
