"""Read the contours of an RTSTRUCT (PS3.3 A.19) as labels on the grid of its scan.

A voxel belongs to a structure if its centre lies inside of an odd number of the structure's contours in the
plane, so that an inner contour is a hole. A slice takes the nearest plane of contours within half a slice.
Where contours are drawn on every second or third slice, shape-based interpolation fills those between; a
wider gap than usual stays empty, as between two parts of a structure. Structures often enclose each other
(the body and its organs): where they overlap, the smaller one is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import check_readable
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.io.label_names import Segment
from medssl.core.labels.rasterize import polygon_mask

MAX_TILT = 0.25
"""Largest extent of a contour across its slice, and of a plane of contours, in slices."""
MAX_GAP = 1.5
"""Largest distance of planes that is filled, relative to the usual one of the structure."""
Planes = dict[float, np.ndarray]
"""Masks by position across the slices, in slices: bool (rows, columns)."""


def read_rtstruct(path: Path, scan: Geometry) -> tuple[np.ndarray, tuple[Segment, ...], int, tuple[str, ...]]:
    """Read an RTSTRUCT file.

    Args:
        path: The file.
        scan: Grid of the scan on which the contours were drawn.

    Returns:
        Labels from 1 on in the order of the file, uint16 (Z, Y, X); the structures; the number of voxels that
        lie in several of them; names of structures without closed contours, which are left out.

    Raises:
        UserError: "unreadable"; "other-grid" for contours outside of the scan, or across its slices.
    """
    structures = _structures(path, scan)
    result = np.zeros(scan.shape_zyx, np.uint16)
    overlap = 0
    drawn = [(label, contours) for label, (_, contours) in enumerate(structures, 1) if contours]
    for label, contours in sorted(drawn, key=lambda item: -sum(map(_extent, item[1]))):
        axis, planes = _planes(path, contours, scan)
        slices = np.moveaxis(result, axis, 0)
        spacing = [mm for other, mm in enumerate(scan.spacing_mm) if other != axis]
        for index, mask in _slices(planes, len(slices), spacing):
            overlap += int(np.count_nonzero(slices[index][mask]))
            slices[index][mask] = label
    if not result.any():
        raise UserError(
            f"{path} has no closed contour inside of the scan; choose the structure set that was drawn on "
            "it.",
            code="other-grid",
        )
    empty = tuple(segment.name for segment, contours in structures if not contours)
    return result, tuple(segment for segment, _ in structures), overlap, empty


def _structures(path: Path, scan: Geometry) -> list[tuple[Segment, list[np.ndarray]]]:
    """Each structure with its closed contours in voxels of the scan, (N, 3) along (z, y, x)."""
    import pydicom

    to_voxels = np.linalg.inv(RAS_TO_LPS @ scan.canonical_affine)
    try:
        header = pydicom.dcmread(path, force=True)
        by_number = {int(item.ReferencedROINumber): item for item in header.get("ROIContourSequence") or ()}
        structures = []
        for label, roi in enumerate(header.get("StructureSetROISequence") or (), 1):
            drawn = by_number.get(int(roi.ROINumber), pydicom.Dataset())
            name = str(roi.get("ROIName") or "").strip()
            segment = Segment(label, name or f"ROI {roi.ROINumber}", _color(drawn.get("ROIDisplayColor")))
            structures.append((segment, list(_contours(drawn, to_voxels))))
        return structures
    except Exception as error:  # damaged files make the library raise all kinds of exceptions
        check_readable(path, error)
        raise UserError(
            f"{path} cannot be read as an RTSTRUCT ({error}); export it again.", code="unreadable"
        ) from error


def _contours(drawn: Any, to_voxels: np.ndarray) -> Iterator[np.ndarray]:
    for item in drawn.get("ContourSequence") or ():
        if str(item.get("ContourGeometricType")) in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
            points = np.array(item.ContourData, float).reshape(-1, 3)
            if len(points) > 2:
                yield points @ to_voxels[:3, :3].T + to_voxels[:3, 3]


def _color(value: Sequence[Any] | None) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in value) if value and len(value) == 3 else ""


def _extent(contour: np.ndarray) -> float:
    """Area of the box around a contour, in voxel faces: it orders structures by size."""
    return float(np.prod(np.sort(np.ptp(contour, axis=0))[1:]))


def _planes(path: Path, contours: list[np.ndarray], scan: Geometry) -> tuple[int, Planes]:
    """Canonical axis across the contours of a structure, and its masks."""
    extents = np.array([np.ptp(contour, axis=0) for contour in contours])
    axis = int(np.median(extents, axis=0).argmin())
    if extents[:, axis].max() > MAX_TILT:
        raise UserError(
            f"{path} has contours that do not lie in slices of the scan; choose the scan on which they were "
            "drawn.",
            code="other-grid",
        )
    rows, columns = (other for other in range(3) if other != axis)
    shape = scan.shape_zyx[rows], scan.shape_zyx[columns]
    planes: Planes = {}
    last = -math.inf
    for position, contour in sorted(
        ((float(contour[:, axis].mean()), contour) for contour in contours), key=lambda item: item[0]
    ):
        if position - last > MAX_TILT:
            last = position
        mask = planes.setdefault(last, np.zeros(shape, bool))
        mask ^= polygon_mask(contour[:, [rows, columns]], shape)
    return axis, planes


def _slices(planes: Planes, count: int, spacing_mm: Sequence[float]) -> Iterator[tuple[int, np.ndarray]]:
    """The slices that a structure fills, with its mask in each, bool (rows, columns)."""
    from medssl.core.labels.shape_interpolation import distance_pair  # imported late: it needs io

    positions = np.array(sorted(planes))
    usual = float(np.median(np.diff(positions))) if len(positions) > 1 else 1.0
    first, end = math.ceil(positions[0] - 0.5), math.ceil(positions[-1] + 0.5)
    for index in range(max(0, first), min(count, end)):
        nearest = float(positions[np.abs(positions - index).argmin()])
        if abs(nearest - index) <= 0.5:
            yield index, planes[nearest]
            continue
        above = int(np.searchsorted(positions, index))
        low, high = float(positions[above - 1]), float(positions[above])
        if high - low <= MAX_GAP * usual:
            start, last = distance_pair(planes[low], planes[high], spacing_mm)
            weight = (index - low) / (high - low)
            yield index, (1 - weight) * start + weight * last > 0
