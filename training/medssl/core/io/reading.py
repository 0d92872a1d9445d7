"""What a reader of files returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.core.io.geometry import Geometry


@dataclass(frozen=True)
class Reading:
    """Voxels and header of a file in the axis order of the file.

    Attributes:
        array: Array (I, J, K) in the data type of the file.
        geometry: Its grid, in mm.
        modality: One of `intensity.MODALITIES` if the file states it, otherwise empty.
        notes: What was tolerated in the file, one sentence each, to be shown to the user.
    """

    array: np.ndarray
    geometry: Geometry
    modality: str = ""
    notes: tuple[str, ...] = ()
