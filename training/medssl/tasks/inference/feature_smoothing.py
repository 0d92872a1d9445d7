"""Features of a cell, averaged with those of the cells around it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

from medssl.nn import devices

SMOOTHING = 1.5
"""Standard deviation of the smoothing of features, in edges of a cell where it is shortest: a 2.5D network
sees three slices, its neighbours others (docs/benchmarks/LOG.md, "Features of neighbouring cells")."""


def smoothed(features: np.ndarray, cell_mm: Sequence[float]) -> np.ndarray:
    """Each cell's features averaged with those around it, as float16 unit vectors.

    features: (Z', Y', X', F) float32, overwritten; cell_mm: edges of a cell along the first three axes. The
    weights are Gaussian, as wide in mm along every axis: across thick slices less is averaged than within.
    """
    allowed_widths = [SMOOTHING * min(cell_mm) / each for each in cell_mm]

    def part(channels: slice) -> None:
        some = features[..., channels]
        ndimage.gaussian_filter(some, (*allowed_widths, 0.0), output=some, mode="nearest", truncate=2.0)

    with ThreadPoolExecutor(devices.THREADS) as dataset:  # SciPy lets go of the interpreter
        list(dataset.map(part, (slice(first, first + 4) for first in range(0, features.shape[-1], 4))))
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.divide(features, np.maximum(lengths, 1e-6), out=features).astype(np.float16)
