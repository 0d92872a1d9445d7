"""NIfTI (.nii, .nii.gz, .hdr with .img) and FreeSurfer MGH, read with nibabel; labels written as NIfTI."""

from __future__ import annotations

import gzip
import io
import itertools
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder

from medssl.core.errors import UserError
from medssl.core.io.compressed import MAX_COMPRESSION, read_to_end
from medssl.core.io.geometry import Geometry, spans_volume, three_axes
from medssl.core.io.reading import Reading

POSITION_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
"""Header fields that position the voxels of a NIfTI file, besides pixdim."""
UNIT_MM = {1: 1000.0, 3: 0.001}
"""Millimetres per unit for the NIfTI codes of metres and micrometres; other codes are taken as
millimetres."""
SPACING_TOLERANCE = 0.01
"""Largest relative difference of the voxel sizes in sform and pixdim that is not mentioned."""
MAX_QUATERNION = 1.05
"""Largest accepted square sum of the three stored parts of a quaternion; above one they were rounded."""
GZIP_MAGIC = b"\x1f\x8b"
MAX_LENGTH = 32767
"""Largest number of voxels along an axis in NIfTI-1."""
MAX_QFORM_ERROR_MM = 0.05
"""Largest distance of a voxel's position by the qform from that by the sform."""
MAX_SKEW = 1e-5
"""Largest dot product of the unit vectors of two axes that are orthogonal for ITK."""


def read_nifti(path: Path, labels: bool = False) -> Reading:
    """Read a NIfTI or MGH file with nibabel.

    Its affine is the sform, else the qform, else voxel sizes alone. Headers that other readers tolerate are
    accepted with a note.

    Args:
        path: The file.
        labels: Accept several channels and single slices.

    Returns:
        Array in the data type of the file unless it is scaled, geometry, and notes.

    Raises:
        UserError: "unsupported", "not-scalar", "not-3d", "bad-geometry".
        ValueError: The header declares more data than the file can hold.
        Exception: Anything that nibabel raises for damaged files.
    """
    notes: list[str] = []
    image = _load(path, notes)
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
    array = three_axes(_voxels(image, path), path, labels)
    if isinstance(image, nib.freesurfer.MGHImage):
        _check_mgh(image)
        return Reading(array, Geometry.of(image.affine, array.shape), notes=tuple(notes))
    affine, repairs = _affine(image)
    code = int(image.header["xyzt_units"]) & 7
    affine[:3] *= UNIT_MM.get(code, 1.0)
    if code not in (0, 2, *UNIT_MM):
        notes.append(f"The code {code} of its unit of length is not defined; the unit is taken as mm.")
    fields = {} if repairs else _position_fields(image.header)
    return Reading(array, Geometry.of(affine, array.shape, fields), notes=(*notes, *repairs))


def _load(path: Path, notes: list[str]) -> Any:
    """Open a file by its content: whether it is compressed, and whether it is NIfTI-1 or NIfTI-2."""
    name = path.name.lower()
    if name.endswith((".mgh", ".mgz")):
        kinds: tuple[Any, ...] = (nib.MGHImage,)
    else:
        single = name.endswith((".nii", ".nii.gz"))
        kinds = (nib.Nifti1Image, nib.Nifti2Image) if single else (nib.Nifti1Pair, nib.Nifti2Pair)
    file_map = kinds[0].filespec_to_file_map(path)
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    if "header" not in file_map and zipped != name.endswith("gz"):
        notes.append(f"It is {'gzipped' if zipped else 'not gzipped'}, other than its name says.")
        content = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        file_map["image"] = FileHolder(fileobj=io.BytesIO(content))
    if kinds == (nib.MGHImage,):
        return nib.MGHImage.from_file_map(file_map)
    block = _header_block(file_map)
    for kind in kinds:
        if kind.header_class.may_contain_header(block):
            return _tolerant(kind).from_file_map(file_map)
    return nib.load(path)


def header_of(path: Path) -> Any:
    """The header of a NIfTI file, opened as `read_nifti` opens it."""
    return _load(path, []).header


def _header_block(file_map: dict[str, FileHolder]) -> bytes:
    """The first bytes of a file, which contain the header of each kind."""
    with file_map.get("header", file_map["image"]).get_prepare_fileobj(mode="rb") as file:
        block: bytes = file.read(nib.Nifti2Header.sizeof_hdr)
    return block


def _tolerant(kind: Any) -> Any:
    """An image class of nibabel that leaves the affine to `_affine`, which accepts more than nibabel."""

    class Header(kind.header_class):
        def get_best_affine(self) -> np.ndarray:
            return np.eye(4)

    return type(kind.__name__, (kind,), {"header_class": Header})


