"""Read DICOM series and enhanced multi-frame files as volumes.

SimpleITK decodes the pixels. The geometry is computed here from the position of every slice, because ITK uses
the first two only and assumes an even, rectangular stack: it would silently straighten a tilted gantry and
close the gap of a missing slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from medssl.core.errors import UserError
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.io.intensity import DICOM_MODALITIES
from medssl.core.io.reading import Reading

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of DICOM-SEG."""
MAX_DEVIATION = 0.1
"""Largest allowed distance of a slice from its position in an even stack, in slice spacings."""


@dataclass(frozen=True)
class Stack:
    """Order and positions of the slices of a series, without pixels."""

    files: list[Path]
    headers: list[pydicom.Dataset]
    """One per file."""
    order: np.ndarray
    """(slices,) index of the file, or of the frame of a multi-frame file, of each slice along the stack."""
    affine: np.ndarray
    """(4, 4) from (column, row, slice along the stack) to patient coordinates in mm (right, anterior,
    superior)."""

    @property
    def multi_frame(self) -> bool:
        """Whether the slices are the frames of one file."""
        return _frames(self.headers[0]) > 1


@dataclass(frozen=True)
class Slice:
    """Position of one slice in DICOM patient coordinates in mm (left, posterior, superior)."""

    origin: np.ndarray
    """(3,) centre of the first voxel."""
    column_step: np.ndarray
    """(3,) vector from a column to the next."""
    row_step: np.ndarray
    """(3,) vector from a row to the next."""


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM magic number."""
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def series_in(folder: Path) -> list[list[Path]]:
    """DICOM images in a folder (not in subfolders), one list per series, sorted by name.

    A multi-frame file is a series of its own. Reports, plans and segmentations are skipped.

    Raises:
        UserError: "unreadable" for a damaged file, because skipping it would leave a gap.
    """
    groups: dict[str, list[Path]] = {}
    for path in _dicom_files(folder):
        header = _header(path)
        if "Rows" in header and not _is_segmentation(header):
            series = str(path) if _frames(header) > 1 else str(header.get("SeriesInstanceUID", ""))
            groups.setdefault(series, []).append(path)
    return list(groups.values())


def _dicom_files(folder: Path) -> list[Path]:
    files = (entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    return sorted(file for file in files if is_dicom(file) or file.suffix.lower() == ".dcm")


def read_series(path: Path) -> Reading:
    """Read the series in a folder, or the one that a file belongs to.

    A tilted gantry gives a sheared affine; nothing is resampled.

    Returns:
        Rescaled grey values, float32 (I, J, K) = (column, row, slice), their geometry and modality.

    Raises:
        UserError: "unreadable", "unsupported", "several-series", "not-scalar", "not-3d", "uneven-slices",
            "bad-geometry".
    """
    stack = read_stack(path)
    if stack.multi_frame:
        pixels = _pixels(path, stack.files)[stack.order]
    else:
        pixels = _pixels(path, [stack.files[number] for number in stack.order])
    array = pixels.T
    modality = DICOM_MODALITIES.get(str(stack.headers[0].get("Modality")), "")
    return Reading(array, Geometry.of(stack.affine, array.shape), modality)


def read_stack(path: Path) -> Stack:
    """Read headers and slice order as `read_series` does, with the same errors, but no pixels."""
    files = _files_of(path)
    headers = [_header(file) for file in files]
    _check_scalar(path, headers)
    if _frames(headers[0]) > 1:
        slices = _slices_of_frames(path, headers[0])
    else:
        if len({(header.Rows, header.Columns) for header in headers}) > 1:
            raise _not_parallel(path)
        slices = [_slice(path, header, header) for header in headers]
    order, affine = _grid(path, slices)
    return Stack(files, headers, order, RAS_TO_LPS @ affine)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        header = _header(path)
        if _is_segmentation(header):
            raise UserError(
                f"{path} is a DICOM segmentation, not a scan; choose the series that it refers to.",
                code="unsupported",
            )
        if "Rows" not in header:
            raise UserError(
                f"{path} is DICOM without an image; choose a CT or MR series.", code="unsupported"
            )
        if _frames(header) > 1:
            return [path]
        return next((files for files in series_in(path.parent) if path in files), [path])
    series = series_in(path)
    if not series:
        for file in _dicom_files(path):
            return _files_of(file)
        raise UserError(f"{path} holds no DICOM series; choose the folder with its files.", code="unreadable")
    if len(series) > 1:
        raise UserError(
            f"{path} holds {len(series)} DICOM series; choose one file of the series that you want.",
            code="several-series",
        )
    return series[0]


def _header(path: Path) -> pydicom.Dataset:
    # Old files lack the magic number and are recognised by their extension.
    force = path.suffix.lower() == ".dcm"
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=force)
        if "SOPClassUID" not in header and "Rows" not in header:
            raise ValueError("it has neither an image nor a SOP class")
        return header
    except (InvalidDicomError, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as DICOM ({error}); export it again.", code="unreadable"
        ) from error


def _is_segmentation(header: pydicom.Dataset) -> bool:
    return header.get("SOPClassUID") == SEGMENTATION or header.get("Modality") == "SEG"


def _frames(header: pydicom.Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _check_scalar(path: Path, headers: Sequence[pydicom.Dataset]) -> None:
    for header in headers:
        if int(header.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in str(
            header.get("PhotometricInterpretation")
        ):
            raise UserError(
                f"{path} holds colours, not one grey value per voxel; choose the original series.",
                code="not-scalar",
            )


def _slices_of_frames(path: Path, header: pydicom.Dataset) -> list[Slice]:
    """Slices of an enhanced multi-frame file, whose frames share some of their attributes."""
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    scalings = set()
    slices = []
    for frame in frames:
        attributes = pydicom.Dataset()
        for name in (
            "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
            "PixelValueTransformationSequence",
        ):  # fmt: skip
            for item in [*(shared[0].get(name) or []), *(frame.get(name) or [])]:
                attributes.update(item)
        scalings.add((attributes.get("RescaleSlope"), attributes.get("RescaleIntercept")))
        slices.append(_slice(path, attributes, header))
    if len(slices) != _frames(header):
        raise UserError(
            f"{path} has several frames but not the position of each; export it as a series of slices.",
            code="unsupported",
        )
    if len(scalings) > 1:
        # GDCM would scale all frames like the first one.
        raise UserError(
            f"{path} scales the grey values of its frames differently; export it as a series of slices.",
            code="unsupported",
        )
    return slices


def _slice(path: Path, plane: pydicom.Dataset, header: pydicom.Dataset) -> Slice:
    try:
        origin = np.array(plane.ImagePositionPatient, dtype=float)
        directions = np.array(plane.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_mm, column_mm = (float(value) for value in plane.PixelSpacing)
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise ValueError("no position")
        if not (0 < row_mm < np.inf and 0 < column_mm < np.inf):
            raise ValueError("no pixel size")
    except (AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} has slices without a position, a direction or a pixel size; export the series with its "
            "geometry.",
            code="unsupported",
        ) from error
    return Slice(origin, directions[0] * column_mm, directions[1] * row_mm)


def _grid(path: Path, slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Order of the slices along the stack, (slices,), and its affine in LPS coordinates, (4, 4)."""
    if len(slices) < 2:
        raise UserError(
            f"{path} is a single slice; choose a series with the slices of a volume.", code="not-3d"
        )
    column_step, row_step = slices[0].column_step, slices[0].row_step
    normal = np.cross(column_step, row_step)
    if not np.linalg.norm(normal) > 0:
        raise UserError(f"{path} has a slice axis of length zero; export it again.", code="bad-geometry")
    normal /= np.linalg.norm(normal)
    for item in slices:
        if not np.allclose([item.column_step, item.row_step], [column_step, row_step], rtol=0, atol=1e-3):
            raise _not_parallel(path)
    origins = np.array([item.origin for item in slices])
    heights = origins @ normal
    order = np.argsort(heights, kind="stable")
    _check_even(path, origins[order], heights[order])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = column_step, row_step
    affine[:3, 2] = (origins[order[-1]] - origins[order[0]]) / (len(slices) - 1)
    affine[:3, 3] = origins[order[0]]
    return order, affine


