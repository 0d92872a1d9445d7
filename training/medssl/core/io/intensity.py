"""Grey values as the network sees them: about zero mean and unit range, whatever the scanner."""

from __future__ import annotations

import numpy as np

SAMPLE = 1_000_000
"""About how many voxels are looked at to tell CT from MR."""


def modality_of(array: np.ndarray) -> str:
    """ "ct" for Hounsfield units (fat or air below zero, all within a scanner's range), else "mr".

    A guess from the bulk of the numbers, as files rarely say and a few stray voxels should not decide.
    PET and others are treated like MR, and so is CT without negative numbers.
    """
    sample = array.ravel()[:: max(1, array.size // SAMPLE)]
    low, high = np.percentile(sample, [1, 99])
    return "ct" if -4000 <= low <= -50 and high <= 4000 else "mr"


def normalise(array: np.ndarray, modality: str) -> np.ndarray:
    """Monotone map of the grey values, float32, same shape.

    CT: asinh((HU - 40) / 100). Soft tissue keeps its full contrast while air and bone stay apart, and no
    window has to be chosen. The same for every scan, as Hounsfield units mean the same in every scan.

    MR: clipped to the 0.5 and 99.5 percentiles of the tissue and standardised with the whole scan's mean
    and deviation after clipping, since units are arbitrary there. Tissue is what lies above the lowest
    percent: large empty backgrounds must not decide about the range.
    """
    values = array.astype(np.float32, copy=False)
    if modality == "ct":
        return np.arcsinh((values - 40) / 100)
    low, high = _tissue_range(values)
    unit = np.empty_like(values)
    for source, result in zip(values, unit, strict=True):  # by slice: np.interp works in float64
        result[...] = np.interp(source, [low, high], [0, 1])
    mean, deviation = unit.mean(dtype=np.float64), unit.std(dtype=np.float64)
    return (unit - np.float32(mean)) / np.float32(max(deviation, 1e-6))


def _tissue_range(values: np.ndarray) -> tuple[float, float]:
    tissue = values[values > np.percentile(values, 1, method="lower")]
    low, high = np.percentile(tissue if tissue.size else values, [0.5, 99.5], method="nearest")
    if low == high:  # tissue of one value, as in a mask: tell it from the background at least
        low, high = values.min(), values.max()
    return float(low), float(high)
