"""Read DICOM-SEG (PS3.3 A.51): its frames are put in place by their own positions.

A segmentation may have frames for some slices of its series only, in any order, and its segments may overlap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import iter_pixels

from medssl.core.errors import UserError
from medssl.core.io.dicom_headers import SEGMENTATION, Slice, looks_like_dicom, slices_of
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.io.label_names import Segment

SEGMENTATIONS = (SEGMENTATION, "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: binary or fractional segments, and label maps."""
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class of contours (rtstruct.py)."""
TOLERANCE = 0.05
"""Largest distance of a frame from its slice, in slice spacings."""


def segmentation_in(path: Path) -> Path | None:
    """The DICOM-SEG or RTSTRUCT that a path is, or the only one in a folder; None for anything else."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file() and segmentation_in(file)]
        return files[0] if len(files) == 1 else None
    is_dicom = path.is_file() and looks_like_dicom(path)
    return path if is_dicom and _sop_class(path) in (*SEGMENTATIONS, RTSTRUCT) else None


def is_rtstruct(path: Path) -> bool:
    """Whether a DICOM file holds contours."""
    return _sop_class(path) == RTSTRUCT


def _sop_class(path: Path) -> str:
    return str(pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID"]).get("SOPClassUID"))


def referenced_series(path: Path) -> set[str]:
    """Series Instance UIDs of the images that a DICOM-SEG or RTSTRUCT refers to."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    series = list(header.get("ReferencedSeriesSequence") or ())
    for frame in header.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            series += study.get("RTReferencedSeriesSequence") or ()
    return {str(item.SeriesInstanceUID) for item in series}


def read_dicom_seg(
    path: Path, scan: Geometry | None = None
) -> tuple[np.ndarray, Geometry, tuple[Segment, ...], int, bool]:
    """Read a DICOM-SEG file.

    Args:
        path: The file.
        scan: Grid of the scan that was segmented; the distance of slices is taken from it where it fits.

    Returns:
        Segment numbers, uint8 or uint16 (I, J, K) = (column, row, slice), in the smallest stack of slices
        that contains all frames; its geometry; the segments; the number of voxels that lie in several
        segments, of which the last one is kept; whether fractions were cut at one half.

    Raises:
        UserError: "unsupported" for frames without a position, or of different directions or distances.
    """
    header = pydicom.dcmread(path)
    slices = slices_of(path, header)
    number_of_frame = [_segment_number(header, index) for index in range(len(slices))]
    affine, index = _grid(path, slices, scan)
    is_map = header.SOPClassUID == SEGMENTATIONS[1] or header.get("SegmentationType") == "LABELMAP"
    fractional = header.get("SegmentationType") == "FRACTIONAL"
    threshold = int(header.get("MaximumFractionalValue") or 255) / 2 if fractional else 0
    segments = tuple(_segment(item) for item in header.SegmentSequence if int(item.SegmentNumber) != 0)
    numbers = np.zeros((int(index.max()) + 1, header.Rows, header.Columns), np.uint16)
    overlap = 0
    order = np.argsort(number_of_frame, kind="stable").tolist()
    for frame, pixels in zip(order, iter_pixels(header, indices=order, raw=True), strict=True):
        plane, mask = numbers[index[frame]], pixels > threshold
        overlap += int(np.count_nonzero(plane[mask]))
        plane[mask] = pixels[mask] if is_map else number_of_frame[frame]
    array = numbers.T if numbers.max() > 255 else numbers.astype(np.uint8).T
    return array, Geometry.of(RAS_TO_LPS @ affine, array.shape), segments, overlap, fractional


def _segment_number(header: Any, frame: int) -> int:
    """Segment of a frame; 0 in label maps, whose pixels are segment numbers."""
    for groups in (
        header.PerFrameFunctionalGroupsSequence[frame],
        *(header.get("SharedFunctionalGroupsSequence") or ()),
    ):
        for item in groups.get("SegmentIdentificationSequence") or ():
            return int(item.ReferencedSegmentNumber)
    return 0


def _segment(item: Any) -> Segment:
    color, value = "", item.get("RecommendedDisplayCIELabValue")
    if value is not None:
        import highdicom  # takes a second

        color = "#" + "".join(
            f"{channel:02x}" for channel in highdicom.color.CIELabColor.from_dicom_value(value).to_rgb()
        )
    return Segment(int(item.SegmentNumber), str(item.get("SegmentLabel") or "").strip(), color)


def _grid(path: Path, slices: list[Slice], scan: Geometry | None) -> tuple[np.ndarray, np.ndarray]:
    """Affine in LPS coordinates (4, 4), and the slice of each frame, (frames,)."""
    first = slices[0]
    for item in slices:
        if not np.allclose(
            [item.column_step, item.row_step], [first.column_step, first.row_step], rtol=0, atol=1e-3
        ):
            raise _refused(path, "has frames of different directions")
    origins = np.array([item.origin for item in slices])
    for step in _slice_steps(first, origins, scan):
        along = (origins - first.origin) @ step / (step @ step)
        index = np.round(along)
        off = origins - first.origin - index[:, None] * step
        if np.linalg.norm(off, axis=1).max() <= TOLERANCE * np.linalg.norm(step):
            affine = np.eye(4)
            affine[:3, 0], affine[:3, 1], affine[:3, 2] = first.column_step, first.row_step, step
            affine[:3, 3] = first.origin + index.min() * step
            return affine, (index - index.min()).astype(int)
    raise _refused(path, "has frames that are not evenly spaced slices")


def _slice_steps(first: Slice, origins: np.ndarray, scan: Geometry | None) -> list[np.ndarray]:
    """Candidates for the vector from a slice to the next, in LPS coordinates, (3,) each, best first."""
    normal = np.cross(first.column_step, first.row_step)
    normal /= np.linalg.norm(normal)
    steps = []
    if scan is not None:
        axes = (RAS_TO_LPS @ scan.matrix)[:3, :3].T
        steps.append(max(axes, key=lambda axis: abs(axis @ normal) / np.linalg.norm(axis)))
    heights, order = np.unique(((origins - first.origin) @ normal).round(3), return_index=True)
    if len(heights) > 1:
        smallest = int(np.argmin(np.diff(heights)))
        steps.append(origins[order[smallest + 1]] - origins[order[smallest]])
    else:
        steps.append(normal * np.linalg.norm(first.row_step))  # a single slice, of unknown thickness
    return steps


def _refused(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} {what}; export the segmentation as a label map on the grid of its series.",
        code="unsupported",
    )
