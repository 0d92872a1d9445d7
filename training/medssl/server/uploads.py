"""Files that clients send: their names are never used, and their size is checked before they are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.io.volume import suffix_of

SEGMENTATION_FILE = ".seg.nrrd"
FILES = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Endings of the files that are sent and received: single files that 3D Slicer reads and writes."""
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
        UserError: "unsupported" for an ending that is not in `FILES`, "disk-full", "not-writable".
    """
    ending = suffix_of(Path(name))
    if ending not in FILES:
        formats = ", ".join(FILES)
        raise UserError(
            f"{Path(name).name[-80:]!r} is no file that can be sent; send one of {formats}.",
            code="unsupported",
        )
    ending = SEGMENTATION_FILE if name.lower().endswith(SEGMENTATION_FILE) else ending
    path = folder / f"{stem}{ending}"
    write_whole(path, lambda file: shutil.copyfileobj(content, file, 1 << 20))
    return path


def check_voxels(path: Path, at_most: int = MAX_VOXELS) -> None:
    """Refuse a file that declares more voxels than are read here: compressed, they may be a small file.

    Raises:
        UserError: "too-large". A damaged header is left to whoever reads the file.
    """
    try:
        voxels = _voxels(path)
    except Exception:  # damaged headers make the libraries raise all kinds of exceptions
        return
    if voxels > at_most:
        raise UserError(
            f"{path.name} has {voxels} voxels, and at most {at_most} are accepted here; crop or downsample "
            "it.",
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