def _check_even(path: Path, origins: np.ndarray, heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    median = float(np.median(gaps))
    if gaps.min() <= 1e-3 * max(median, 1.0):
        raise UserError(
            f"{path} has several images at the same position (time points, echoes or duplicated files); "
            "export one of them as a separate series.",
            code="not-3d",
        )
    even = np.linspace(origins[0], origins[-1], len(origins))
    if np.linalg.norm(origins - even, axis=1).max() > MAX_DEVIATION * median:
        raise UserError(
            f"{path} has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart (some are missing or unevenly "
            "spaced); export the complete series or resample it to even spacing.",
            code="uneven-slices",
        )


def _not_parallel(path: Path) -> UserError:
    return UserError(
        f"{path} has slices of different orientation or size (a localiser, or several scans in one series); "
        "choose a series of parallel slices.",
        code="several-series",
    )


def _pixels(path: Path, files: Sequence[Path]) -> np.ndarray:
    """Rescaled grey values, float32 (slice, row, column), in the order of files or frames."""
    names: Any = [str(file) for file in files]
    try:
        image = sitk.ReadImage(names if len(names) > 1 else names[0], sitk.sitkFloat32)
    except RuntimeError as error:
        raise UserError(
            f"{path} holds pixels that cannot be decoded ({str(error).strip().splitlines()[-1][:120]}); "
            "export the series again, uncompressed.",
            code="unreadable",
        ) from error
    return sitk.GetArrayFromImage(image)
