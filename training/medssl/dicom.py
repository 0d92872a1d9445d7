"""DICOM series and enhanced multi-frame files as volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from medssl.errors import UserError
from medssl.itk import from_itk


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark."""
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def series_in(folder: Path) -> dict[str, list[Path]]:
    """Series in a folder (not below it): instance UID -> files in slice order."""
    # GDCM warns on standard error about every foreign file; a folder may hold many.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageSeriesReader
    return {
        uid: [Path(name) for name in reader.GetGDCMSeriesFileNames(str(folder), uid)]
        for uid in reader.GetGDCMSeriesIDs(str(folder))
    }


def read_series(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (i, j, k) and RAS affine of the series in a folder, or of the one a file belongs to.

    Raises UserError ("unreadable", "several-series", "not-scalar", "uneven-slices", "unsupported").
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file() and _frames(path) > 1:
        files = [path]
    else:
        files = _series_of(path, series_in(folder))
    header = _header(files[0])
    if header.get("Modality") == "SEG":
        raise UserError(
            f"{path} is a DICOM segmentation, not a scan; choose the series it was made on.",
            code="unsupported",
        )
    if len(files) > 1:
        _check_even(path, files)
    try:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(each) for each in files])
        image = reader.Execute() if len(files) > 1 else sitk.ReadImage(str(files[0]))
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be read as DICOM ({str(error).strip().splitlines()[-1][:120]}); export the series anew.",
            code="unreadable",
        ) from error
    return from_itk(image, path)


def _series_of(path: Path, series: dict[str, list[Path]]) -> list[Path]:
    if path.is_file():
        for files in series.values():
            if path.resolve() in {each.resolve() for each in files}:
                return files
        if is_dicom(path):
            return [path]
        raise UserError(f"{path} is not DICOM; get the file anew.", code="unreadable")
    if not series:
        raise UserError(f"{path} holds no DICOM series; choose the folder with its files.", code="unreadable")
    if len(series) > 1:
        raise UserError(
            f"{path} holds {len(series)} DICOM series; move each into a folder of its own, or choose one file of it.",
            code="several-series",
        )
    return next(iter(series.values()))


def _header(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as DICOM ({error}); export it anew.", code="unreadable"
        ) from error


def _frames(path: Path) -> int:
    return int(_header(path).get("NumberOfFrames", 1) or 1) if is_dicom(path) else 1


def _check_even(path: Path, files: list[Path]) -> None:
    """Refuse series with missing, doubled or unevenly spaced slices: SimpleITK would squeeze them silently."""
    headers = [_header(each) for each in files]
    if any(
        "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header for header in headers
    ):
        raise UserError(
            f"{path} has slices without a position in the patient; export the series with its geometry.",
            code="uneven-slices",
        )
    row, column = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    places = np.array([np.dot(normal, np.array(header.ImagePositionPatient, float)) for header in headers])
    gaps = np.abs(np.diff(np.sort(places)))
    if len(gaps) and gaps.max() - gaps.min() > max(0.05 * float(np.median(gaps)), 0.02):
        raise UserError(
            f"{path} has slices {gaps.min():.2f} to {gaps.max():.2f} mm apart (some are missing, doubled or uneven); "
            "export the complete series.",
            code="uneven-slices",
        )
