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
    from medssl.core.io.volume import READABLE, is_series, suffix_of

    paths = [Path(item) for item in _as_list(path)]
    return read if all(suffix_of(p) in READABLE or (p.exists() and is_series(p)) for p in paths) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Read files and folders as layers. A file that cannot be read is reported; the others are shown."""
    from medssl.core.io.find import find_scans

    from napari_medssl.io.file_notices import file_notices

    file_notices.attempted.emit()
    layers: list[LayerData] = []
    try:
        result = find_scans([Path(item) for item in _as_list(path)])
        if len(result.scans) > MAX_SCANS:
            raise UserError(
                f"{path} contains {len(result.scans)} scans, too many for one layer list; "
                'add the folder in the dock "Train on few slices".',
                code="too-many",
            )
    except UserError as error:
        file_notices.tell("error", str(error))
        return NO_LAYERS
    for scan in result.scans:
        try:
            layers.append(read_one(scan.path, scan.name))
        except UserError as error:
            file_notices.tell("error", str(error))
    if result.left_out:
        file_notices.tell("warning", f"Left out: {'; '.join(result.left_out)}.")
    further = sum(len(scan.further) for scan in result.scans)
    if further:
        text = f"{further} further channels are not shown; open the folder in the dock to use them."
        file_notices.tell("warning", text)
    return layers or NO_LAYERS


def read_one(path: Path, name: str = "") -> LayerData:
    """Read one volume as a layer: Labels if its content looks like labels, otherwise an Image.

    Args:
        path: A file or a DICOM folder.
        name: Name of the layer; by default that of the file or folder.

    Raises:
        UserError: It is not a single 3D scalar volume.
    """
    from medssl.core.io.label_detection import read_scan_or_labels
    from medssl.core.io.labels import LabelVolume
    from medssl.core.io.volume import fingerprint, stem_of

    from napari_medssl import layers
    from napari_medssl.io.file_notices import file_notices
    from napari_medssl.io.label_layers import layer_data

    volume, name = read_scan_or_labels(path), name or stem_of(path)
    for note in volume.notes:
        file_notices.tell("warning", f"{path.name}: {note}")
    if isinstance(volume, LabelVolume):
        return layer_data(volume, name)
    return layers.scan_data(volume.array, volume.geometry, name, path, sha256=fingerprint(volume))


def _as_list(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str | os.PathLike) else list(path)
