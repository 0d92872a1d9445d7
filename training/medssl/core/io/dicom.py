"""DICOM series and enhanced multi-frame files as volumes.

SimpleITK decodes the pixels. Where the slices lie is worked out here from their own positions, because
ITK takes the first two and trusts that the others follow at right angles: a tilted gantry would be
straightened and a missing slice squeezed out without a word.
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

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of DICOM-SEG."""
UNEVEN = 0.1
"""How far a slice may be from its place in an even stack, in slice distances."""


@dataclass(frozen=True)
class Stack:
    """A series without its pixels: the slices' order, and where they lie."""

    files: list[Path]
    headers: list[pydicom.Dataset]
    """One for each file."""
    order: np.ndarray
    """(slices,) along the stack, which file is the slice; which frame of a multi-frame file's."""
    affine: np.ndarray
    """4 x 4 from (column, row, slice along the stack) to patient millimetres (right, anterior, superior)."""

    @property
    def multi_frame(self) -> bool:
        """Whether the slices are the frames of one file."""
        return _frames(self.headers[0]) > 1


@dataclass(frozen=True)
class Slice:
    """Where one slice lies, in DICOM's own (left, posterior, superior) millimetres."""

    origin: np.ndarray
    """(3,) centre of the first voxel."""
    across: np.ndarray
    """(3,) from a column to the next."""
    down: np.ndarray
    """(3,) from a row to the next."""


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark."""
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def series_in(folder: Path) -> list[list[Path]]:
    """DICOM images in a folder (not below it), the files of one series together, sorted by name.

    A multi-frame file is a series of its own. Reports, plans and segmentations are left out.

    Raises UserError ("unreadable") for a damaged file: leaving it out would leave a hole.
    """
    found: dict[str, list[Path]] = {}
    for path in _dicom_files(folder):
        header = _header(path)
        if "Rows" in header and not _is_segmentation(header):
            series = str(path) if _frames(header) > 1 else str(header.get("SeriesInstanceUID", ""))
            found.setdefault(series, []).append(path)
    return list(found.values())


def _dicom_files(folder: Path) -> list[Path]:
    files = (each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    return sorted(each for each in files if is_dicom(each) or each.suffix.lower() == ".dcm")


def read_series(path: Path) -> tuple[np.ndarray, Geometry]:
    """Array float32 (i, j, k) and geometry of the series in a folder, or of the one a file belongs to.

    A tilted gantry gives a sheared affine; nothing is resampled.

    Raises UserError ("unreadable", "unsupported", "several-series", "not-scalar", "not-3d",
    "uneven-slices").
    """
    stack = read_stack(path)
    if stack.multi_frame:
        pixels = _pixels(path, stack.files)[stack.order]
    else:
        pixels = _pixels(path, [stack.files[number] for number in stack.order])
    array = pixels.T
    return array, Geometry.of(stack.affine, array.shape)


def read_stack(path: Path) -> Stack:
    """The headers of the series in a folder, or of the one a file belongs to, and the slices' order.

    Raises UserError as `read_series`.
    """
    files = _files_of(path)
    headers = [_header(each) for each in files]
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
                f"{path} is a DICOM segmentation, not a scan; choose the series it was made on.",
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
        for lone in _dicom_files(path):
            return _files_of(lone)
        raise UserError(f"{path} holds no DICOM series; choose the folder with its files.", code="unreadable")
    if len(series) > 1:
        raise UserError(
            f"{path} holds {len(series)} DICOM series; choose one file of the series that is meant.",
            code="several-series",
        )
    return series[0]


def _header(path: Path) -> pydicom.Dataset:
    # Old files lack DICOM's mark; the ending has to do then.
    force = path.suffix.lower() == ".dcm"
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=force)
        if "SOPClassUID" not in header and "Rows" not in header:
            raise ValueError("no image and no kind of object in it")
        return header
    except (InvalidDicomError, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as DICOM ({error}); export it anew.", code="unreadable"
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
                f"{path} holds colours, not one grey value a voxel; choose the series it was made from.",
                code="not-scalar",
            )


def _slices_of_frames(path: Path, header: pydicom.Dataset) -> list[Slice]:
    """Slices of an enhanced multi-frame file, whose frames share some of what they say."""
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    scalings = set()
    slices = []
    for frame in frames:
        said = pydicom.Dataset()
        for name in (
            "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
            "PixelValueTransformationSequence",
        ):  # fmt: skip
            for item in [*(shared[0].get(name) or []), *(frame.get(name) or [])]:
                said.update(item)
        scalings.add((said.get("RescaleSlope"), said.get("RescaleIntercept")))
        slices.append(_slice(path, said, header))
    if len(slices) != _frames(header):
        raise UserError(
            f"{path} has several frames but does not say where each lies; export it as a series of slices.",
            code="unsupported",
        )
    if len(scalings) > 1:
        # GDCM would scale all frames as the first.
        raise UserError(
            f"{path} scales the grey values of its frames differently; export it as a series of slices.",
            code="unsupported",
        )
    return slices


def _slice(path: Path, place: pydicom.Dataset, header: pydicom.Dataset) -> Slice:
    try:
        origin = np.array(place.ImagePositionPatient, dtype=float)
        directions = np.array(place.ImageOrientationPatient, dtype=float).reshape(2, 3)
        between_rows, between_columns = (float(value) for value in place.PixelSpacing)
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise ValueError("no position")
    except (AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} has slices without a position, a direction or a pixel size; export the series with its "
            "geometry.",
            code="unsupported",
        ) from error
    return Slice(origin, directions[0] * between_columns, directions[1] * between_rows)


def _grid(path: Path, slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """The slices' order along the stack, and the affine (left, posterior, superior) of the stack.

    Raises UserError ("not-3d", "several-series", "uneven-slices", "bad-geometry").
    """
    if len(slices) < 2:
        raise UserError(
            f"{path} is a single slice; choose a series with the slices of a volume.", code="not-3d"
        )
    across, down = slices[0].across, slices[0].down
    normal = np.cross(across, down)
    if not np.linalg.norm(normal) > 0:
        raise UserError(f"{path} has a slice direction without a length; repair it.", code="bad-geometry")
    normal /= np.linalg.norm(normal)
    for each in slices:
        if not np.allclose([each.across, each.down], [across, down], rtol=0, atol=1e-3):
            raise _not_parallel(path)
    places = np.array([each.origin for each in slices])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    _check_even(path, places[order], heights[order])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across, down
    affine[:3, 2] = (places[order[-1]] - places[order[0]]) / (len(slices) - 1)
    affine[:3, 3] = places[order[0]]
    return order, affine


def _check_even(path: Path, places: np.ndarray, heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    middle = float(np.median(gaps))
    if gaps.min() <= 1e-3 * max(middle, 1.0):
        raise UserError(
            f"{path} has several images at one place (time points, echoes or doubled files); "
            "export one of them as a series of its own.",
            code="not-3d",
        )
    even = np.linspace(places[0], places[-1], len(places))
    if np.linalg.norm(places - even, axis=1).max() > UNEVEN * middle:
        raise UserError(
            f"{path} has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart (some are missing or unevenly "
            "spaced); export the complete series or resample it to even distances.",
            code="uneven-slices",
        )


def _not_parallel(path: Path) -> UserError:
    return UserError(
        f"{path} has slices of different direction or size (a localiser, or several scans in one series); "
        "choose a series of parallel slices.",
        code="several-series",
    )


def _pixels(path: Path, files: Sequence[Path]) -> np.ndarray:
    """Rescaled grey values, float32 (slice, row, column), in the order of files or frames."""
    names: Any = [str(each) for each in files]
    try:
        image = sitk.ReadImage(names if len(names) > 1 else names[0], sitk.sitkFloat32)
    except RuntimeError as error:
        raise UserError(
            f"{path} holds pixels that cannot be decoded ({str(error).strip().splitlines()[-1][:120]}); "
            "export the series anew, uncompressed.",
            code="unreadable",
        ) from error
    return sitk.GetArrayFromImage(image)
