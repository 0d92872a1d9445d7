"""Contrast limits of a scan, from a sample of its voxels."""

from __future__ import annotations

import numpy as np

SAMPLE = 300_000
"""Approximate number of voxels."""


def usual_limits(array: np.ndarray) -> tuple[float, float]:
    """Contrast limits of a scan (Z, Y, X): a soft-tissue window for CT, otherwise percentiles."""
    if _sample(array).min() < -500:  # Hounsfield units: nothing else has air there
        return (-150.0, 250.0)
    return percentiles(array)


def percentiles(array: np.ndarray, low: float = 1, high: float = 99.5) -> tuple[float, float]:
    """Two percentiles of an array (Z, Y, X), and a range where they are equal."""
    low, high = np.percentile(_sample(array), (low, high))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def _sample(array: np.ndarray) -> np.ndarray:
    step = max(1, round((array.size / SAMPLE) ** (1 / 3)))
    return np.asarray(array[::step, ::step, ::step], dtype=np.float32)
