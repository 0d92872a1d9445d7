"""Looking at a scan from three sides with one 2.5D network (multi-planar, Perslev et al., MICCAI 2019).

People paint slices across one axis, so only that side can be learned from what they paint. Once guesses
label whole scans, the other two sides can be learned from these; what cannot be seen from the painted side,
such as a border that lies in its plane, is seen from another. This needs voxels that are nearly cubes: of
thick slices the other sides show stripes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medssl.config import Plan
from medssl.pool import Pool

Order = tuple[int, int, int]
"""Axes of the work order with those across slices first: how a side sees slices, rows and columns."""

OWN: Order = (0, 1, 2)
ALL: tuple[Order, ...] = (OWN, (1, 0, 2), (2, 0, 1))
NEARLY_CUBES = 2.0
"""Longest over shortest edge of a voxel, up to which other sides are looked at."""


def sides(plan: Plan, spacing_mm: Sequence[float]) -> tuple[Order, ...]:
    """From where the plan's network looks at a scan of this spacing (work order)."""
    if plan.dims == 2 and plan.sides > 1 and max(spacing_mm) <= NEARLY_CUBES * min(spacing_mm):
        return ALL
    return (OWN,)


def turned(pool: Pool, order: Order) -> Pool:
    """The pool as seen from another side; shares its tensors."""
    return replace(
        pool,
        images=tuple(image.permute(order) for image in pool.images),
        targets=tuple(target.permute(order) for target in pool.targets),
        spacing_mm=tuple(_in(order, spacing) for spacing in pool.spacing_mm),
    )


def _in(order: Order, values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (values[axis] for axis in order)
    return first, second, third
