"""The normalised images of a project's scans, checked against their recorded hash, and their sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import cached_sha256, read_array, sha256_of, write_array
from medssl.core.io.volume import Volume, fingerprint, read_scan
from medssl.core.project.contents import Scan
from medssl.core.project.modality import normalised

EXPONENT = 0x7C00
"""Bits of a float16 that are all set in NaN and in infinity."""


def read_source(scan: Scan) -> Volume:
    """Read a scan again from the file or folder that it was added from.

    Raises:
        UserError: "missing", "changed" for other voxels or another grid, and those of `read_scan`.
    """
    source = Path(scan.source)
    if not source.exists():
        raise UserError(f"{source} was not found; put it back.", code="missing")
    volume = read_scan(source, scan.volume)
    if fingerprint(volume) != scan.sha256:
        raise UserError(
            f"{source} has changed since it was added; add it again to use what it holds now.", code="changed"
        )
    return volume


def write_image(path: Path, volume: Volume, modality: str) -> str:
    """Write the normalised image of a scan, float16 (Z, Y, X).

    Returns:
        SHA-256 of the file.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    write_array(path, normalised(volume, modality))
    return sha256_of(path)


def read_image(path: Path, scan: Scan) -> np.ndarray:
    """Open the normalised image of a scan as a memory map, float16 (Z, Y, X).

    The file is compared with its hash once in a process, and again when it has been written to.

    Raises:
        UserError: "missing", or "unreadable" if it is damaged.
    """
    image = read_array(path, memory_map=True)
    is_image = image.shape == scan.geometry.shape_zyx and image.dtype == np.float16
    # Former versions recorded no hash; then its voxels have to be finite.
    is_whole = cached_sha256(path) == scan.image_sha256 if scan.image_sha256 else is_image and _finite(image)
    if not (is_image and is_whole):
        raise UserError(f"{path}, the image of {scan.title}, is damaged.", code="unreadable")
    return image


def _finite(image: np.ndarray) -> bool:
    return not any(((plane.view(np.uint16) & EXPONENT) == EXPONENT).any() for plane in image)
