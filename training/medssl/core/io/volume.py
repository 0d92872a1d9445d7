"""Read scans, and write labels on the source grid; labels are read by labels.py.

nibabel reads NIfTI and MGH (nifti.py), SimpleITK reads NRRD and MetaImage (itk.py) and, with pydicom, DICOM
(dicom.py). Files that cannot be read correctly raise a UserError. These libraries take half a second to
import, so each is imported when a file needs it: the dock opens without them, and reading NIfTI does not load
SimpleITK (nibabel itself loads pydicom).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import check_readable, exists, write_whole
from medssl.core.io.geometry import Geometry, implausible_size, size_text, three_axes
from medssl.core.io.non_finite import fill_non_finite
from medssl.core.io.reading import Reading

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")
READABLE = (*NIFTI, *ITK, *DICOM)
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Volume:
    """A scan.

    Attributes:
        array: Voxels in canonical order, float32 (Z, Y, X).
        geometry: Grid of the file.
        path: The file or DICOM folder.
        modality: One of `intensity.MODALITIES` if the file states it, otherwise empty.
        notes: What was tolerated in the file, one sentence each, to be shown to the user.
        missing: Voxels of a scan that are NaN in the file, bool (Z, Y, X); None if there are none.
    """

    array: np.ndarray
    geometry: Geometry
    path: Path
    modality: str = ""
    notes: tuple[str, ...] = ()
    missing: np.ndarray | None = field(default=None, repr=False)


def suffix_of(path: Path) -> str:
    """File extension in lower case, with ".nii.gz" as one extension."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """File name without an extension that is read here; the name of a DICOM folder may contain dots."""
    ending = suffix_of(path)
    return path.name[: -len(ending)] if ending in READABLE and path.name != ending else path.name


def has_header_beside(path: Path) -> bool:
    """Whether a file is the .img of a pair, which stands under the name of its .hdr."""
    return suffix_of(path) == ".img" and path.with_suffix(".hdr").exists()


def is_series(path: Path) -> bool:
    """Whether a path is read as DICOM: a folder or a file of a series, which need not exist any more."""
    if path.is_dir() or suffix_of(path) in DICOM:
        return True
    if suffix_of(path) in READABLE:
        return False
    from medssl.core.io.dicom_headers import looks_like_dicom

    return looks_like_dicom(path) or not path.exists()


def catch_memory_error(read: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
    """Decorator for readers that turns a MemoryError into a UserError ("too-large")."""

    @wraps(read)
    def wrapper(path: Path, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(path, *args, **kwargs)
        except MemoryError as error:
            raise UserError(
                f"{path} does not fit into the memory of this machine; crop or downsample it.",
                code="too-large",
            ) from error

    return wrapper


@catch_memory_error
def read_scan(path: Path, volume: int | None = None) -> Volume:
    """Read one 3D scan.

    NaN, which masking and resampling tools write outside the body, becomes air in a CT and the lowest value
    elsewhere; `Volume.notes` says so.

    Args:
        path: A file, a folder with one DICOM series, or one file of a series.
        volume: Number of the volume to take from a 4D file; None for a file with one volume.

    Returns:
        Volume with a float32 array (Z, Y, X).

    Raises:
        UserError: "missing", "unsupported", "not-readable", "unreadable", "not-3d", "several-volumes",
            "not-scalar", "not-finite", "constant", "bad-geometry", "too-large", "no-volume"; for DICOM also
            "several-series", "uneven-slices". The message names the file.

    Example:
        >>> volume = read_scan(Path("scan.nii.gz"))
        >>> volume.array.shape, volume.geometry.spacing_mm
    """
    path = Path(path)
    if volume is None:
        return as_scan(path, read_voxels(path))
    reading = read_voxels(path, labels=True)
    volumes = reading.array[..., None] if reading.array.ndim == 3 else reading.array
    count = volumes.shape[3]
    if not 0 <= volume < count:
        raise UserError(f"{path} has no volume {volume}; it has {count}, numbered from 0.", code="no-volume")
    return as_scan(path, replace(reading, array=three_axes(volumes[..., volume], path)))


def as_scan(path: Path, reading: Reading) -> Volume:
    """A scan from the content of a file.

    Args:
        path: The file.
        reading: Its voxels and header.

    Raises:
        UserError: "not-finite", "constant".
    """
    notes = [*reading.notes]
    with np.errstate(over="ignore"):  # values that exceed float32 become infinite
        values = reading.array.astype(np.float32)
    missing = fill_non_finite(path, values, reading.modality, notes)
    if values.min() == values.max():
        raise UserError(
            f"{path} has the same value in every voxel; choose a scan with contrast.", code="constant"
        )
    geometry = reading.geometry
    notes += filter(None, [implausible_size(geometry)])
    if missing is not None:
        missing = geometry.to_canonical(missing)
    return Volume(geometry.to_canonical(values), geometry, path, reading.modality, tuple(notes), missing)


def read_voxels(path: Path, labels: bool = False) -> Reading:
    """Read the voxels of a file as they are stored.

    Args:
        path: A file, a folder with one DICOM series, or one file of a series.
        labels: Accept several channels and single slices.

    Returns:
        Array in file order (I, J, K), with several channels (I, J, K, C), and what the header says.

    Raises:
        UserError: Those of `read_scan` that are not about values.
    """
    if not exists(path):
        raise UserError(f"{path} does not exist; check the path.", code="missing")
    ending = suffix_of(path)
    try:
        # Each library is imported when a file needs it.
        if is_series(path):
            from medssl.core.io.dicom import read_series

            return read_series(path)
        if ending in NIFTI:
            from medssl.core.io.nifti import read_nifti

            return read_nifti(path, labels)
        if ending in ITK:
            from medssl.core.io.itk import read_itk

            return read_itk(path, labels)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path} cannot be used: {error}", code=error.code) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the libraries raise all kinds of exceptions
        check_readable(path, error)
        raise UserError(
            f"{path} cannot be read: it is damaged or not of the format that its name says "
            f"({_reason(error)}); get the file again.",
            code="unreadable",
        ) from error
    raise UserError(
        f"{path} has an unsupported file format; convert it to NIfTI "
        f"({', '.join(READABLE)} and DICOM folders can be read).",
        code="unsupported",
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix("sitk::ERROR: ")[:120] if lines else type(error).__name__


def write_labels(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write canonical labels on the source grid (same shape, same affine), atomically.

    Args:
        path: Output file; its extension must be one of WRITABLE.
        labels_zyx: Labels in canonical order, any integer type (Z, Y, X); written as uint8, or uint16 if ids
            exceed 255.
        geometry: Geometry of the scan.

    Raises:
        UserError: "unsupported", "wrong-shape", "not-labels", "disk-full", "not-writable".
    """
    content = label_bytes(Path(path), labels_zyx, geometry)
    write_whole(path, lambda file: file.write(content))


