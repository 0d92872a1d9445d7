"""NIfTI (.nii, .nii.gz, .hdr with .img) and FreeSurfer's MGH through nibabel; labels back as NIfTI."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry, three_axes

PLACE_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
"""Header fields that place a NIfTI file's voxels, besides pixdim."""
UNIT_MM = {1: 1000.0, 3: 0.001}
"""NIfTI's codes for metres and micrometres; any other is taken as millimetres."""
MOST_PACKED = 1100
"""Bytes that a byte of a gzipped file can hold: deflate packs at most 1032 into one."""
LARGEST_SIDE = 32767
"""Most voxels along an axis that NIfTI-1 can say."""


def read_nifti(path: Path) -> tuple[np.ndarray, Geometry]:
    """Array in (i, j, k) order, in the file's own data type unless it is scaled, and its geometry.

    The affine is nibabel's: sform, else qform, else voxel sizes alone.

    Raises UserError ("unsupported", "not-scalar", "not-3d", "bad-geometry"), ValueError for a header that
    promises more than its file can hold, and whatever nibabel raises for damaged files.
    """
    image: Any = nib.load(path)
    if not isinstance(image, nib.nifti1.Nifti1Pair | nib.freesurfer.MGHImage):
        raise UserError(
            f"{path} is a file of Analyze 7.5 or similar, which does not say where left is; "
            "convert it to NIfTI.",
            code="unsupported",
        )
    if image.get_data_dtype().kind not in "iufb":
        kind = "complex numbers" if image.get_data_dtype().kind == "c" else "colours"
        raise UserError(
            f"{path} holds {kind}, not one grey value a voxel; export it as a plain scalar volume.",
            code="not-scalar",
        )
    promised = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    if promised > MOST_PACKED * Path(image.file_map["image"].filename or path).stat().st_size:
        raise ValueError(f"its header promises {promised / 2**30:.1f} GB")
    array = three_axes(np.asanyarray(image.dataobj), path)
    affine = np.array(image.affine, dtype=np.float64)
    if isinstance(image, nib.freesurfer.MGHImage):
        return array, Geometry.of(affine, array.shape)
    affine[:3] *= UNIT_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return array, Geometry.of(affine, array.shape, _place(image.header))


def _place(header: Any) -> dict[str, Any]:
    """The header's fields that say where the voxels lie; empty where they hold not-a-numbers."""
    fields = {name: np.asarray(header[name]).tolist() for name in PLACE_FIELDS}
    fields["pixdim"] = np.asarray(header["pixdim"])[:4].tolist()
    return fields if all(np.isfinite(value).all() for value in fields.values()) else {}


def nifti_bytes(array: np.ndarray, geometry: Geometry, compress: bool) -> bytes:
    """A NIfTI-1 file of an (i, j, k) array on that grid.

    Raises UserError ("unsupported") for grids larger than NIfTI-1 can say.
    """
    if max(array.shape) > LARGEST_SIDE:
        raise UserError(
            f"NIfTI files have at most {LARGEST_SIDE} voxels along an axis; write .nrrd.", code="unsupported"
        )
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    if not _placed_as_source(header, geometry):
        header.set_xyzt_units("mm")
        header.set_sform(geometry.matrix, code=1)
        # A quaternion cannot say shear; code 0 tells readers to look at the exact matrix.
        header.set_qform(geometry.matrix, code=1 if _right_angles(geometry) else 0, strip_shears=True)
    # With the header's own affine nibabel leaves all of these fields as they are.
    body = nib.Nifti1Image(array, header.get_best_affine(), header).to_bytes()
    return gzip.compress(body, compresslevel=4, mtime=0) if compress else body


def _placed_as_source(header: Any, geometry: Geometry) -> bool:
    """Copies the source's own fields; False where there are none or they contradict the affine."""
    try:
        for name in PLACE_FIELDS:
            header[name] = geometry.nifti[name]
        header["pixdim"][:4] = geometry.nifti["pixdim"]
        affine = np.array(header.get_best_affine())
    except (KeyError, TypeError, ValueError, nib.spatialimages.HeaderDataError):
        return False
    affine[:3] *= UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return bool(np.allclose(affine, geometry.matrix))


def _right_angles(geometry: Geometry) -> bool:
    columns = geometry.matrix[:3, :3] / np.linalg.norm(geometry.matrix[:3, :3], axis=0)
    return bool(np.allclose(columns.T @ columns, np.eye(3), atol=1e-4))
