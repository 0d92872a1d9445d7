"""Gaussian smoothing of feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

from medssl.nn import devices

SMOOTHING = 1.5
"""Standard deviation in units of the shortest edge of a cell: a 2.5D network takes three slices only, and
neighbouring cells add others (docs/benchmarks/LOG.md, "Features of neighbouring cells")."""


def smoothed(features: np.ndarray, cell_mm: Sequence[float]) -> np.ndarray:
    """Smooth a feature map with a Gaussian of equal width in mm along each axis.

    Across thick slices less is averaged than within them.

    Args:
        features: Feature map in canonical order, float32 (Z', Y', X', F); overwritten.
        cell_mm: Edges of a cell in mm along Z', Y', X'.

    Returns:
        Unit vectors, float16 (Z', Y', X', F).
    """
    sigma = [SMOOTHING * min(cell_mm) / edge_mm for edge_mm in cell_mm]

    def smooth(channels: slice) -> None:
        view = features[..., channels]
        ndimage.gaussian_filter(view, (*sigma, 0.0), output=view, mode="nearest", truncate=2.0)

    with ThreadPoolExecutor(devices.THREADS) as executor:  # SciPy releases the GIL
        list(executor.map(smooth, (slice(first, first + 4) for first in range(0, features.shape[-1], 4))))
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.divide(features, np.maximum(lengths, 1e-6), out=features).astype(np.float16)
