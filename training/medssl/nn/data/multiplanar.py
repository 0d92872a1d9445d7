"""Looking at a scan from several sides with one 2.5D network (multi-planar, Perslev et al., MICCAI 2019).

People paint slices across one axis. From another side a painted slice is a line, and the loss looks at
annotated voxels only, so lines teach as slices do; what the painted side can hardly tell, such as a border
that lies in its plane, or a slice that looks like none of those painted, another side sees. This needs
voxels that are nearly cubes: of thick slices the other sides show stripes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medssl.core.jobs import Plan
from medssl.nn.data.device_dataset import DeviceDataset

Order = tuple[int, int, int]
"""Axes of the work order with those across slices first: how a side sees slices, rows and columns."""

OWN: Order = (0, 1, 2)
ORDERS: tuple[Order, ...] = (OWN, (1, 0, 2), (2, 0, 1))
LEFT_RIGHT = 2
"""Canonical axis. Sagittal slices, in which both look the same, are left out unless people paint them."""
NEARLY_CUBES = 2.0
"""Longest over shortest edge of a voxel, up to which other sides are looked at."""


def axis_orders(plan: Plan, spacing_mm: Sequence[float]) -> tuple[Order, ...]:
    """From where the plan's network looks at a scan of this spacing (work order), the painted side first."""
    if plan.dims == 3 or not plan.multiplanar or max(spacing_mm) > NEARLY_CUBES * min(spacing_mm):
        return (OWN,)
    return tuple(order for order in ORDERS if order == OWN or plan.work_axes[order[0]] != LEFT_RIGHT)


def reoriented(dataset: DeviceDataset, order: Order) -> DeviceDataset:
    """The pool as seen from another side; shares its tensors."""
    return replace(
        dataset,
        images=tuple(image.permute(order) for image in dataset.images),
        targets=tuple(target.permute(order) for target in dataset.targets),
        spacing_mm=tuple(_in(order, spacing) for spacing in dataset.spacing_mm),
    )


def _in(order: Order, values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (values[axis] for axis in order)
    return first, second, third
