"""Put labels onto the voxel grid of their scan, where each of their voxels is one of the scan's."""

from __future__ import annotations

import itertools

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry, size_text

TOLERANCE = 0.05
"""Largest distance of corresponding voxels, as a fraction of the smallest spacing."""


def on_grid(
    name: str, labels_zyx: np.ndarray, geometry: Geometry, scan: Geometry, is_segmentation: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pad or crop labels to the grid of a scan; nothing is resampled.

    The axis order of the files does not matter. Labels that begin at the same voxel as the scan and have
    another shape are refused, unless their format is one that crops: scans without a position all begin at
    one place, and the labels are probably those of another scan.

    Args:
        name: File or layer, for messages.
        labels_zyx: Labels, any integer type (Z, Y, X).
        geometry: Their grid.
        scan: Grid of the scan.
        is_segmentation: The format is known to cover a part of its scan only.

    Returns:
        Labels (Z, Y, X) of the scan's shape, and notes: what was padded or cropped.

    Raises:
        UserError: "other-grid"; the message says what differs.
    """
    if scan.same_grid(geometry, TOLERANCE):
        return labels_zyx, ()
    offset = _offset(geometry, scan)
    same_start = np.allclose(geometry.matrix, scan.matrix, rtol=0, atol=TOLERANCE * min(scan.spacing_mm))
    if offset is None or (same_start and not is_segmentation):
        raise _refused(name, geometry, scan)
    shape, own = np.array(scan.shape_zyx), np.array(labels_zyx.shape)
    is_inside = bool((offset >= 0).all() and (offset + own <= shape).all())
    covers_scan = bool((offset <= 0).all() and (offset + own >= shape).all())
    if not is_inside and not covers_scan and not is_segmentation:
        raise _refused(name, geometry, scan)
    lower, upper = np.maximum(offset, 0), np.minimum(offset + own, shape)
    if (lower >= upper).any():
        raise _refused(name, geometry, scan)
    result = np.zeros(scan.shape_zyx, labels_zyx.dtype)
    source = labels_zyx[_box(lower - offset, upper - offset)]
    result[_box(lower, upper)] = source
    lost = int(np.count_nonzero(labels_zyx)) - int(np.count_nonzero(source))
    verb = "padded" if is_inside else "cropped"
    note = f"{verb} from {size_text(labels_zyx.shape)} to the {size_text(shape)} voxels of the scan"
    return result, (note + (f", which leaves out {lost} labelled voxels" if lost else ""),)


def _offset(geometry: Geometry, scan: Geometry) -> np.ndarray | None:
    """Voxel of the scan at which labels begin, (3,) int; None if their voxels are not the scan's."""
    to_scan = np.linalg.inv(scan.canonical_affine) @ geometry.canonical_affine
    offset = np.round(to_scan[:3, 3]).astype(int)
    moved = scan.canonical_affine.copy()
    moved[:3, 3] += moved[:3, :3] @ offset
    corners = np.array(list(itertools.product(*[(0, length - 1) for length in geometry.shape_zyx], (1,))))
    difference = corners @ (moved - geometry.canonical_affine).T
    fits = np.linalg.norm(difference[:, :3], axis=1).max() <= TOLERANCE * min(scan.spacing_mm)
    return offset if fits else None


def _refused(name: str, labels: Geometry, scan: Geometry) -> UserError:
    return UserError(
        f"{name} lies on another voxel grid than the scan: {_difference(labels, scan)}; export it on that of "
        "the scan.",
        code="other-grid",
    )


def _difference(labels: Geometry, scan: Geometry) -> str:
    if labels.shape_zyx != scan.shape_zyx:
        return f"it has {size_text(labels.shape_zyx)} voxels, the scan {size_text(scan.shape_zyx)}"
    scan_mm, labels_mm = np.array(scan.spacing_mm), np.array(labels.spacing_mm)
    if np.abs(scan_mm - labels_mm).max() > 1e-3 * scan_mm.min():
        return (
            f"its voxels are {size_text(labels_mm.round(3))} mm, the scan's {size_text(scan_mm.round(3))} mm"
        )
    directions = scan.canonical_affine[:3, :3] / scan_mm, labels.canonical_affine[:3, :3] / labels_mm
    if np.abs(directions[0] - directions[1]).max() > 1e-3:
        return "its axes point in other directions"
    offset_mm = np.linalg.norm((scan.canonical_affine - labels.canonical_affine)[:3, 3])
    return f"it is shifted by {offset_mm:.1f} mm"


def _box(lower: np.ndarray, upper: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in zip(lower.tolist(), upper.tolist(), strict=True))
