"""Labels in DICOM: segmentations (read_dicom_seg.py) and contours (rtstruct.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.labels import LabelVolume, as_labels, overlap_note
from medssl.core.io.volume import is_series


def dicom_labels_in(path: Path) -> Path | None:
    """The DICOM-SEG or RTSTRUCT file that a path is, or the only one in a folder; None for others."""
    if not path.exists() or not is_series(path):
        return None
    from medssl.core.io.read_dicom_seg import segmentation_in  # loads SimpleITK

    return segmentation_in(path)


def read_dicom_labels(file: Path, scan: Geometry | None) -> LabelVolume:
    """Read a file of `dicom_labels_in`.

    Args:
        file: The file.
        scan: Grid of the scan; contours are put onto it, segments keep their own grid.

    Raises:
        UserError: "no-grid" for contours without a scan, and those of `read_dicom_seg` and `read_rtstruct`.
    """
    from medssl.core.io.read_dicom_seg import is_rtstruct, read_dicom_seg

    if is_rtstruct(file):
        return _read_contours(file, scan)
    array, geometry, segments, overlap, fractional = read_dicom_seg(file, scan)
    notes = overlap_note(overlap) + (
        ("fractions from one half on taken as the segment",) if fractional else ()
    )
    return replace(as_labels(file, array, geometry, segments), notes=notes, is_segmentation=True)


def _read_contours(file: Path, scan: Geometry | None) -> LabelVolume:
    from medssl.core.io.rtstruct import read_rtstruct

    if scan is None:
        raise UserError(
            f"{file} holds contours, which have no voxels of their own; import it as a mask of its scan.",
            code="no-grid",
        )
    array, segments, overlap, empty = read_rtstruct(file, scan)
    notes = [f"{overlap} voxels are in several structures and belong to the smallest"] if overlap else []
    notes += [f"left out without closed contours: {', '.join(empty)}"] if empty else []
    labels = as_labels(file, scan.to_source(array), scan, segments)
    return replace(labels, notes=tuple(notes), is_segmentation=True)
