"""Intensity normalisation: grey values about zero with similar contrast for all scanners."""

from __future__ import annotations

import numpy as np

SAMPLE = 1_000_000
"""Approximate number of voxels that are sampled to distinguish CT from MR."""


def modality_of(array: np.ndarray) -> str:
    """Estimate the modality from the grey values, because most files do not state it.

    Hounsfield units are recognised by fat or air below zero and a range within that of scanners; the 1st and
    99th percentiles are used, so that outliers do not matter. PET and other modalities, and CT without
    negative values, are treated like MR.

    Args:
        array: Grey values, any numeric type (any shape).

    Returns:
        "ct" or "mr".
    """
    sample = array.ravel()[:: max(1, array.size // SAMPLE)]
    low, high = np.percentile(sample, [1, 99])
    return "ct" if -4000 <= low <= -50 and high <= 4000 else "mr"


def normalise(array: np.ndarray, modality: str) -> np.ndarray:
    """Normalise grey values by a monotone map.

    CT: asinh((HU - 40) / 100), the same for every scan. Soft tissue keeps its full contrast, air and bone
        remain
    distinguishable, and no window has to be chosen.

    MR: clipped to the 0.5 and 99.5 percentiles of the tissue, then standardised with mean and standard
    deviation of the whole scan, because the units are arbitrary. Tissue is everything above the lowest
    percent, so that a large empty background does not determine the range.

    Args:
        array: Grey values of a scan, any numeric type (Z, Y, X); Hounsfield units for CT.
        modality: "ct" or "mr", see `modality_of`.

    Returns:
        float32 (Z, Y, X).

    Example:
        >>> volume = read_scan(Path("scan.nii.gz"))
        >>> image = normalise(volume.array, modality_of(volume.array))
    """
    values = array.astype(np.float32, copy=False)
    if modality == "ct":
        return np.arcsinh((values - 40) / 100)
    low, high = _tissue_range(values)
    unit = np.empty_like(values)
    for source, result in zip(values, unit, strict=True):  # per slice: np.interp works in float64
        result[...] = np.interp(source, [low, high], [0, 1])
    mean, deviation = unit.mean(dtype=np.float64), unit.std(dtype=np.float64)
    return (unit - np.float32(mean)) / np.float32(max(deviation, 1e-6))


def _tissue_range(values: np.ndarray) -> tuple[float, float]:
    tissue = values[values > np.percentile(values, 1, method="lower")]
    low, high = np.percentile(tissue if tissue.size else values, [0.5, 99.5], method="nearest")
    if low == high:  # tissue of one value, as in a mask: keep its contrast to the background
        low, high = values.min(), values.max()
    return float(low), float(high)
