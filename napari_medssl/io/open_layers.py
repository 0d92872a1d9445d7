"""Layers that the user has opened: which of them can be scans of the project, and from which file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from medssl.core.files import write_whole
from medssl.core.io.scan_file import ScanFile
from medssl.core.io.volume import READABLE, is_series, stem_of, suffix_of
from napari.layers import Image, Labels, Layer

from napari_medssl import layer_units, layers


def open_layers(stack: Iterable[Layer]) -> list[Layer]:
    """Images and labels that the user has opened and that belong to no project.

    Args:
        stack: The layers of the viewer.
    """
    return [layer for layer in stack if isinstance(layer, Image | Labels) and _is_users(layer)]


def _is_users(layer: Layer) -> bool:
    entry = layers.entry_of(layer)
    return not entry.get("scan") and entry.get("role", layers.SCAN) in (layers.SCAN, layers.LABELS)


def why_unusable(layer: Layer) -> str:
    """Why a layer cannot be a scan, in a few words; empty if it can."""
    if isinstance(layer, Labels):
        return "labels; step 2 imports masks"
    if layer.rgb:
        return "RGB, not a single channel"
    if layer.multiscale:
        return "multi-scale, not a single grid"
    if layer.ndim != 3:
        return f"{layer.ndim} dimensions, not 3"
    if 0 in layer.data.shape:
        return "empty"
    return "complex numbers" if layer.data.dtype.kind == "c" else ""


def scan_file(layer: Layer) -> ScanFile | None:
    """The file to add for a layer; None if its voxels have to be saved first.

    A file that another reader has opened is read again, as that reader may have dropped its geometry.
    """
    path = layers.file_of(layer)
    if path is None or not path.exists() or not (suffix_of(path) in READABLE or is_series(path)):
        return None
    return _file(path, layer.name if layers.entry_of(layer) else stem_of(path))


def save(layer: Image, folder: Path) -> ScanFile:
    """Write an image layer as NIfTI, so that it can be added as a scan.

    Args:
        layer: A layer for which `why_unusable` has no reason.
        folder: Where to write it; other files there stay.

    Raises:
        UserError: Those of `layers.canonical` and `write_whole`.
    """
    import nibabel

    attributes = layer_units.attributes_of(layer)
    array, geometry = layers.canonical(np.asarray(layer.data, dtype=np.float32), attributes)
    image = nibabel.Nifti1Image(geometry.to_source(array), geometry.matrix)
    image.header.set_xyzt_units("mm")
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in layer.name).strip("-") or "layer"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    path = next(path for each in names if not (path := folder / f"{each}.nii").exists())
    write_whole(path, lambda file: file.write(image.to_bytes()))
    return _file(path, layer.name)


def _file(path: Path, name: str) -> ScanFile:
    return ScanFile(path, stem_of(path), name, given=True)
