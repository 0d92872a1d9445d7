"""Interpolation between annotated slices that follows the scan.

The signed distances of shape_interpolation.py are taken where the scan shows that the outlines have moved to
(slice_motion.py), and shifted towards the class whose grey values a pixel has: by the logarithm of how much
more often they occur inside than outside, near the outlines in the two annotated slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medssl.core.labels.slice_motion import displacements

MARGIN_PIXELS = 8
"""Width of the surroundings of the structures that are looked at."""
STEP_PER_SLICE = 1.0
"""Standard deviation of how far outlines move from slice to slice, as a fraction of the slices' spacing."""
STEP_RANGE_PIXELS = (0.75, 3.0)
NEAR_PIXELS = 4
"""Distance to an outline up to which grey values are counted."""
BINS = 32
"""Of the histograms of grey values."""
GREY_WEIGHT = 0.4
"""Pixels that an outline moves where grey values are e times as frequent on its other side."""
MAX_LOG_RATIO = 3.0
BLUR_PIXELS = 0.7
"""Standard deviation of the Gaussian that denoises grey values for the histograms."""

DistancePair = tuple[np.ndarray, np.ndarray]
"""Signed distances of a structure in both annotated slices, mm, float64 (rows, columns)."""


def guided_distances(
    scan: np.ndarray, ends: Sequence[DistancePair], spacing_mm: Sequence[float], slice_mm: float
) -> Iterator[list[np.ndarray]]:
    """Signed distances of all structures in the slices between two annotated ones.

    Args:
        scan: Grey values from the first annotated slice to the last, any real type (slices, rows, columns).
        ends: Signed distances of each structure in these two slices.
        spacing_mm: Pixel spacing along (rows, columns).
        slice_mm: Spacing of the slices.

    Yields:
        For each slice between them, the distances of the structures, mm, each float64 (rows, columns).
    """
    from scipy.ndimage import find_objects, gaussian_filter, map_coordinates  # late: a third of a second

    pixel_mm = float(np.sqrt(spacing_mm[0] * spacing_mm[1]))
    nearest = np.max([distance for pair in ends for distance in pair if _occurs(distance)], axis=0)
    (box,) = find_objects((nearest > -MARGIN_PIXELS * pixel_mm).astype(np.uint8))
    slab = _normalised(np.asarray(scan[:, *box], np.float32), nearest[box] > -NEAR_PIXELS * pixel_mm)
    boxed = [(first[box], last[box]) for first, last in ends]
    pixels = np.indices(slab.shape[1:]).astype(np.float32)
    expected = float(np.clip(STEP_PER_SLICE * slice_mm / pixel_mm, *STEP_RANGE_PIXELS))
    to_first, to_last = displacements(slab, expected), displacements(slab[::-1], expected)[::-1]
    bins = np.clip(gaussian_filter(slab, (0, BLUR_PIXELS, BLUR_PIXELS)) * BINS, 0, BINS - 1).astype(int)
    ratios = [_log_ratios(bins, pair, NEAR_PIXELS * pixel_mm) for pair in boxed]
    for index in range(1, len(slab) - 1):
        weight = index / (len(slab) - 1)
        doubt = min(1.0, 4 * weight * (1 - weight))
        result = []
        for (first, last), whole, ratio in zip(boxed, ends, ratios, strict=True):
            moved_first = map_coordinates(first, pixels + to_first[index], order=1, mode="nearest")
            moved_last = map_coordinates(last, pixels + to_last[index], order=1, mode="nearest")
            distance = (1 - weight) * moved_first + weight * moved_last
            shift = GREY_WEIGHT * pixel_mm * doubt * gaussian_filter(ratio[bins[index]], 1.0)
            near = np.abs(distance) < 2 * NEAR_PIXELS * pixel_mm
            full = (1 - weight) * whole[0] + weight * whole[1]
            full[box] = distance + np.where(near, shift, 0)
            result.append(full)
        yield result


def _occurs(distance: np.ndarray) -> bool:
    """Whether a structure occurs in a slice; if not, its distance there is a constant."""
    return bool((distance > 0).any())


def _normalised(slab: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Grey values with the 2nd to the 98th percentile near the structures, in both end slices, as 0 and 1."""
    low, high = np.percentile(slab[[0, -1]][:, near], (2, 98))
    return np.clip((slab - low) / max(float(high - low), 1e-6), -0.2, 1.2)


def _log_ratios(bins: np.ndarray, ends: DistancePair, near_mm: float) -> np.ndarray:
    """Log ratio of how often each bin of grey values occurs inside and outside, float64 (BINS,)."""
    from scipy.ndimage import gaussian_filter1d

    frequencies = []
    for side in (1, -1):
        count = np.zeros(BINS)
        for distance, values in zip(ends, (bins[0], bins[-1]), strict=True):
            if _occurs(distance):
                chosen = (side * distance > 0) & (side * distance < near_mm)
                count += np.bincount(values[chosen], minlength=BINS)
        smooth = gaussian_filter1d(count, 1.5, mode="nearest") + 0.5
        frequencies.append(smooth / smooth.sum())
    return np.clip(np.log(frequencies[0] / frequencies[1]), -MAX_LOG_RATIO, MAX_LOG_RATIO)
