"""Reads scans and label volumes from files and DICOM folders, as canonical (z, y, x) layers in mm."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError

LayerData = tuple[Any, ...]
NO_LAYERS: list[LayerData] = [(None,)]
"""napari's value for "read, nothing to show": the error has been reported already."""
MAX_SCANS = 24
"""More scans than this in a folder are not opened as layers."""


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """napari's reader hook.

    Returns:
        A function that reads `path`, or None for an unsupported format.
    """
    from medssl.core.io.volume import READABLE

    paths = [Path(item) for item in _as_list(path)]
    suffixes = (*READABLE, ".dcm")
    return read if all(p.is_dir() or p.name.lower().endswith(suffixes) for p in paths) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Read files and folders as layers. A file that cannot be read is reported; the others are shown."""
    from medssl.core.io.volume import find_scans
    from napari.utils.notifications import show_error

    layers: list[LayerData] = []
    try:
        scans = find_scans([Path(item) for item in _as_list(path)])
        if len(scans) > MAX_SCANS:
            raise UserError(
                f"{path} contains {len(scans)} scans, too many for one layer list; "
                'add the folder in the dock "Train on few slices".',
                code="too-many",
            )
    except UserError as error:
        show_error(str(error))
        return NO_LAYERS
    for scan in scans:
        try:
            layers.append(read_one(scan))
        except UserError as error:
            show_error(str(error))
    return layers or NO_LAYERS


def read_one(path: Path) -> LayerData:
    """Read one volume as a layer: Labels if it has few distinct non-negative integers, otherwise an Image.

    Raises:
        UserError: It is not a single 3D scalar volume.
    """
    from medssl.core.io.volume import read_scan
    from napari.utils.notifications import show_warning

    from napari_medssl import layers

    volume = read_scan(path)
    name = short_name(path)
    for note in volume.notes:
        show_warning(f"{path.name}: {note}")
    if _looks_like_labels(volume.array):
        return layers.labels_data(volume.array.astype("uint8"), volume.geometry, name, path)
    return layers.scan_data(volume.array, volume.geometry, name, path)


def short_name(path: Path) -> str:
    """File name without its suffixes; for DICOM the folder name."""
    name = path.name
    for suffix in (".gz", ".nii", ".hdr", ".nrrd", ".mha", ".mhd", ".mgz", ".dcm"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name or path.name


def _looks_like_labels(array: Any) -> bool:
    """Few distinct integers, most voxels 0; a scan, even an 8-bit one, has many values."""
    import numpy as np

    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        return False
    step = max(1, round((array.size / 2_000_000) ** (1 / 3)))
    values = np.unique(array[::step, ::step, ::step])
    return len(values) <= 64 and bool(np.all(values == np.round(values))) and np.mean(array == 0) > 0.5


def _as_list(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str | os.PathLike) else list(path)
