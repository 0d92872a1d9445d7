"""Scans and label volumes, from files and back onto the source's own grid.

nibabel reads NIfTI, Analyze pairs and MGZ; SimpleITK reads NRRD, MetaImage and DICOM.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medssl.dicom import is_dicom, read_series, series_in
from medssl.errors import UserError
from medssl.files import write_whole
from medssl.geometry import Geometry
from medssl.itk import from_itk, three_axes

NIBABEL = (".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh", ".mnc")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
READABLE = (*NIBABEL, *ITK, ".dcm")
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True)
class Volume:
    """array: canonical (Z, Y, X); geometry: the file's grid; path: where it came from."""

    array: np.ndarray
    geometry: Geometry
    path: Path


def suffix_of(path: Path) -> str:
    """The file's ending in lower case, ".nii.gz" in one piece."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def read_scan(path: Path) -> Volume:
    """One 3D scan, float32.

    Raises UserError ("missing", "unsupported", "unreadable", "not-3d", "not-scalar", "not-finite",
    "constant", "bad-geometry") that names the file.
    """
    path = Path(path)
    array, geometry = _read(path)
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"{path} holds voxels that are no numbers (NaN or infinite); replace them, by the value of air say.",
            code="not-finite",
        )
    if values.min() == values.max():
        raise UserError(
            f"{path} has the same value everywhere; choose a scan that shows something.", "constant"
        )
    return Volume(geometry.to_canonical(values), geometry, path)


def read_labels(path: Path) -> Volume:
    """A label volume, uint8 (uint16 where ids exceed 255). Floats are taken where all are whole numbers.

    Raises UserError as `read_scan`, and "not-labels".
    """
    path = Path(path)
    array, geometry = _read(path)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    whole = array.dtype.kind in "iub" or bool(np.isfinite(array).all() and (array == np.round(array)).all())
    if not whole or low < 0 or high > 65535:
        raise UserError(
            f"{path} is no label volume (values from {low:g} to {high:g}); choose one with whole numbers from 0 on.",
            code="not-labels",
        )
    kind = np.uint8 if high <= 255 else np.uint16
    return Volume(geometry.to_canonical(array.astype(kind)), geometry, path)


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    """Array in the file's order (i, j, k) and its geometry."""
    if not path.exists():
        raise UserError(f"{path} does not exist; check the path.", code="missing")
    ending = suffix_of(path)
    try:
        if path.is_dir() or ending == ".dcm" or (ending not in READABLE and is_dicom(path)):
            array, affine = read_series(path)
        elif ending in NIBABEL:
            array, affine = _read_nibabel(path)
        elif ending in ITK:
            array, affine = _read_itk(path)
        else:
            raise UserError(
                f"{path} is no kind of file that is read here; convert it to NIfTI ({', '.join(READABLE)} and DICOM "
                "folders are read).",
                code="unsupported",
            )
        return array, Geometry.of(affine, array.shape)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}", code=error.code) from error


def _read_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = nib.load(path)
        if image.get_data_dtype().kind not in "iufb":
            raise UserError(
                f"{path} holds {_kind_in_words(image.get_data_dtype())}, not one grey value a voxel; export it as a "
                "plain scalar volume.",
                code="not-scalar",
            )
        array = np.asanyarray(image.dataobj)
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile, *_NIBABEL_ERRORS) as error:
        raise _unreadable(path, error) from error
    return three_axes(array, path), np.asarray(image.affine, dtype=np.float64)


_NIBABEL_ERRORS = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
)


def _kind_in_words(dtype: np.dtype) -> str:
    return (
        "complex numbers" if dtype.kind == "c" else "colours" if dtype.fields else f"values of kind {dtype}"
    )


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return from_itk(image, path)


def _unreadable(path: Path, error: BaseException) -> UserError:
    reason = str(error).strip().splitlines()[-1][:120] if str(error).strip() else type(error).__name__
    return UserError(
        f"{path} cannot be read, it is damaged or not what its name says ({reason}); get the file anew.",
        code="unreadable",
    )


def write_labels(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write canonical labels onto the source's grid, whole or not at all: same shape, same affine.

    Raises UserError ("unsupported", "wrong-shape", "disk-full", ...).
    """
    path = Path(path)
    ending = suffix_of(path)
    if ending not in WRITABLE:
        raise UserError(
            f"{path} has no ending that is written here; use one of {', '.join(WRITABLE)}.",
            code="unsupported",
        )
    if labels_zyx.shape != geometry.shape_zyx:
        raise UserError(
            f"The labels for {path} have {labels_zyx.shape} voxels, but the scan has {geometry.shape_zyx}; choose "
            "the labels that belong to this scan.",
            code="wrong-shape",
        )
    array = geometry.to_source(labels_zyx)
    if ending in (".nii", ".nii.gz"):
        body = _nifti_bytes(array, geometry)
        write_whole(path, lambda file: file.write(gzip.compress(body) if ending == ".nii.gz" else body))
    else:
        write_whole(path, lambda file: file.write(_itk_bytes(array, geometry, ending)))


def _nifti_bytes(array: np.ndarray, geometry: Geometry) -> bytes:
    image = nib.Nifti1Image(array, geometry.matrix)
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.matrix, code=1)
    # A quaternion cannot say shear; code 0 tells readers to look at the exact matrix above.
    image.set_qform(geometry.matrix, code=1 if _is_rigid(geometry) else 0, strip_shears=True)
    return image.to_bytes()


def _is_rigid(geometry: Geometry) -> bool:
    columns = geometry.matrix[:3, :3] / np.linalg.norm(geometry.matrix[:3, :3], axis=0)
    return bool(np.allclose(columns.T @ columns, np.eye(3), atol=1e-4))


def _itk_bytes(array: np.ndarray, geometry: Geometry, ending: str) -> bytes:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.matrix
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array.T)
    try:
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    except RuntimeError as error:
        raise UserError(
            f"The scan's axes are not at right angles, which {ending} files cannot hold; write .nii.gz.",
            code="unsupported",
        ) from error
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    # SimpleITK writes to names only: a private folder, then the bytes.
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "labels" + ending)  # noqa: PTH118 - SimpleITK wants a string
        sitk.WriteImage(image, name, useCompression=True)
        return Path(name).read_bytes()


def find_scans(paths: Iterable[Path]) -> list[Path]:
    """Scans under files and folders, sorted: a folder with DICOM files is one scan (a series), other
    readable files one each. Hidden files are left out.

    Raises UserError ("missing", "no-scans") where nothing is found.
    """
    found: set[Path] = set()
    wanted = [Path(path) for path in paths]
    for path in wanted:
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path.", code="missing")
        if path.is_file():
            found.add(path)
            continue
        for folder in [path, *(each for each in path.rglob("*") if each.is_dir())]:
            found |= _scans_in(folder)
    if not found:
        raise UserError(
            f"No scan was found in {', '.join(map(str, wanted))}; give NIfTI, NRRD, MHA or DICOM.",
            code="no-scans",
        )
    return sorted(found)


def _scans_in(folder: Path) -> set[Path]:
    files = [each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")]
    # Of an Analyze pair the header stands for both.
    plain = {
        each
        for each in files
        if suffix_of(each) in (*NIBABEL, *ITK)
        and not (suffix_of(each) == ".img" and each.with_suffix(".hdr").exists())
    }
    return plain | ({folder} if not plain and series_in(folder) else set())
