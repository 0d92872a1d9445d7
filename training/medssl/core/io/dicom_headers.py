"""Headers of DICOM files: which hold slices of a scan, where these lie, and what the others are.

Only the elements that sorting needs are read, and no pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medssl.core.errors import UserError
from medssl.core.files import check_readable
from medssl.core.io.compressed import MAX_COMPRESSION

DICOMDIR = "1.2.840.10008.1.3.10"
"""SOP class of the index of a medium."""
UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
"""Transfer syntaxes with pixels as they are."""
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of DICOM-SEG."""
NO_SCANS = ("RTDOSE", "RTIMAGE", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "PR", "KO", "SR", "DOC")
"""Modalities of objects that are no scans, some of them with pixels."""
GEOMETRY_GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)  # fmt: skip
"""Functional groups of an enhanced file that place and scale a frame."""
VALUES = (
    "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "StudyDate", "Modality", "SeriesDescription",
    "SeriesNumber", "ImageType", "InstanceNumber", "PhotometricInterpretation", "AcquisitionNumber",
    "EchoTime", "EffectiveEchoTime", "EchoNumbers", "DiffusionBValue", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "StackID", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel",
    "NominalPercentageOfCardiacPhase", "TriggerTime", "AcquisitionTime", "ContentTime",
)  # fmt: skip
"""Elements that tell images apart."""
TAGS = (
    *VALUES, "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """Position of one slice in DICOM patient coordinates in mm (left, posterior, superior)."""

    origin: np.ndarray
    """(3,) centre of the first voxel."""
    column_step: np.ndarray
    """(3,) vector from a column to the next."""
    row_step: np.ndarray
    """(3,) vector from a row to the next."""


@dataclass(frozen=True, eq=False)
class DicomImage:
    """What sorting needs of a file: one slice, or the frames of an enhanced file."""

    file: Path
    slices: tuple[Slice, ...]
    """In the order of the frames."""
    size: tuple[int, int]
    """Rows and columns."""
    values: Mapping[str, Any]
    """{name in VALUES: float, text or tuple of texts}; of several frames, those of the first."""
    enhanced: bool
    """Whether the positions are those of frames, even if there is only one."""

    def text(self, name: str) -> str:
        """One of the values as text, empty if it is missing."""
        return str(self.values.get(name, "")).strip()


class NoSlices(UserError):
    """A file holds no slices of a scan; `kind` is a noun for it, such as "colour image"."""

    def __init__(self, kind: str, message: str, code: str) -> None:
        super().__init__(message, code)
        self.kind = kind


def looks_like_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM: with its magic number, or with a first element but no preamble."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except PermissionError:
        return path.suffix[1:].isdigit() or not path.suffix  # a slice, probably: reading it will name it
    except OSError:
        return False
    if start[128:] == b"DICM":
        return True
    first_group = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"
    has_type = re.match(rb"[A-Z]{2}", start[4:6]) is not None
    return len(start) == 132 and first_group and (has_type or start[6:8] == b"\x00\x00")


def read_image(path: Path) -> DicomImage:
    """Read the header of a file.

    Raises:
        NoSlices: The file holds something else, see its `kind`.
        UserError: "unreadable" for a damaged image, because a slice is missing without it; "not-readable".
    """
    try:
        if not path.stat().st_size:
            raise NoSlices("empty file", f"{path} is empty; get the file again.", "unreadable")
        # "force" reads files without preamble, too.
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(TAGS))
        _check_kind(path, header)
        planes, enhanced = _planes(path, header)
        slices = tuple(_slice(path, plane) for plane in planes)
        _check_size(path, header, len(slices))
        values = _values(header) | _values(planes[0])
        return DicomImage(path, slices, (int(header.Rows), int(header.Columns)), values, enhanced)
    except UserError:
        raise
    except Exception as error:  # damaged headers make the library raise all kinds of exceptions
        check_readable(path, error)
        raise _damaged(path, str(error)) from error


def slices_of(path: Path, header: pydicom.Dataset) -> list[Slice]:
    """Positions of the frames of a file.

    Raises:
        NoSlices: They have no positions.
    """
    return [_slice(path, plane) for plane in _planes(path, header)[0]]


def full_header(path: Path) -> pydicom.Dataset:
    """The whole header of a file that `read_image` has read."""
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be read as DICOM ({reason}); export it again.", code="unreadable")


def _check_kind(path: Path, header: pydicom.FileDataset) -> None:
    """Raise NoSlices or UserError for a file without grey values of a scan."""
    sop_class = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))
    modality = header.get("Modality")
    if sop_class == DICOMDIR:
        raise NoSlices(
            "DICOM index",
            f"{path} is the index of a medium; choose the folder with its images.",
            "unsupported",
        )
    if sop_class == SEGMENTATION or modality == "SEG":
        raise NoSlices(
            "DICOM segmentation",
            f"{path} is a DICOM segmentation, not a scan; choose the series that it refers to.",
            "unsupported",
        )
    has_image = "Rows" in header and "Columns" in header
    if modality in NO_SCANS or (not has_image and sop_class and not sop_class.name.endswith("Image Storage")):
        raise NoSlices(
            "DICOM object without a scan",
            f"{path} is DICOM without the image of a scan; choose a CT or MR series.",
            "unsupported",
        )
    if not has_image and (sop_class or has_magic_number(path)):
        raise _damaged(path, "its header is incomplete")
    if not has_image:
        raise NoSlices(
            "file that is no DICOM",
            f"{path} cannot be read as DICOM (it has neither an image nor a SOP class); export it again.",
            "unreadable",
        )
    if int(header.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(
        header.get("PhotometricInterpretation")
    ):
        raise NoSlices(
            "colour image",
            f"{path} holds colours, not one grey value per voxel; choose the original series.",
            "not-scalar",
        )


def _check_size(path: Path, header: pydicom.FileDataset, frames: int) -> None:
    """Refuse a header that declares more pixels than the file can hold: GDCM would take memory for them."""
    syntax = header.file_meta.get("TransferSyntaxUID", "")
    compressed = syntax not in UNCOMPRESSED
    values = int(header.Rows) * int(header.Columns) * frames
    declared, size = values * int(header.get("BitsAllocated") or 8) // 8, path.stat().st_size
    if declared > size * (MAX_COMPRESSION if compressed else 1):
        raise _damaged(path, f"its header declares {declared:,} bytes of pixels, and the file has {size:,}")


def has_magic_number(path: Path) -> bool:
    """Whether a file begins as DICOM files do. Raises OSError."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _planes(path: Path, header: pydicom.Dataset) -> tuple[list[pydicom.Dataset], bool]:
    """Elements that place each frame, and whether they come from functional groups.

    Raises:
        NoSlices: Frames without positions, or scaled differently.
    """
    count = int(header.get("NumberOfFrames") or 1)
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    if count == 1 and not frames:
        return [header], False
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    planes = []
    for number, frame in enumerate(frames):
        plane = pydicom.Dataset()
        for groups in (shared[0], frame):
            names = [element.keyword for element in groups] if number == 0 else GEOMETRY_GROUPS
            for item in (groups.get(name) for name in names if name):
                if isinstance(item, pydicom.Sequence) and item:
                    plane.update(item[0])
        planes.append(plane)
    if len(planes) != count:
        raise NoSlices(
            "image without positions",
            f"{path} has several frames but not the position of each; export it as a series of slices.",
            "unsupported",
        )
    if len({(plane.get("RescaleSlope"), plane.get("RescaleIntercept")) for plane in planes}) > 1:
        # GDCM would scale all frames like the first one.
        raise NoSlices(
            "image whose frames are scaled differently",
            f"{path} scales the grey values of its frames differently; export it as a series of slices.",
            "unsupported",
        )
    return planes, True


def _slice(path: Path, plane: pydicom.Dataset) -> Slice:
    try:
        origin = np.array(plane.ImagePositionPatient, dtype=float)
        directions = np.array(plane.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_mm, column_mm = (float(value) for value in plane.PixelSpacing)
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise ValueError("no position")
        if not (0 < row_mm < np.inf and 0 < column_mm < np.inf):
            raise ValueError("no pixel size")
    except (AttributeError, ValueError, TypeError) as error:
        raise NoSlices(
            "image without positions",
            f"{path} has slices without a position, a direction or a pixel size; export the series with its "
            "geometry.",
            "unsupported",
        ) from error
    return Slice(origin, directions[0] * column_mm, directions[1] * row_mm)


def _values(header: pydicom.Dataset) -> dict[str, Any]:
    values = {}
    for name in VALUES:
        try:
            value = header.get(name)
        except (ValueError, TypeError):
            continue  # a damaged element tells nothing apart
        if value is not None and value != "":
            values[name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(str, value))
    return float(value) if isinstance(value, int | float) else str(value)
