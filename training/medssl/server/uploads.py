"""Files that clients send: their names are never used, and their size is checked before they are read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import BinaryIO

from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.io.itk import MAX_HEADER
from medssl.core.io.nifti import GZIP_MAGIC
from medssl.core.io.volume import suffix_of

SEGMENTATION_FILE = ".seg.nrrd"
FILES = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Endings of the files that are sent and received: single files that 3D Slicer reads and writes."""
NIFTI_FILES = (".nii", ".nii.gz")
"""Endings of what is not compressed, and of what is: the content decides."""
MAX_VOXELS = 1 << 30
"""Voxels of an image, or of all channels of a label file: 512 x 512 x 4096."""


def save_upload(content: BinaryIO, name: str, folder: Path, stem: str) -> Path:
    """Write a file that a client has sent.

    Args:
        content: Its content.
        name: Its name on the client, of which only the ending is used.
        folder: Folder of this server, which exists.
        stem: Name without ending that it gets.

    Returns:
        Its path.

    Raises:
        UserError: "unsupported" for an ending that is not in `FILES` and those of `need_attached`,
            "disk-full", "not-writable".
    """
    ending = suffix_of(Path(name))
    if ending not in FILES:
        formats = ", ".join(FILES)
        raise UserError(
            f"{Path(name).name[-80:]!r} is no file that can be sent; send one of {formats}.",
            code="unsupported",
        )
    if ending in NIFTI_FILES:
        ending = NIFTI_FILES[content.read(len(GZIP_MAGIC)) == GZIP_MAGIC]
        content.seek(0)
    else:
        need_attached(content.read(MAX_HEADER))
        content.seek(0)
    ending = SEGMENTATION_FILE if name.lower().endswith(SEGMENTATION_FILE) else ending
    path = folder / f"{stem}{ending}"
    write_whole(path, lambda file: shutil.copyfileobj(content, file, 1 << 20))
    return path


def need_attached(start: bytes) -> None:
    """Require that an NRRD or MetaImage file holds its voxels: it may name any other file of this machine.

    Args:
        start: The first `MAX_HEADER` bytes of the file.

    Raises:
        UserError: "unsupported".
    """
    if start.startswith(b"NRRD"):
        header = re.split(rb"\n\r?\n", start, maxsplit=1)
        attached = len(header) == 2 and not re.search(rb"(?im)^\s*data\s*file\s*:", header[0])
    else:
        first = re.search(rb"(?i)ElementDataFile[^\r\n]*", start)
        attached = first is not None and bool(re.fullmatch(rb"ElementDataFile\s*[=:]\s*LOCAL\s*", first[0]))
    if not attached:
        raise UserError(
            "The file does not hold its voxels itself, or is damaged; send an image with its data attached.",
            code="unsupported",
        )


def check_voxels(path: Path, at_most: int = MAX_VOXELS) -> None:
    """Refuse a file that declares more voxels than are read here: compressed, they may be a small file.

    Raises:
        UserError: "too-large". A damaged header is left to whoever reads the file.
    """
    try:
        voxels = _voxels(path)
    except Exception:  # damaged headers make the libraries raise all kinds of exceptions
        return
    check_count(path.name, voxels, at_most)


def check_count(name: str, voxels: int, at_most: int = MAX_VOXELS) -> None:
    """Refuse too many voxels; raises UserError ("too-large")."""
    if voxels > at_most:
        raise UserError(
            f"{name} has {voxels} voxels, and at most {at_most} are accepted here; crop or downsample it.",
            code="too-large",
        )


def _voxels(path: Path) -> int:
    """Number of values in a file, by its header."""
    if suffix_of(path) in (".nii", ".nii.gz"):
        import nibabel

        shape = nibabel.load(path).header.get_data_shape()  # type: ignore[attr-defined]
        components = 1
    else:
        import SimpleITK as sitk

        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        shape, components = reader.GetSize(), reader.GetNumberOfComponents()
    count = components
    for length in shape:
        count *= int(length)
    return count
