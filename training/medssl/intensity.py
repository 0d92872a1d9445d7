"""Grey values as the network sees them: about zero mean and unit range, whatever the scanner."""

from __future__ import annotations

import numpy as np


def modality_of(array: np.ndarray) -> str:
    """ "ct" for Hounsfield units (air far below zero, nothing much beyond metal), else "mr".

    A guess from the numbers alone, as files rarely say; PET and others are treated like MR.
    """
    low, high = float(array.min()), float(array.max())
    return "ct" if low <= -300 and -4000 <= low and high <= 32767 and high > -100 else "mr"


def normalise(array: np.ndarray, modality: str) -> np.ndarray:
    """Monotone map of the grey values, float32, same shape.

    CT: asinh((HU - 40) / 100). Soft tissue keeps its full contrast while air and bone stay apart, and no
    window has to be chosen. The same for every scan, as Hounsfield units mean the same in every scan.

    MR: clipped to the 0.5 and 99.5 percentiles of the tissue and standardised with the whole scan's mean
    and deviation after clipping, since units are arbitrary there. Tissue is what lies above the lowest
    percent: large empty backgrounds must not decide about the range.
    """
    values = array.astype(np.float32)
    if modality == "ct":
        return np.arcsinh((values - 40) / 100)
    tissue = values[values > np.percentile(values, 1)]
    low, high = np.percentile(tissue if tissue.size else values, [0.5, 99.5])
    clipped = values.clip(np.float32(low), np.float32(high))
    return (clipped - clipped.mean()) / max(float(clipped.std()), 1e-6)
