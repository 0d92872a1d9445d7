"""Import of masks from other programs into an annotation: label values become classes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.labels import label_values
from medssl.core.labels.class_ids import ClassIds, map_values
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import LabelClass

ANISOTROPIC = 1.3
"""Ratio of spacings from which slices are taken to lie across the axis with the largest one."""
Completeness = Literal["labelled", "ends", "all", "none"]
"""Which slices of an imported mask become complete: those with labels, also the empty ones beyond both ends
of the labels, all, or none."""


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


def values_in(name: str, mask: np.ndarray) -> list[int]:
    """The labels of a mask.

    Args:
        name: Name of the mask for error messages.
        mask: Labels, any integer type (Z, Y, X).

    Raises:
        UserError: "empty-mask".
    """
    values = label_values(mask)
    if not values:
        raise UserError(f"{name} is empty (all its voxels are 0); choose another mask.", code="empty-mask")
    return values


def import_mask(
    mask: np.ndarray, annotation: Annotation, assigned: ClassIds, axis: int, complete: Completeness
) -> ImportedMask:
    """Import a mask into an annotation; voxels that are already annotated are kept.

    Args:
        mask: Labels on the grid of the annotation, any integer type (Z, Y, X).
        annotation: The annotation.
        assigned: Classes of the labels; labels without one are left out.
        axis: Canonical axis across the slices that become complete.
        complete: Slices that become complete.
    """
    labels = map_values(mask, assigned.ids)
    voxels = np.flatnonzero((labels != 0) & (annotation.labels == 0))
    slices = {*annotation.complete, *complete_slices(labels, axis, complete)}
    return ImportedMask(voxels, labels.reshape(-1)[voxels], assigned.classes, tuple(sorted(slices)))


def complete_slices(labels: np.ndarray, axis: int, complete: Completeness) -> set[tuple[int, int]]:
    """Slices of a mask that become complete, as (axis, index).

    Args:
        labels: Labels, any integer type (Z, Y, X).
        axis: Canonical axis across the slices.
        complete: Which slices.
    """
    labelled = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
    count = labels.shape[axis]
    indices: Collection[int] = labelled.tolist() if complete in ("labelled", "ends") else ()
    if complete == "all":
        indices = range(count)
    elif complete == "ends" and labelled.size:
        indices = [*range(labelled[0]), *indices, *range(labelled[-1] + 1, count)]
    return {(axis, int(index)) for index in indices}


def slice_axis(geometry: Geometry) -> int:
    """Canonical axis across the slices of a scan: that with the largest spacing, or else axial slices."""
    spacing = np.array(geometry.spacing_mm)
    return int(np.argmax(spacing)) if spacing.max() > ANISOTROPIC * spacing.min() else 0
