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
    import numpy as np
    from medssl.core.io.volume import write_labels as write
    from medssl.core.project.project import SURE_BACKGROUND
    from napari.utils.notifications import show_warning

    from napari_medssl import layer_units, layers

    labels, geometry = layers.canonical(data, attributes)
    is_own = layers.KEY in attributes.get("metadata", {})
    if note := "" if is_own else layer_units.assumption(attributes):
        show_warning(note)
    if attributes.get("metadata", {}).get(layers.KEY, {}).get("role") == layers.ANNOTATION:
        labels = np.where(labels == SURE_BACKGROUND, 0, labels).astype(labels.dtype)
    write(Path(path), labels, geometry)
    return [path]
