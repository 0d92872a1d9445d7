"""A slice is filled from a few strokes by random walks, which rarely cross edges.

Grady, "Random walks for image segmentation" (IEEE Transactions on Pattern Analysis and Machine Intelligence
28, 2006), as in scikit-image: a pixel belongs to the seeds that a random walk from it most probably reaches.
"""

from __future__ import annotations

import numpy as np

from medssl.core.errors import UserError

MARGIN_PIXELS = 10
"""Width of the surroundings of the seeds that are filled."""
MAX_SIDE = 128
"""Side of the box in pixels from which walks are computed on a coarser grid, to take less than 0.2 s."""
BETA = 300.0
"""How strongly walks avoid edges."""
BLUR_PIXELS = 0.5
"""Standard deviation of the Gaussian that denoises grey values."""


def grow(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Fill a slice from seeds.

    Args:
        image: Grey values, any real type (rows, columns).
        seeds: Labels, uint8 (rows, columns); 0 is to be filled.

    Returns:
        Labels, uint8 (rows, columns): the seeds and what is filled in a box around them; 0 beyond it.

    Raises:
        UserError: "few-seeds" for seeds of fewer than two labels.
    """
    from scipy.ndimage import gaussian_filter  # imported late, with scikit-image: half a second
    from skimage.segmentation import random_walker
    from skimage.transform import downscale_local_mean, resize

    result = seeds.copy()
    if len(np.unique(seeds[seeds > 0])) < 2:
        raise UserError(
            "There is nothing to tell the seeds from; paint some of a class and some sure background (Q) in "
            "this slice.",
            code="few-seeds",
        )
    box = _box(seeds > 0)
    boxed = seeds[box]
    step = -(-max(boxed.shape) // MAX_SIDE)
    low, high = np.percentile(image[box], (1, 99))
    grey = np.clip((image[box].astype(np.float64) - low) / max(float(high - low), 1e-6), 0, 1)
    grey = gaussian_filter(grey, BLUR_PIXELS)
    coarse = _coarse_seeds(boxed, step)
    if coarse.all():
        return result
    ids, numbers = np.unique(coarse, return_inverse=True)
    probability = random_walker(
        downscale_local_mean(grey, (step, step)), numbers.reshape(coarse.shape), beta=BETA,
        mode="cg_j", tol=1e-3, prob_tol=1.0, return_full_prob=True,
    )  # fmt: skip
    shape = tuple(step * length for length in coarse.shape)
    fine = np.stack([resize(each, shape, order=1) for each in probability]) if step > 1 else probability
    filled = ids[1:][np.argmax(fine, axis=0)][: boxed.shape[0], : boxed.shape[1]]
    result[box] = np.where(boxed > 0, boxed, filled)
    return result


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    spans = [
        slice(max(int(at[0]) - MARGIN_PIXELS, 0), int(at[-1]) + 1 + MARGIN_PIXELS) for at in (rows, columns)
    ]
    return spans[0], spans[1]


def _coarse_seeds(seeds: np.ndarray, step: int) -> np.ndarray:
    """The largest label in each cell of `step` x `step` pixels; cells at the end are filled up with 0."""
    padded = np.pad(seeds, [(0, -length % step) for length in seeds.shape])
    rows, columns = (length // step for length in padded.shape)
    return padded.reshape(rows, step, columns, step).max(axis=(1, 3))
