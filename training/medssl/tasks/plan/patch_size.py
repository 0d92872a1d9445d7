"""Sizes of patches and batches: multiples of the network's strides, smaller ones where memory is short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.nn.shards import for_all


def smaller(plan: Plan, least_batch: int = 1) -> Plan | None:
    """Halve the batch or, where it would fall below `least_batch`, the sides of the patch.

    Each side of a patch remains at least two strides of the network long.

    Returns:
        The smaller plan; None if the patch cannot shrink further.
    """
    if plan.batch // 2 >= for_all(least_batch):
        return replace(plan, batch=plan.batch // 2)
    first = 3 - plan.dims
    total = [int(step) for step in np.prod(plan.strides, axis=0)]
    sides = [
        max(2 * step, length // 2 // step * step)
        for length, step in zip(plan.patch_vox[first:], total, strict=True)
    ]
    patch = (*plan.patch_vox[:first], *sides)
    return None if math.prod(patch) >= math.prod(plan.patch_vox) else replace(plan, patch_vox=patch)  # type: ignore[arg-type]


def in_words(plan: Plan) -> str:
    """The notice for a plan that was shrunk because memory did not suffice."""
    return f"Out of memory: training continues with a batch of {batch_text(plan)}."


def batch_text(plan: Plan) -> str:
    return f"{plan.batch} patches of {shape_text(plan.patch_vox)}"


def patch_of(
    settings: dict[str, Any], patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """The patch, or the one in `settings`, with sides that are multiples of the network's strides.

    In 2.5D the first number is the number of input slices, which must be odd so that one is in the middle.
    """
    requested = settings.get("patch", patch)
    if not (
        isinstance(requested, list | tuple)
        and len(requested) == 3
        and all(isinstance(n, int) for n in requested)
    ):
        raise UserError(f"patch is {requested!r}; write three whole numbers.", code="bad-job")
    total = [int(step) for step in np.prod(strides, axis=0)]
    if len(total) == 3:
        return tuple(
            side_of(length, step, length + 2 * step) for length, step in zip(requested, total, strict=True)
        )
    if requested[0] < 1 or requested[0] % 2 == 0:
        raise UserError(
            f"patch or context sets {requested[0]} input slices; write an odd number.", code="bad-job"
        )
    sides = zip(requested[1:], total, strict=True)
    return (requested[0], *(side_of(length, step, length + 2 * step) for length, step in sides))


def side_of(length: float, stride: int, longest: int) -> int:
    """A multiple of the stride, at least two, that covers a scan shorter than `longest`."""
    return int(min(max(2 * stride, -(-int(length) // stride) * stride), longest // stride * stride))


def strides_3d(spacing: np.ndarray, levels: int) -> tuple[tuple[int, ...], ...]:
    """Strides per level: an axis is halved only once the others have become as coarse (nnU-Net's rule)."""
    strides: list[tuple[int, ...]] = [(1, 1, 1)]
    level_spacing = spacing.astype(float).copy()
    for _ in range(levels - 1):
        step = np.where(level_spacing < 2 * level_spacing.min(), 2, 1)
        strides.append(tuple(int(stride) for stride in step))
        level_spacing = level_spacing * step
    return tuple(strides)


def shape_text(shape: Sequence[float]) -> str:
    return " x ".join(str(int(length)) for length in shape)
