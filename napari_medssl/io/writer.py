"""Labels layers to files, on the grid of the scan that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer as NIfTI, NRRD or MHA with its scan's exact affine and shape.

    "Background, I am sure" of an annotation is background in the file.

    Raises UserError where shape or disk do not allow it.
    """
    import numpy as np
    from medssl.core.io.volume import write_labels as write
    from medssl.core.project.project import SURE_BACKGROUND

    from napari_medssl import layers

    labels, geometry = layers.canonical(data, attributes)
    if attributes.get("metadata", {}).get(layers.KEY, {}).get("role") == layers.ANNOTATION:
        labels = np.where(labels == SURE_BACKGROUND, 0, labels).astype(labels.dtype)
    write(Path(path), labels, geometry)
    return [path]
