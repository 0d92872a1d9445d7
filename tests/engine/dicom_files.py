"""Small DICOM series for tests, written by hand so that every position is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (6, 8, 10)
"""(slice, row, column) of the series that `write_series` makes unless told otherwise."""


def numbered(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Stored values (slice, row, column), every one different."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def write_slice(
    path: Path,
    pixels: np.ndarray,
    origin: Sequence[float],
    series: str,
    directions: Sequence[float] = (1, 0, 0, 0, 1, 0),
    pixel_spacing: Sequence[float] = (2.0, 1.5),
    **extra: Any,
) -> None:
    """One CT slice with its geometry in DICOM's terms; `extra` are further or other elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.SeriesInstanceUID = header.StudyInstanceUID = header.FrameOfReferenceUID = series
    header.Modality, header.PatientID = "CT", "test"
    header.Rows, header.Columns = pixels.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.ImagePositionPatient = [float(value) for value in origin]
    header.ImageOrientationPatient = [float(value) for value in directions]
    header.PixelSpacing = [float(value) for value in pixel_spacing]
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    for name, value in extra.items():
        setattr(header, name, value)
    header.PixelData = pixels.astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)


def write_series(
    folder: Path,
    pixels: np.ndarray | None = None,
    step: Sequence[float] = (0.0, 0.0, 3.0),
    series: str | None = None,
    names: Sequence[str] | None = None,
    skip: Sequence[int] = (),
    **extra: Any,
) -> None:
    """A series from (-50, -40, 100) mm on, one slice each `step` (left, posterior, superior) mm.

    names: file names in the order of the slices; skip: slices that are not written.
    """
    pixels = numbered() if pixels is None else pixels
    series = series or generate_uid()
    for number, image in enumerate(pixels):
        if number not in skip:
            name = names[number] if names else f"{number:03d}.dcm"
            origin = np.array([-50.0, -40.0, 100.0]) + number * np.array(step)
            write_slice(folder / name, image, origin, series, **extra)
