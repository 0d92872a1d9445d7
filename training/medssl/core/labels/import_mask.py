"""Import of masks from other programs into an annotation: label values become classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.label_names import LabelTable
from medssl.core.io.labels import label_values
from medssl.core.labels.class_ids import assign_ids, map_values
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import LabelClass


@dataclass(frozen=True)
class ImportedMask:
    """Changes that a mask makes to an annotation.

    Attributes:
        voxels: (N,) flat indices into (Z, Y, X) of voxels that were not annotated before.
        labels: (N,) uint8 class ids of these voxels.
        classes: Classes that the project does not have yet, or has with another name or without a value.
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
    table: LabelTable | None = None,
    used: Collection[int] = (),
) -> ImportedMask:
    """Import a mask into an annotation; voxels that are already annotated are kept.

    Values that are no class of the project become new classes (class_ids.py).

    Args:
        name: Name of the mask for error messages.
        mask: Labels on the grid of the annotation, any integer type (Z, Y, X); 0 is background.
        classes: Classes of the project.
        complete_axis: Canonical axis; slices across it that contain foreground are marked complete.
        table: What the file of the mask says of its labels.
        used: Ids that no new class may have (`classes.used_ids`).

    Raises:
        UserError: "empty-mask", "too-many".
    """
    values = label_values(mask)
    if not values:
        raise UserError(f"{name} is empty (all its voxels are 0); choose another mask.", code="empty-mask")
    assigned = assign_ids(name, values, table or LabelTable(), classes, used=used)
    voxels = np.flatnonzero((mask != 0) & (annotation.labels == 0))
    labels = map_values(mask.reshape(-1)[voxels], assigned.ids)
    complete = set(annotation.complete)
    if complete_axis is not None:
        complete |= labelled_slices(mask, complete_axis)
    return ImportedMask(voxels, labels, assigned.classes, tuple(sorted(complete)))


def labelled_slices(mask: np.ndarray, axis: int) -> set[tuple[int, int]]:
    """Slices that contain foreground, as (axis, index).

    Args:
        mask: Labels, any integer type (Z, Y, X).
        axis: Canonical axis across which the slices lie.
    """
    has_foreground = mask.any(axis=tuple(other for other in range(3) if other != axis))
    return {(axis, int(index)) for index in np.flatnonzero(has_foreground)}
