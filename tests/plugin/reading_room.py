"""Scans for the tests of what is read on the screen."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

SHAPE = (20, 24, 28)
"""Z, Y, X."""
OBLIQUE = np.array([[-0.9, 0.1, 0, 40], [0.1, 0.9, -0.3, -12], [0, 0.4, 1.9, 7], [0, 0, 0, 1.0]])
"""Columns lead nearest to the left, to anterior and superior."""


def write(path: Path, values: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    """Write a scan (I, J, K)."""
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    return path


def ct(offset: float = 0) -> np.ndarray:
    """Tissue in air, in Hounsfield units plus an offset, (I, J, K)."""
    values = np.full(SHAPE[::-1], -1000.0)
    values[4:-4, 4:-4, 3:-3] = 40 + np.random.default_rng(0).normal(0, 12, (20, 16, 14))
    return values + offset
