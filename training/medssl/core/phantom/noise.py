"""What the scanner and the tissue add to the drawing: texture, blur and correlated noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

# Deviation of the tissue's own texture at a density, HU.
TEXTURE_AT = (-1000, -940, -850, -350, -100, 0, 40, 150, 300, 800)
TEXTURE_HU = (0, 4, 22, 18, 6, 3, 5, 5, 25, 30)


def scan(hu: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn a drawing into a scan: int16 HU of the same shape.

    hu: (Z, Y, X) noise-free; inside: (Z, Y, X) bool, the body, which is where photons get lost.
    """
    shape = hu.shape
    texture = gaussian_filter(_white(rng, shape), (0.5, 0.9, 0.9))
    texture *= np.interp(hu, TEXTURE_AT, TEXTURE_HU).astype(np.float32) / texture.std()
    scanned = gaussian_filter(hu + texture, (0.25, 0.42, 0.42))

    # A CT's noise grains: little at low frequencies (ramp filter), little at high ones (kernel).
    white = _white(rng, shape)
    grain = gaussian_filter(white, (0.3, 0.6, 0.6)) - 0.75 * gaussian_filter(white, (0.3, 1.5, 1.5))
    grain /= grain.std()
    streak = gaussian_filter1d(gaussian_filter1d(_white(rng, shape), 14, axis=2), 0.6, axis=1)
    streak /= streak.std()
    loss = _photon_loss(inside, hu)
    quality = rng.uniform(9.0, 14.0)
    scanned += quality * (0.35 + 0.75 * loss) * grain + 3.2 * loss**2 * streak
    return np.clip(np.rint(scanned), -1024, 3071).astype(np.int16)


def _white(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _photon_loss(inside: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """About 0 in air and 1 in the middle of the belly: how much tissue the beams crossed."""
    matter = np.clip((hu + 1000) / 1000, 0, 1.8) * inside
    across = matter.sum(axis=2, keepdims=True) * matter.sum(axis=1, keepdims=True)
    loss = np.sqrt(across / max(float(np.percentile(across[across > 0], 95)), 1.0))
    return gaussian_filter1d(np.clip(loss, 0, 1.3), 3, axis=1)
