"""NRRD and MetaImage: read through SimpleITK, labels written by hand (exact, and sheared grids, too)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medssl.core.errors import UserError
from medssl.core.io.geometry import RAS_TO_LPS, Geometry, three_axes

# ITK prints warnings about odd headers to the terminal; what matters of them is checked in this package.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    """Array in (i, j, k) order and geometry of a file that SimpleITK reads.

    Raises UserError ("not-scalar", "not-3d", "bad-geometry") and RuntimeError for damaged files.
    """
    image = sitk.ReadImage(str(path))
    parts = image.GetNumberOfComponentsPerPixel()
    if parts != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise UserError(
            f"{path} holds colours, vectors or complex numbers, not one grey value a voxel; "
            "export it as a plain scalar volume.",
            code="not-scalar",
        )
    array = three_axes(sitk.GetArrayFromImage(image).T, path)
    directions = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return array, Geometry.of(RAS_TO_LPS @ affine, array.shape)


def nrrd_bytes(array: np.ndarray, geometry: Geometry) -> bytes:
    """An NRRD file (format: teem.sourceforge.net/nrrd/format.html) of an (i, j, k) label array."""
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
    """A MetaImage file (format: itk.org/Wiki/ITK/MetaIO) of an (i, j, k) label array."""
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
