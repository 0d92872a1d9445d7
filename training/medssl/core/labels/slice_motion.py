"""How what is seen in a slice moves through the slices beside it: soft block matching.

A pixel's displacement to the slice before is the mean of all displacements in a small window, weighted by how
alike the patches are (as non-local means weights them: Coupé et al., "Patch-based segmentation using expert
priors", NeuroImage 54, 2011) and by how short it is. Where the slices show nothing, all patches are alike,
and the displacement is zero.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

PATCH = 5
"""Side of the patches in pixels."""
NOISE = 0.1
"""Difference of two patches that makes one e times less likely, as a fraction of the contrast."""
SMOOTHING = 2.0
"""Standard deviation of the Gaussian that smooths displacements, in pixels."""


def displacements(slab: np.ndarray, expected: float = 1.0) -> np.ndarray:
    """Displacements from each slice to the first one, through all slices between them.

    Args:
        slab: Grey values with a contrast of about 1, float32 (slices, rows, columns).
        expected: Standard deviation in pixels of displacements between neighbouring slices, before anything
            is seen. Up to 1.5 times as far is searched, at least 2 and at most 4 pixels.

    Returns:
        float32 (slices, 2, rows, columns): rows and columns to add to a pixel's position to find what it
        shows in the first slice.
    """
    from scipy.ndimage import map_coordinates  # imported late: it takes a third of a second

    search = int(np.clip(np.ceil(1.5 * expected), 2, 4))
    pixels = np.indices(slab.shape[1:]).astype(np.float32)
    total = [np.zeros_like(pixels)]
    for before, here in pairwise(slab):
        step = _displacement(here, before, expected, search)
        moved = [map_coordinates(along, pixels + step, order=1, mode="nearest") for along in total[-1]]
        total.append(step + np.stack(moved))
    return np.stack(total)


def _displacement(here: np.ndarray, before: np.ndarray, expected: float, search: int) -> np.ndarray:
    """Displacements from a slice to the one before it, float32 (2, rows, columns)."""
    from scipy.ndimage import gaussian_filter, uniform_filter

    rows, columns = here.shape
    padded = np.pad(before, search, mode="edge")
    steps = [(down, right) for down in range(2 * search + 1) for right in range(2 * search + 1)]
    difference = np.stack(
        [
            uniform_filter((here - padded[down : down + rows, right : right + columns]) ** 2, PATCH)
            for down, right in steps
        ]
    )
    step = np.array(steps, np.float32) - search
    length = (step**2).sum(1)[:, None, None]
    likelihood = np.exp((difference.min(0) - difference) / NOISE**2 - length / (2 * expected**2))
    mean = np.einsum("src,sd->drc", likelihood / likelihood.sum(0), step)
    return np.stack([gaussian_filter(along, SMOOTHING) for along in mean])
