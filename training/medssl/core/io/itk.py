"""NRRD and MetaImage: read with SimpleITK; labels are encoded here, which is exact for sheared grids, too."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medssl.core.errors import UserError
from medssl.core.io.compressed import check_data
from medssl.core.io.geometry import RAS_TO_LPS, Geometry, three_axes
from medssl.core.io.reading import Reading
from medssl.core.io.units import mm_per_axis

MAX_HEADER = 1 << 18
"""Bytes in which the text header of a file has to end."""
META_MODALITIES = {"MET_MOD_CT": "ct", "MET_MOD_MR": "mr", "MET_MOD_US": "us"}

# ITK prints warnings about unusual headers to the terminal; this package checks the relevant fields itself.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_itk(path: Path, labels: bool = False) -> Reading:
    """Read a file with SimpleITK; voxel sizes and units, which ITK ignores or replaces, are read here.

    Args:
        path: The file.
        labels: Accept several channels and single slices.

    Returns:
        Array in the data type of the file, geometry, modality if a MetaImage states it, and notes.

    Raises:
        UserError: "not-scalar", "not-3d", "bad-geometry".
        RuntimeError, ValueError: The file is damaged.
    """
    notes: list[str] = []
    header = _header(path)
    units: list[str] = []
    if "dimension" in header:
        units = _check_nrrd(header, notes)
    elif "ndims" in header:
        units = _check_meta_image(header, notes)
    check_data(path, _declared_bytes(path))
    image = sitk.ReadImage(str(path))
    components = image.GetNumberOfComponentsPerPixel()
    if (components != 1 and not labels) or "complex" in image.GetPixelIDTypeAsString():
        raise UserError(
            f"{path} holds colours, vectors or complex numbers, not one grey value per voxel; "
            "export it as a scalar volume.",
            code="not-scalar",
        )
    array = sitk.GetArrayFromImage(image).T
    if components != 1:
        array = np.moveaxis(array, 0, -1)
    array = three_axes(array, path, labels)
    directions = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:3] *= np.array([*mm_per_axis(units, notes), 1.0, 1.0, 1.0])[:3, None]
    modality = META_MODALITIES.get(header.get("modality", ""), "")
    return Reading(array, Geometry.of(RAS_TO_LPS @ affine, array.shape), modality, tuple(notes))


def _declared_bytes(path: Path) -> int:
    """Bytes of voxels that a file has by its header (of complex ones, half)."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    bits = re.search(r"\d+", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    return values * int(bits[0]) // 8 if bits else 0


def _header(path: Path) -> dict[str, str]:
    """Fields of the text header of an NRRD or MetaImage file, {name in lower case: value}."""
    fields = {}
    with path.open("rb") as file:
        lines = file.read(MAX_HEADER).splitlines()
    for raw in lines:
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            line = raw.decode("latin-1")
        name, value = (part.strip() for part in (*re.split("[:=]", line, maxsplit=1), "")[:2])
        if not line.strip() or name == "ElementDataFile":
            break
        fields[name.lower()] = value
    return fields


def _check_nrrd(header: dict[str, str], notes: list[str]) -> list[str]:
    """Check that an NRRD header gives its voxel size; returns the units of the axes, empty if not stated.

    Raises:
        UserError: "bad-geometry".
    """
    field = "space directions" if "space directions" in header else "spacings"
    values = header.get(field, "")
    if field == "spacings":
        sizes, units = _floats(values.split()), header.get("units", "")
    else:
        vectors = re.findall(r"\(([^)]*)\)", values)  # the others are "none"
        sizes = [float(np.linalg.norm(_floats(vector.split(",")))) for vector in vectors]
        units = header.get("space units", "")
    _check_sizes(sizes, int(header["dimension"]), field, notes)
    return (re.findall(r'"([^"]*)"', units) or units.split())[-3:]


def _check_meta_image(header: dict[str, str], notes: list[str]) -> list[str]:
    """Check that a MetaImage header gives its voxel size; returns the units of the axes, empty if not stated.

    Raises:
        UserError: "bad-geometry".
    """
    sizes = header.get("elementspacing") or header.get("elementsize") or ""
    _check_sizes(_floats(sizes.split()), int(header["ndims"]), "ElementSpacing", notes)
    unit = header.get("distanceunits", "?")
    return [] if unit == "?" else [unit] * 3


def _check_sizes(sizes: Sequence[float], dimension: int, field: str, notes: list[str]) -> None:
    """Refuse a header without the voxel size of each axis, where ITK assumes 1; mention negative sizes.

    Raises:
        UserError: "bad-geometry".
    """
    known = [size for size in sizes if math.isfinite(size)]
    if len(known) < min(dimension, 3) or 0 in known:
        raise UserError(
            f"Its header does not give the size of its voxels along each axis; write it into {field!r}.",
            code="bad-geometry",
        )
    if min(known) < 0:
        listed = " x ".join(f"{size:.6g}" for size in known)
        notes.append(f"Its voxel size is negative ({listed}); that axis is taken as reversed.")


def _floats(texts: Sequence[str]) -> list[float]:
    """Numbers from a header; NaN for what is none."""
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text))
        except ValueError:
            numbers.append(math.nan)
    return numbers


def nrrd_bytes(array: np.ndarray, geometry: Geometry, compress: bool = True) -> bytes:
    """Encode a volume as an NRRD file (format: teem.sourceforge.net/nrrd/format.html).

    Args:
        array: Voxels in file order, uint8, uint16 or float32 (I, J, K).
        geometry: Their grid.
        compress: Compress the voxels with gzip.

    Returns:
        Content of the file.
    """
    affine = RAS_TO_LPS @ geometry.matrix
    lines = [
        "NRRD0004",
        f"type: {'float' if array.dtype == np.float32 else array.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {_numbers(array.shape)}",
        f"space directions: {' '.join(_vector(affine[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {_vector(affine[:3, 3])}",
    ]
    data = _little_endian(array)
    data = gzip.compress(data, compresslevel=4, mtime=0) if compress else data
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
