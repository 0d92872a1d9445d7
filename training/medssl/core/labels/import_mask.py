"""Import of masks from other programs into an annotation: same grid required, label values become classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.palette import class_color
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import LabelClass

MAX_CLASSES = 254
"""Classes of a project; ids 0 and 255 are reserved in annotations."""


@dataclass(frozen=True)
class ImportedMask:
    """Changes that a mask makes to an annotation.

    Attributes:
        voxels: (N,) flat indices into (Z, Y, X) of voxels that were not annotated before.
        labels: (N,) uint8 class ids of these voxels.
        classes: Classes that the project does not have yet.
        complete: (canonical axis, index) of all slices that are complete afterwards.
    """

    voxels: np.ndarray
    labels: np.ndarray
    classes: tuple[LabelClass, ...]
    complete: tuple[tuple[int, int], ...]


def import_mask(
    name: str,
    mask: np.ndarray,
    annotation: Annotation,
    classes: Sequence[LabelClass],
    complete_axis: int | None = None,
) -> ImportedMask:
    """Import a mask into an annotation; voxels that are already annotated are kept.

    A value of the mask that is a class id is imported as that class; any other value becomes a new class.

    Args:
        name: Name of the mask for error messages.
        mask: Labels on the grid of the annotation, any integer type (Z, Y, X); 0 is background.
        classes: Classes of the project.
        complete_axis: Canonical axis; slices across it that contain foreground are marked complete.

    Raises:
        UserError: "empty-mask", "too-many".
    """
    values = np.unique(mask)
    values = values[values != 0]
    if values.size == 0:
        raise UserError(f"{name} is empty (all its voxels are 0); choose another mask.", code="empty-mask")
    ids, new = _class_ids(name, values.tolist(), classes)
    voxels = np.flatnonzero((mask != 0) & (annotation.labels == 0))
    position = np.searchsorted(values, mask.reshape(-1)[voxels])
    labels = np.array([ids[value] for value in values.tolist()], np.uint8)[position]
    complete = set(annotation.complete)
    if complete_axis is not None:
        has_foreground = mask.any(axis=tuple(axis for axis in range(3) if axis != complete_axis))
        complete |= {(complete_axis, int(index)) for index in np.flatnonzero(has_foreground)}
    return ImportedMask(voxels, labels, new, tuple(sorted(complete)))


def _class_ids(
    name: str, values: Sequence[int], classes: Sequence[LabelClass]
) -> tuple[dict[int, int], tuple[LabelClass, ...]]:
    """Class id of every mask value, and the new classes; a value becomes its own id if that is free."""
    taken = {item.id for item in classes}
    ids = {value: value for value in values if value in taken}
    new = []
    for value in sorted(set(values) - taken):
        candidates = [value, *range(1, MAX_CLASSES + 1)]
        reserved = {other for other in values if other != value}
        chosen = next(
            (
                number
                for number in candidates
                if 1 <= number <= MAX_CLASSES and number not in taken | reserved
            ),
            None,
        )
        if chosen is None:
            raise UserError(
                f"{name} has {len(values)} labels, and a project has at most {MAX_CLASSES} classes; choose a "
                "mask with fewer.",
                code="too-many",
            )
        ids[value] = chosen
        taken.add(chosen)
        new.append(LabelClass(chosen, f"Label {value}", class_color(chosen)))
    return ids, tuple(new)


def check_same_grid(name: str, mask: Geometry, scan: Geometry) -> None:
    """Require that the canonical arrays of a mask and a scan coincide voxel by voxel.

    The axis order of the files does not matter.

    Raises:
        UserError: "other-grid"; the message says what differs.
    """
    if scan.same_grid(mask):
        return
    raise UserError(
        f"{name} is not on the voxel grid of the scan: {_difference(mask, scan)}; export it on that grid.",
        code="other-grid",
    )


def _difference(mask: Geometry, scan: Geometry) -> str:
    if mask.shape_zyx != scan.shape_zyx:
        return f"it has {_times(mask.shape_zyx)} voxels, the scan {_times(scan.shape_zyx)}"
    scan_mm, mask_mm = np.array(scan.spacing_mm), np.array(mask.spacing_mm)
    if np.abs(scan_mm - mask_mm).max() > 1e-3 * scan_mm.min():
        return f"its voxels are {_times(mask_mm.round(3))} mm, the scan's {_times(scan_mm.round(3))} mm"
    directions = scan.canonical_affine[:3, :3] / scan_mm, mask.canonical_affine[:3, :3] / mask_mm
    if np.abs(directions[0] - directions[1]).max() > 1e-3:
        return "its axes point in other directions"
    offset_mm = np.linalg.norm((scan.canonical_affine - mask.canonical_affine)[:3, 3])
    return f"it is shifted by {offset_mm:.1f} mm"


def _times(numbers: Sequence[float] | np.ndarray) -> str:
    return " × ".join(f"{number:g}" for number in numbers)
