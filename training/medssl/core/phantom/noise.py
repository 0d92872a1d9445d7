"""Simulation of the scanner: tissue texture, blur and correlated noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

# Standard deviation of the tissue texture in HU at the given densities.
TEXTURE_AT = (-1000, -940, -850, -350, -100, 0, 40, 150, 300, 800)
TEXTURE_HU = (0, 4, 22, 18, 6, 3, 5, 5, 25, 30)


def scan(hu: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate the scan of noise-free densities.

    Args:
        hu: Noise-free densities in HU, float32 (Z, Y, X).
        inside: Mask of the body, bool (Z, Y, X), which determines the attenuation.

    Returns:
        Grey values in HU, int16 (Z, Y, X).
    """
    shape = hu.shape
    texture = gaussian_filter(_white_noise(rng, shape), (0.5, 0.9, 0.9))
    texture *= np.interp(hu, TEXTURE_AT, TEXTURE_HU).astype(np.float32) / texture.std()
    scanned = gaussian_filter(hu + texture, (0.25, 0.42, 0.42))

    # CT noise is weak at low frequencies (ramp filter) and at high frequencies (kernel).
    white = _white_noise(rng, shape)
    noise = gaussian_filter(white, (0.3, 0.6, 0.6)) - 0.75 * gaussian_filter(white, (0.3, 1.5, 1.5))
    noise /= noise.std()
    streaks = gaussian_filter1d(gaussian_filter1d(_white_noise(rng, shape), 14, axis=2), 0.6, axis=1)
    streaks /= streaks.std()
    attenuation = _attenuation(inside, hu)
    noise_hu = rng.uniform(9.0, 14.0)
    scanned += noise_hu * (0.35 + 0.75 * attenuation) * noise + 3.2 * attenuation**2 * streaks
    return np.clip(np.rint(scanned), -1024, 3071).astype(np.int16)


def _white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _attenuation(inside: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Relative attenuation of the beams through a voxel: about 0 in air, 1 in the middle of the abdomen."""
    density = np.clip((hu + 1000) / 1000, 0, 1.8) * inside
    path = density.sum(axis=2, keepdims=True) * density.sum(axis=1, keepdims=True)
    attenuation = np.sqrt(path / max(float(np.percentile(path[path > 0], 95)), 1.0))
    return gaussian_filter1d(np.clip(attenuation, 0, 1.3), 3, axis=1)
