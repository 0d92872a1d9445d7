"""Writes Labels layers on the grid of their scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer as NIfTI, NRRD or MHA with the affine and shape of its scan.

    "Sure background" of an annotation is written as background (0).

    Args:
        path: The file to write; its suffix selects the format.
        data: Labels (Z, Y, X).
        attributes: Attributes of the layer, as napari passes them to writers.

    Returns:
        The paths that were written.

    Raises:
        UserError: The shape does not match, or the disk refuses.
    """
    from medssl.core.errors import UserError

    from napari_medssl.io.file_notices import file_notices

    file_notices.attempted.emit()
    try:
        _write(Path(path), data, attributes)
    except UserError as error:  # napari shows it
        file_notices.told.emit("error", str(error))
        raise
    return [path]


def _write(path: Path, data: Any, attributes: dict[str, Any]) -> None:
    import numpy as np
    from medssl.core.io.volume import write_labels
    from medssl.core.project.project import SURE_BACKGROUND

    from napari_medssl import layer_units, layers
    from napari_medssl.io.file_notices import file_notices

    labels, geometry = layers.canonical(data, attributes)
    is_own = layers.KEY in attributes.get("metadata", {})
    if note := "" if is_own else layer_units.assumption(attributes):
        file_notices.tell("warning", note)
    if attributes.get("metadata", {}).get(layers.KEY, {}).get("role") == layers.ANNOTATION:
        labels = np.where(labels == SURE_BACKGROUND, 0, labels).astype(labels.dtype)
    write_labels(path, labels, geometry)
