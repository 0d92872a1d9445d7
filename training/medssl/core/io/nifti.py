"""NIfTI (.nii, .nii.gz, .hdr with .img) and FreeSurfer MGH, read with nibabel; labels written as NIfTI."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry, three_axes

POSITION_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
"""Header fields that position the voxels of a NIfTI file, besides pixdim."""
UNIT_MM = {1: 1000.0, 3: 0.001}
"""Millimetres per unit for the NIfTI codes of metres and micrometres; other codes are taken as
millimetres."""
MAX_COMPRESSION = 1100
"""Upper bound of the compression ratio of a gzipped file: deflate reaches at most 1032."""
MAX_LENGTH = 32767
"""Largest number of voxels along an axis in NIfTI-1."""


def read_nifti(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a NIfTI or MGH file with nibabel.

    The affine is that of nibabel: sform, else qform, else voxel sizes alone.

    Returns:
        Array in file order (I, J, K), in the data type of the file unless it is scaled, and its geometry.

    Raises:
        UserError: "unsupported", "not-scalar", "not-3d", "bad-geometry".
        ValueError: The header declares more data than the file can hold.
        Exception: Anything that nibabel raises for damaged files.
    """
    image: Any = nib.load(path)
    if not isinstance(image, nib.nifti1.Nifti1Pair | nib.freesurfer.MGHImage):
        raise UserError(
            f"{path} is an Analyze 7.5 or similar file, which does not define left and right; "
            "convert it to NIfTI.",
            code="unsupported",
        )
    if image.get_data_dtype().kind not in "iufb":
        content = "complex numbers" if image.get_data_dtype().kind == "c" else "colours"
        raise UserError(
            f"{path} holds {content}, not one grey value per voxel; export it as a scalar volume.",
            code="not-scalar",
        )
    declared = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    if declared > MAX_COMPRESSION * Path(image.file_map["image"].filename or path).stat().st_size:
        raise ValueError(f"its header declares {declared / 2**30:.1f} GB")
    array = three_axes(np.asanyarray(image.dataobj), path)
    affine = np.array(image.affine, dtype=np.float64)
    if isinstance(image, nib.freesurfer.MGHImage):
        return array, Geometry.of(affine, array.shape)
    affine[:3] *= UNIT_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return array, Geometry.of(affine, array.shape, _position_fields(image.header))


def _position_fields(header: Any) -> dict[str, Any]:
    """Header fields that position the voxels; empty if one of them is not finite."""
    fields = {name: np.asarray(header[name]).tolist() for name in POSITION_FIELDS}
    fields["pixdim"] = np.asarray(header["pixdim"])[:4].tolist()
    return fields if all(np.isfinite(value).all() for value in fields.values()) else {}


def nifti_bytes(array: np.ndarray, geometry: Geometry, compress: bool) -> bytes:
    """Encode labels as a NIfTI-1 file.

    Args:
        array: Labels in file order, uint8 or uint16 (I, J, K).
        compress: Compress the content with gzip.

    Returns:
        Content of the file.

    Raises:
        UserError: "unsupported" for grids that exceed the limits of NIfTI-1.
    """
    if max(array.shape) > MAX_LENGTH:
        raise UserError(
            f"NIfTI files have at most {MAX_LENGTH} voxels along an axis; write .nrrd.", code="unsupported"
        )
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    if not _copy_position_fields(header, geometry):
        header.set_xyzt_units("mm")
        header.set_sform(geometry.matrix, code=1)
        # A quaternion cannot represent shear; code 0 makes readers use the exact matrix.
        header.set_qform(geometry.matrix, code=1 if _is_orthogonal(geometry) else 0, strip_shears=True)
    # Given the affine of the header, nibabel does not change these fields.
    body = nib.Nifti1Image(array, header.get_best_affine(), header).to_bytes()
    return gzip.compress(body, compresslevel=4, mtime=0) if compress else body


def _copy_position_fields(header: Any, geometry: Geometry) -> bool:
    """Copy the fields of the source to the header; False if there are none or they contradict the affine."""
    try:
        for name in POSITION_FIELDS:
            header[name] = geometry.nifti[name]
        header["pixdim"][:4] = geometry.nifti["pixdim"]
        affine = np.array(header.get_best_affine())
    except (KeyError, TypeError, ValueError, nib.spatialimages.HeaderDataError):
        return False
    affine[:3] *= UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return bool(np.allclose(affine, geometry.matrix))


def _is_orthogonal(geometry: Geometry) -> bool:
    directions = geometry.matrix[:3, :3] / np.linalg.norm(geometry.matrix[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=1e-4))
