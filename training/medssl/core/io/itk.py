"""NRRD and MetaImage: read with SimpleITK; labels are encoded here, which is exact for sheared grids, too."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medssl.core.errors import UserError
from medssl.core.io.geometry import RAS_TO_LPS, Geometry, three_axes

# ITK prints warnings about unusual headers to the terminal; this package checks the relevant fields itself.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a file with SimpleITK.

    Returns:
        Array in file order, in the data type of the file (I, J, K), and its geometry.

    Raises:
        UserError: "not-scalar", "not-3d", "bad-geometry".
        RuntimeError: The file is damaged.
    """
    image = sitk.ReadImage(str(path))
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise UserError(
            f"{path} holds colours, vectors or complex numbers, not one grey value per voxel; "
            "export it as a scalar volume.",
            code="not-scalar",
        )
    array = three_axes(sitk.GetArrayFromImage(image).T, path)
    directions = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return array, Geometry.of(RAS_TO_LPS @ affine, array.shape)


def nrrd_bytes(array: np.ndarray, geometry: Geometry) -> bytes:
    """Encode labels as an NRRD file (format: teem.sourceforge.net/nrrd/format.html).

    Args:
        array: Labels in file order, uint8 or uint16 (I, J, K).

    Returns:
        Content of the file, gzip-compressed.
    """
    affine = RAS_TO_LPS @ geometry.matrix
    lines = [
        "NRRD0004",
        f"type: {array.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {_numbers(array.shape)}",
        f"space directions: {' '.join(_vector(affine[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(affine[:3, 3])}",
    ]
    data = gzip.compress(_little_endian(array), compresslevel=4, mtime=0)
    return ("\n".join(lines) + "\n\n").encode("ascii") + data


def mha_bytes(array: np.ndarray, geometry: Geometry) -> bytes:
    """Encode labels as a MetaImage file (format: itk.org/Wiki/ITK/MetaIO).

    Args:
        array: Labels in file order, uint8 or uint16 (I, J, K).

    Returns:
        Content of the file, zlib-compressed.
    """
    affine = RAS_TO_LPS @ geometry.matrix
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    data = zlib.compress(_little_endian(array), level=4)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(data)}",
        f"TransformMatrix = {_numbers((affine[:3, :3] / spacing).T.ravel())}",
        f"Offset = {_numbers(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(spacing)}",
        f"DimSize = {_numbers(array.shape)}",
        f"ElementType = {'MET_UCHAR' if array.dtype == np.uint8 else 'MET_USHORT'}",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(lines) + "\n").encode("ascii") + data


def _little_endian(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")


def _numbers(values: np.ndarray | tuple[int, ...]) -> str:
    return " ".join(repr(value) for value in np.asarray(values).tolist())


def _vector(values: np.ndarray) -> str:
    return f"({','.join(repr(value) for value in values.tolist())})"
