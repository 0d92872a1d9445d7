"""Modality of a scan, and intensity normalisation: grey values with similar contrast for all scanners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MODALITIES = {"ct": "CT", "mr": "MR", "pt": "PET", "us": "ultrasound", "other": "other"}
"""{modality: its name}; CT alone has absolute grey values and a normalisation of its own."""
DICOM_MODALITIES = {"CT": "ct", "MR": "mr", "PT": "pt", "US": "us", "NM": "other"}
"""Modalities by DICOM's attribute; other values, such as "OT" of converted files, do not state one."""
AIR_HU, MAX_HU = -1024.0, 3071.0
"""Range of Hounsfield units; scanners fill voxels that they have not measured with other values."""
PLAUSIBLE_HU = (-1100.0, 4000.0)
"""The range with some tolerance, for interpolated scans and extended scales."""
SOFT_TISSUE_HU = (-174.0, 126.0)
"""Fat, water, muscle and organs."""
MIN_CONTRAST_HU = 20.0
"""Range that even a homogeneous organ has, by its noise."""
OFFSETS = (1024.0, 32768.0)
"""What files without a rescale intercept add to Hounsfield units."""
SAMPLE = 1_000_000
"""Approximate number of voxels that are sampled to infer the modality."""
CENTRE_HU, LINEAR_HU = 40.0, 100.0
"""Of the normalisation of CT: where its contrast is highest, and the distance over which it is linear."""


@dataclass(frozen=True)
class HounsfieldScale:
    """How the array of a CT stores Hounsfield units: with an offset, or normalised as by `normalise`."""

    offset: float = 0.0
    normalised: bool = False

    @classmethod
    def of(cls, array: np.ndarray) -> HounsfieldScale:
        """The scale of a CT (Z, Y, X): a project's normalised image is float16, what files hold is not."""
        if array.dtype == np.float16:
            return cls(normalised=True)
        return cls(_offset(_sample(array)))

    def stored(self, hounsfield: float) -> float:
        """The value with which the array stores Hounsfield units."""
        if self.normalised:
            return float(np.arcsinh((hounsfield - CENTRE_HU) / LINEAR_HU))
        return hounsfield + self.offset

    def hounsfield(self, stored: float) -> float:
        """The inverse of `stored`."""
        return float(np.sinh(stored)) * LINEAR_HU + CENTRE_HU if self.normalised else stored - self.offset


@dataclass(frozen=True)
class InferredModality:
    """What the grey values of a scan suggest: "ct" or "mr", and whether they do not fit the other one."""

    modality: str
    certain: bool


def infer_modality(array: np.ndarray) -> InferredModality:
    """Infer the modality from the grey values, because most files do not state it.

    Hounsfield units are recognised by fat or air below zero and a range within that of scanners; padding and
    metal do not matter. Crops of soft tissue without fat or air, and CT stored with an offset of 1024, are
    taken as CT, but not certain. PET and others count as MR.

    Args:
        array: Grey values, any numeric type (any shape).
    """
    sample = _sample(array)
    offset = _offset(sample)
    if offset:
        return InferredModality("ct", certain=offset != OFFSETS[0])
    values = _without_padding(sample)
    if values is None:
        return InferredModality("mr", certain=True)
    low, dark, middle, bright, high = np.percentile(values, [1, 25, 50, 75, 99])
    if high - low < MIN_CONTRAST_HU:
        return InferredModality("mr", certain=True)  # e.g. standardised or scaled to 1
    background = np.abs(values) <= 2
    if low <= -50:
        is_clear = _soft_tissue(values) >= 0.3 and background.mean() < 0.2
        return InferredModality("ct", certain=bool(is_clear))
    is_masked = background.mean() >= 0.05
    if _soft_tissue(values[~background] if is_masked else values) < 0.6:
        return InferredModality("mr", certain=True)
    # Soft tissue in CT has a narrow peak above zero, whose noise may reach below; an MR begins at zero.
    is_tissue = 10 <= middle <= 90 and low > 0.4 * middle
    below_zero = np.mean(values < -5) >= 1e-3 or (values.min() < 0 and bright - dark <= 35)
    return InferredModality("ct" if not is_masked and (is_tissue or below_zero) else "mr", certain=False)