def _affine(image: Any) -> tuple[np.ndarray, list[str]]:
    """Affine of a NIfTI file in its own unit, (4, 4), and a note for each repair of the header.

    Raises:
        UserError: "bad-geometry" if the header gives no voxel size or no orientation.
    """
    header, notes = image.header, []
    block = _header_block(image.file_map)[: header.sizeof_hdr]
    # nibabel replaces voxel sizes of zero by one when it checks a header.
    size = np.array(type(header)(block, check=False)["pixdim"][1:4], dtype=np.float64)
    known = bool(np.isfinite(size).all() and size.all())
    if header["sform_code"] != 0:
        sform = np.array(header.get_sform(), dtype=np.float64)
        if spans_volume(sform):
            length = np.linalg.norm(sform[:3, :3], axis=0)
            if not np.allclose(length, size, rtol=SPACING_TOLERANCE):
                notes.append(f"Its sform ({_mm(length)}) and pixdim ({_mm(size)}) differ; sform is used.")
            return sform, notes
        if header["qform_code"] == 0:
            return sform, notes  # Geometry.of refuses it
        notes.append("Its sform is singular; its qform is used.")
    if not known:
        raise UserError(
            f"Its header gives no voxel size (pixdim is {_mm(size)}); repair the header.", code="bad-geometry"
        )
    if size.min() < 0:
        notes.append(f"Its voxel size is negative (pixdim is {_mm(size)}); the sign is ignored.")
    if header["qform_code"] == 0:
        return np.array(header.get_base_affine(), dtype=np.float64), notes
    return _qform(header, notes), notes


def _qform(header: Any, notes: list[str]) -> np.ndarray:
    """The qform of a header, also if rounding has made its quaternion longer than one."""
    names = ("quatern_b", "quatern_c", "quatern_d")
    quaternion = np.array([float(header[name]) for name in names])
    square = float(quaternion @ quaternion)
    if not square <= MAX_QUATERNION:
        raise UserError(
            f"The quaternion of its qform is {_mm(quaternion)}, which is no rotation; repair the header.",
            code="bad-geometry",
        )
    if square - 1 > -header.quaternion_threshold:
        notes.append(f"The quaternion of its qform is longer than one ({square:.8g}); it was normalised.")
        header = header.copy()
        for name, value in zip(names, quaternion / math.sqrt(square), strict=True):
            header[name] = value
    return np.array(header.get_qform(), dtype=np.float64)


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _check_mgh(image: Any) -> None:
    """Raise UserError ("bad-geometry") if the header does not vouch for its voxel size and orientation."""
    if not any(_header_block(image.file_map)[28:30]):  # goodRASFlag, which nibabel sets to 1
        raise UserError(
            "Its header gives no voxel size and orientation (goodRASFlag is 0); convert it to NIfTI with "
            "the right ones.",
            code="bad-geometry",
        )


def _voxels(image: Any, path: Path) -> np.ndarray:
    """The voxels that nibabel has found, read to the end of a compressed file for its checksum."""
    proxy = image.dataobj
    if image.file_map["image"].fileobj is not None or not path.name.lower().endswith("gz"):
        return np.asanyarray(proxy)
    with gzip.open(path) as file:
        layout = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
        array = np.asanyarray(nib.arrayproxy.ArrayProxy(file, layout))
        read_to_end(file)
    return array


def _position_fields(header: Any) -> dict[str, Any]:
    """Header fields that position the voxels; empty if one of them is not finite."""
    fields = {name: np.asarray(header[name]).tolist() for name in POSITION_FIELDS}
    fields["pixdim"] = np.asarray(header["pixdim"])[:4].tolist()
    return fields if all(np.isfinite(value).all() for value in fields.values()) else {}


def nifti_bytes(array: np.ndarray, geometry: Geometry, compress: bool) -> bytes:
    """Encode a volume as a NIfTI-1 file.

    The sform is exact. ITK refuses it where the axes are not orthogonal, and then reads the qform: there is
    one if it is precise enough (`opens_in_itk`).

    Args:
        array: Voxels in file order, uint8, uint16 or float32 (I, J, K).
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
    nearest, error_mm = _nearest_orthogonal(geometry)
    if not _copy_position_fields(header, geometry):
        header.set_xyzt_units("mm")
        header.set_sform(geometry.matrix, code=1)
        header.set_qform(nearest, code=1 if error_mm <= MAX_QFORM_ERROR_MM else 0)
    elif not header["qform_code"] and _is_skewed(geometry) and error_mm <= MAX_QFORM_ERROR_MM:
        nearest[:3] /= UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
        header.set_qform(nearest, code=1)
    # Given the affine of the header, nibabel does not change these fields.
    body = nib.Nifti1Image(array, header.get_best_affine(), header).to_bytes()
    return gzip.compress(body, compresslevel=4, mtime=0) if compress else body


def opens_in_itk(geometry: Geometry) -> bool:
    """Whether ITK, and with it 3D Slicer and ITK-SNAP, opens a NIfTI file on this grid."""
    has_qform = bool(geometry.nifti.get("qform_code"))
    return has_qform or not _is_skewed(geometry) or _nearest_orthogonal(geometry)[1] <= MAX_QFORM_ERROR_MM


def _is_skewed(geometry: Geometry) -> bool:
    directions = geometry.matrix[:3, :3] / np.linalg.norm(geometry.matrix[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > MAX_SKEW)


def _nearest_orthogonal(geometry: Geometry) -> tuple[np.ndarray, float]:
    """The closest affine with orthogonal axes, which has the same spacing and centre.

    Returns:
        Affine (4, 4), and the largest distance in mm of a voxel's position from that by the grid's affine.
    """
    matrix, nearest = geometry.matrix, geometry.matrix
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / spacing)
    nearest[:3, :3] = (left @ right) * spacing
    centre = (np.array(geometry.shape) - 1) / 2
    difference = matrix[:3, :3] - nearest[:3, :3]
    nearest[:3, 3] += difference @ centre
    corners = np.array(list(itertools.product(*zip(-centre, centre, strict=True))))
    return nearest, float(np.linalg.norm(corners @ difference.T, axis=1).max())


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
