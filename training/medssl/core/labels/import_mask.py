"""Masks made elsewhere, brought into an annotation: onto the same grid, with classes for their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.palette import class_color
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import LabelClass

MOST = 254
"""Classes of a project; ids 0 and 255 mean something else in annotations."""


@dataclass(frozen=True)
class Brought:
    """What an annotation takes from a mask.

    voxels: (N,) flat indices into (Z, Y, X) that nobody had painted; labels: (N,) uint8, their classes' ids.
    classes: those that the project has not yet; complete: all slices that are complete afterwards.
    """

    voxels: np.ndarray
    labels: np.ndarray
    classes: tuple[LabelClass, ...]
    complete: tuple[tuple[int, int], ...]


def bring(
    name: str,
    mask: np.ndarray,
    annotation: Annotation,
    classes: Sequence[LabelClass],
    complete_axis: int | None = None,
) -> Brought:
    """What to take of a mask (Z, Y, X), whole numbers, on the annotation's own grid: strokes win.

    A number that is a class's id is that class; any other becomes a class of its own.

    complete_axis: slices across this axis that show something are complete from then on.

    Raises UserError ("empty-mask", "too-many").
    """
    numbers = np.unique(mask)
    numbers = numbers[numbers != 0]
    if numbers.size == 0:
        raise UserError(
            f"{name} marks nothing (all its voxels are 0); choose another mask.", code="empty-mask"
        )
    ids, new = _ids(name, numbers.tolist(), classes)
    voxels = np.flatnonzero((mask != 0) & (annotation.labels == 0))
    position = np.searchsorted(numbers, mask.reshape(-1)[voxels])
    labels = np.array([ids[number] for number in numbers.tolist()], np.uint8)[position]
    complete = set(annotation.complete)
    if complete_axis is not None:
        shown = mask.any(axis=tuple(axis for axis in range(3) if axis != complete_axis))
        complete |= {(complete_axis, int(index)) for index in np.flatnonzero(shown)}
    return Brought(voxels, labels, new, tuple(sorted(complete)))


def _ids(
    name: str, numbers: Sequence[int], classes: Sequence[LabelClass]
) -> tuple[dict[int, int], tuple[LabelClass, ...]]:
    """The class id of every number, and the classes that are new; a number keeps its value where it can."""
    taken = {each.id for each in classes}
    ids = {number: number for number in numbers if number in taken}
    new = []
    for number in sorted(set(numbers) - taken):
        free = [number, *range(1, MOST + 1)]
        later = {each for each in numbers if each != number}
        chosen = next((each for each in free if 1 <= each <= MOST and each not in taken | later), None)
        if chosen is None:
            raise UserError(
                f"{name} has {len(numbers)} labels, and a project has at most {MOST} classes; choose a mask "
                "with fewer.",
                code="too-many",
            )
        ids[number] = chosen
        taken.add(chosen)
        new.append(LabelClass(chosen, f"Label {number}", class_color(chosen)))
    return ids, tuple(new)


def need_same_grid(name: str, mask: Geometry, scan: Geometry) -> None:
    """The mask's canonical array lies on the scan's voxel by voxel, whatever the order of the files' axes.

    Raises UserError ("other-grid") that says what differs.
    """
    if scan.same_grid(mask):
        return
    raise UserError(
        f"{name} does not lie on the scan's own voxels: {_difference(mask, scan)}; export it on the grid "
        "of this scan.",
        code="other-grid",
    )


def _difference(mask: Geometry, scan: Geometry) -> str:
    if mask.shape_zyx != scan.shape_zyx:
        return f"it has {_times(mask.shape_zyx)} voxels, the scan {_times(scan.shape_zyx)}"
    ours, theirs = np.array(scan.spacing_mm), np.array(mask.spacing_mm)
    if np.abs(ours - theirs).max() > 1e-3 * ours.min():
        return f"its voxels are {_times(theirs.round(3))} mm, the scan's {_times(ours.round(3))} mm"
    columns = scan.canonical_affine[:3, :3] / ours, mask.canonical_affine[:3, :3] / theirs
    if np.abs(columns[0] - columns[1]).max() > 1e-3:
        return "its axes point in other directions"
    away = np.linalg.norm((scan.canonical_affine - mask.canonical_affine)[:3, 3])
    return f"it lies {away:.1f} mm away"


def _times(numbers: Sequence[float] | np.ndarray) -> str:
    return " × ".join(f"{number:g}" for number in numbers)