def label_bytes(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> bytes:
    """Content of the file that `write_labels` writes, from labels (Z, Y, X); raises its errors."""
    ending = suffix_of(path)
    if ending not in WRITABLE:
        raise UserError(
            f"{path} cannot be written: its extension is not supported; use one of {', '.join(WRITABLE)}.",
            code="unsupported",
        )
    if labels_zyx.shape != geometry.shape_zyx:
        raise UserError(
            f"The labels for {path} have {size_text(labels_zyx.shape)} voxels, but the scan has "
            f"{size_text(geometry.shape_zyx)}; choose the labels that belong to this scan.",
            code="wrong-shape",
        )
    array = geometry.to_source(_narrow(path, labels_zyx))
    if ending in NIFTI:
        from medssl.core.io.nifti import nifti_bytes

        return nifti_bytes(array, geometry, compress=ending == ".nii.gz")
    from medssl.core.io.itk import mha_bytes, nrrd_bytes

    return (nrrd_bytes if ending == ".nrrd" else mha_bytes)(array, geometry)


def _narrow(path: Path, labels: np.ndarray) -> np.ndarray:
    """Labels as uint8, or as uint16 if ids exceed 255."""
    low, high = int(labels.min()), int(labels.max())
    if labels.dtype.kind not in "iub" or low < 0 or high > 65535:
        raise UserError(
            f"The labels for {path} are {labels.dtype} from {low} to {high}; "
            "labels are whole numbers from 0 to 65535.",
            code="not-labels",
        )
    return labels.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


def fingerprint(volume: Volume) -> str:
    """SHA-256 of voxels and grid, which recognises a scan in another file, format or folder."""
    digest = hashlib.sha256(volume.array.data)
    digest.update(repr(volume.geometry).encode())
    return digest.hexdigest()
