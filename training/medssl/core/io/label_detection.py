"""Tell label volumes from images by their content, for files that are opened without a word about which."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from medssl.core.io.dicom_labels import dicom_labels_in
from medssl.core.io.labels import (
    LabelVolume,
    as_labels,
    count_values,
    read_labels,
    segments_of,
    whole_numbers,
)
from medssl.core.io.masks import has_mask_name
from medssl.core.io.volume import Volume, as_scan, catch_memory_error, read_scan, read_voxels

MAX_LABELS = 1000
"""More distinct values than in any atlas of labels; CT has thousands."""
MIN_CONSTANT_INSIDE, MIN_CONSTANT = 0.85, 0.15
"""Smallest share of equal values among neighbouring voxels: of pairs inside the foreground, and of all pairs
that touch it. Real label files reach 0.98 and 0.6; images stay below 0.75 inside, and sparse counts (nuclear
medicine), which are equal inside where they are mostly 1, stay below 0.12 of all pairs."""
MIN_CONSTANT_NAMED = 0.5
"""The same inside the foreground, for files whose name says that they are labels."""


@catch_memory_error
def read_scan_or_labels(path: Path) -> Volume | LabelVolume:
    """Read a file as labels if its content looks like labels, otherwise as a scan.

    Args:
        path: A file, or a DICOM folder.

    Returns:
        A `LabelVolume` or a `Volume`.

    Raises:
        UserError: Those of `read_scan` and `read_labels`.
    """
    path = Path(path)
    if path.name.lower().endswith((".seg.nrrd", ".seg.nhdr")) or _is_dicom_labels(path):
        return read_labels(path)
    reading = read_voxels(path, labels=True)
    array = reading.array
    is_mask = array.ndim == 4 and array.dtype.kind in "iubf" and bool(((array == 0) | (array == 1)).all())
    is_volume = array.ndim == 3 and min(array.shape) > 1
    if is_mask or (is_volume and looks_like_labels(array, path.name)):
        return as_labels(path, array, reading.geometry, segments_of(path))
    return as_scan(path, reading) if is_volume else read_scan(path)  # which says what is wrong


def _is_dicom_labels(path: Path) -> bool:
    file = dicom_labels_in(path)
    if file is None or file == path:
        return file is not None
    from medssl.core.io.read_dicom_seg import is_rtstruct

    return not is_rtstruct(file)  # which often lies beside the slices of its scan


def looks_like_labels(array: np.ndarray, name: str = "") -> bool:
    """Whether a volume has few distinct whole numbers that are constant over regions.

    Args:
        array: Values of a file (I, J, K).
        name: Name of the file, which may say that it holds labels.
    """
    step = max(1, array.shape[2] // 8)
    if array.dtype.kind != "b" and not _is_plausible(array[..., ::step]):
        return False  # most images end here, after a few of their slices
    try:
        labels, _ = whole_numbers(array)
    except ValueError:
        return False
    values, counts = count_values(labels)
    if not 2 <= len(values) <= MAX_LABELS:
        return False
    if len(values) == 2 and values[0] == 0:
        return True  # a mask
    inside, touching = _constancy(labels)
    if name and has_mask_name(Path(name)):
        return inside >= MIN_CONSTANT_NAMED
    return (inside >= MIN_CONSTANT_INSIDE and touching >= MIN_CONSTANT) or _is_scattered(
        values, counts, inside
    )


def _is_plausible(array: np.ndarray) -> bool:
    try:
        return len(count_values(whole_numbers(array)[0])[0]) <= MAX_LABELS
    except ValueError:
        return False


def _constancy(labels: np.ndarray) -> tuple[float, float]:
    """Share of equal neighbours, of pairs in the foreground and of pairs that touch it; 1 without pairs."""
    equal = inside = touching = 0
    foreground = np.ascontiguousarray(labels.T)[_box((labels != 0).T)]
    for axis in range(3):
        moved = np.moveaxis(foreground, axis, 0)
        first, second = moved[:-1] != 0, moved[1:] != 0
        equal += int(np.count_nonzero(first & (moved[:-1] == moved[1:])))
        inside += int(np.count_nonzero(first & second))
        touching += int(np.count_nonzero(first | second))
    return equal / inside if inside else 1.0, equal / touching if touching else 1.0


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of a mask that is not empty, with a margin of one voxel."""
    box = []
    for axis in range(3):
        indices = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(max(0, int(indices[0]) - 1), int(indices[-1]) + 2))
    return tuple(box)


def _is_scattered(values: np.ndarray, counts: np.ndarray, inside: float) -> bool:
    """Whether labels without any spatial order fill a part of the volume, each about as often as any other.

    No image has such a histogram, and grey values are similar where voxels are neighbours.
    """
    foreground = counts[1:]
    number = len(foreground)
    chi_square = float(((foreground - foreground.mean()) ** 2).sum() / foreground.mean())
    is_even = chi_square <= number + 5 * math.sqrt(2 * number)  # mean and five standard deviations
    is_unordered = inside <= 2 / number
    return bool(values[0] == 0 and counts[0] > foreground.sum() and is_even and is_unordered)
