"""Random Fourier features of cached feature vectors and their positions in the scan.

Rahimi and Recht, "Random features for large-scale kernel machines", 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

N_FOURIER_FEATURES = 256
"""Random Fourier features per cell."""
FEATURE_FREQUENCY, POSITION_FREQUENCY = 1.6, 6.0
"""Frequency scale of the random Fourier features for feature vectors (of unit length) and positions (-1..1
over the scan). The position frequency rises from 0 for the first to its maximum for the last: some represent
the tissue, some the position."""
VECTOR_WEIGHT = 0.3
"""Weight of the cached vectors relative to the random Fourier features."""


def extended_features(vectors: np.ndarray, position_vox: np.ndarray, shape_zyx: Sequence[int]) -> np.ndarray:
    """Concatenate vectors, random Fourier features of vectors and positions, and a constant 1.

    Args:
        vectors: Unit feature vectors, float32 or float64 (N, F).
        position_vox: Positions in canonical voxels (N, 3).
        shape_zyx: Shape of the scan in voxels.

    Returns:
        (N, D) in the data type of `vectors`.
    """
    frequencies, phases = (
        array.astype(vectors.dtype, copy=False) for array in _random_frequencies(vectors.shape[1])
    )
    position = (2 * (position_vox + 0.5) / np.asarray(shape_zyx) - 1).astype(vectors.dtype)
    angle = vectors @ frequencies[:-3] + position @ frequencies[-3:] + phases
    fourier_features = np.cos(angle, out=angle)
    fourier_features *= (2 / N_FOURIER_FEATURES) ** 0.5
    return np.hstack([VECTOR_WEIGHT * vectors, fourier_features, np.ones((len(vectors), 1), vectors.dtype)])


@lru_cache(maxsize=4)
def _random_frequencies(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (width + 3, N_FOURIER_FEATURES) and phases (N_FOURIER_FEATURES,), float32."""
    generator = np.random.default_rng(0)
    frequencies = generator.standard_normal((width + 3, N_FOURIER_FEATURES))
    frequencies[:-3] *= FEATURE_FREQUENCY
    frequencies[-3:] *= np.linspace(0, POSITION_FREQUENCY, N_FOURIER_FEATURES)
    phases = generator.uniform(0, 2 * np.pi, N_FOURIER_FEATURES)
    return frequencies.astype(np.float32), phases.astype(np.float32)
