"""Multi-planar training: one 2.5D network sees slices across several axes (Perslev et al., MICCAI 2019).

Slices are annotated across one axis. Across another axis an annotated slice is a line; the loss uses
annotated voxels only, so a line trains the network as a slice does. Other planes show what the annotated one
hardly can, such as a border that lies in its plane or a slice unlike all annotated ones. This needs nearly
isotropic voxels: resliced thick slices are stripes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medssl.core.jobs import Plan
from medssl.nn.data.device_dataset import DeviceDataset

Order = tuple[int, int, int]
"""Permutation of the work order's axes; the first is the one across slices."""

OWN: Order = (0, 1, 2)
"""The annotated plane."""
ORDERS: tuple[Order, ...] = (OWN, (1, 0, 2), (2, 0, 1))
LEFT_RIGHT = 2
"""Canonical axis. Sagittal slices look the same on both sides, so they are used only if annotated."""
MAX_ANISOTROPY = 2.0
"""Largest ratio of a voxel's longest to its shortest edge for which other planes are used."""


def axis_orders(plan: Plan, spacing_mm: Sequence[float]) -> tuple[Order, ...]:
    """Axis orders in which the plan's network sees a scan, the annotated plane first.

    Args:
        plan: Says whether the network is 2.5D and multi-planar.
        spacing_mm: Spacing of the scan in work order.
    """
    if plan.dims == 3 or not plan.multiplanar or max(spacing_mm) > MAX_ANISOTROPY * min(spacing_mm):
        return (OWN,)
    return tuple(order for order in ORDERS if order == OWN or plan.work_axes[order[0]] != LEFT_RIGHT)


def reoriented(dataset: DeviceDataset, order: Order) -> DeviceDataset:
    """The dataset with its axes permuted; shares its tensors."""
    return replace(
        dataset,
        images=tuple(image.permute(order) for image in dataset.images),
        targets=tuple(target.permute(order) for target in dataset.targets),
        further=tuple(tuple(image.permute(order) for image in images) for images in dataset.further),
        spacing_mm=tuple(_permuted(spacing, order) for spacing in dataset.spacing_mm),
    )


def _permuted(values: Sequence[float], order: Order) -> tuple[float, float, float]:
    first, second, third = (values[axis] for axis in order)
    return first, second, third