def normalise(array: np.ndarray, modality: str) -> np.ndarray:
    """Normalise grey values by a monotone map.

    CT: asinh((HU - 40) / 100) of Hounsfield units between -1024 and 3071, the same for every scan. Soft
        tissue keeps its full contrast, air and bone remain distinguishable, and no window has to be chosen.
        Padding counts as air.

    Others: clipped to the 0.5 and 99.5 percentiles of the tissue, then standardised with mean and standard
    deviation of the whole scan, because the units are arbitrary. Tissue is everything above the lowest
    percent, so that a large empty background does not determine the range.

    Args:
        array: Grey values of a scan, any numeric type (Z, Y, X); Hounsfield units for CT.
        modality: One of MODALITIES, see `infer_modality`.

    Returns:
        float32 (Z, Y, X).

    Example:
        >>> volume = read_scan(Path("scan.nii.gz"))
        >>> image = normalise(volume.array, infer_modality(volume.array).modality)
    """
    values = array.astype(np.float32, copy=False)
    if modality == "ct":
        return np.arcsinh((_hounsfield(values) - CENTRE_HU) / LINEAR_HU)
    low, high = _tissue_range(values)
    unit = np.empty_like(values)
    for source, result in zip(values, unit, strict=True):  # per slice: np.interp works in float64
        result[...] = np.interp(source, [low, high], [0, 1])
    mean, deviation = unit.mean(dtype=np.float64), unit.std(dtype=np.float64)
    return (unit - np.float32(mean)) / np.float32(max(deviation, 1e-6))


def _hounsfield(values: np.ndarray) -> np.ndarray:
    """Hounsfield units from -1024 to 3071 of a stored CT, float32 (Z, Y, X), with air for padding."""
    units = np.clip(values - np.float32(_offset(_sample(values))), AIR_HU, MAX_HU)
    top = values.max()
    if top > PLAUSIBLE_HU[1] and _is_padding(values == top):
        units[values == top] = AIR_HU
    return units


def _is_padding(mask: np.ndarray) -> bool:
    """Whether voxels lie around the body, as padding does, and not inside it, as metal does."""
    inner = mask[1:-1, 1:-1, 1:-1]
    if not inner.size or mask.mean() < 0.01:
        return False
    border = (mask.sum() - inner.sum()) / (mask.size - inner.size)
    return bool(border > inner.mean())


def _offset(sample: np.ndarray) -> float:
    """The offset with which a CT is stored: 0, or one of OFFSETS if the values fit only with it."""
    values = _without_padding(sample)
    if values is not None and np.percentile(values, 1) <= -50:
        return 0.0
    for offset in OFFSETS:
        values = _without_padding(sample - np.float32(offset))
        if values is None or _soft_tissue(values) < 0.6:
            continue
        if np.mean((values > SOFT_TISSUE_HU[0]) & (values < SOFT_TISSUE_HU[1])) >= 0.08:
            return offset
    return 0.0


def _soft_tissue(values: np.ndarray) -> float:
    """Share of soft tissue in what is neither air nor lung, for values in Hounsfield units."""
    body = values[values > -500]
    if not body.size:
        return 0.0
    return float(np.mean((body > SOFT_TISSUE_HU[0]) & (body < SOFT_TISSUE_HU[1])))


def _without_padding(sample: np.ndarray) -> np.ndarray | None:
    """The values in the range of Hounsfield units; None if others are more than padding and metal."""
    low, high = sample < PLAUSIBLE_HU[0], sample > PLAUSIBLE_HU[1]
    for outside in (sample[low], sample[high]):
        if outside.size > 0.01 * sample.size and np.ptp(np.percentile(outside, [25, 75])) > 50:
            return None
    inside = sample[~(low | high)]
    return inside if inside.size >= 0.01 * sample.size else None


def _sample(array: np.ndarray) -> np.ndarray:
    return array.ravel()[:: max(1, array.size // SAMPLE)].astype(np.float32)


def _tissue_range(values: np.ndarray) -> tuple[float, float]:
    tissue = values[values > np.percentile(values, 1, method="lower")]
    low, high = np.percentile(tissue if tissue.size else values, [0.5, 99.5], method="nearest")
    if low == high:  # tissue of one value, as in a mask: keep its contrast to the background
        low, high = values.min(), values.max()
    return float(low), float(high)
