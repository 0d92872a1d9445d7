"""What a network was trained on: modality, spacing and size of its scans, and whether a scan is like them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medssl.core.io.intensity import MODALITIES
from medssl.core.project.contents import Scan

SPACING_FACTOR, SIZE_FACTOR = 1.5, 2.0
"""How far spacing and size of a scan may lie outside of the range of the training, along any axis."""


def training_data(scans: Iterable[Scan]) -> dict[str, Any]:
    """Field "training_data" of a card: modalities, and ranges of spacing and size in mm, (z, y, x)."""
    scans = list(scans)
    spacing = np.array([scan.geometry.spacing_mm for scan in scans])
    size = np.array([_size_mm(scan) for scan in scans])
    return {
        "modalities": sorted({scan.modality for scan in scans}),
        "spacing_mm": [spacing.min(0).tolist(), spacing.max(0).tolist()],
        "size_mm": [size.min(0).tolist(), size.max(0).tolist()],
    }


def unlike_training(card: dict[str, Any], scan: Scan) -> str:
    """A sentence about how a scan differs from those that a network was trained on; empty if it does not.

    Args:
        card: Card of the weights; those of former versions do not say what they were trained on.
        scan: The scan to segment.
    """
    known = card.get("training_data")
    if not known:
        return ""
    scan_is, trained_on = [], []
    if scan.modality not in known["modalities"]:
        scan_is.append(MODALITIES.get(scan.modality, scan.modality))
        trained_on.append(" and ".join(MODALITIES.get(name, name) for name in known["modalities"]))
    for values, field, factor, what in (
        (scan.geometry.spacing_mm, "spacing_mm", SPACING_FACTOR, "voxels of {} mm"),
        (_size_mm(scan), "size_mm", SIZE_FACTOR, "a size of {} mm"),
    ):
        low, high = np.array(known[field])
        if (np.array(values) * factor < low).any() or (np.array(values) > high * factor).any():
            scan_is.append(what.format(_text(values, values)))
            trained_on.append(what.format(_text(low, high)))
    if not scan_is:
        return ""
    return (
        f"{scan.title} has {', '.join(scan_is)}, but the network was trained on scans with "
        f"{', '.join(trained_on)}; check its segmentation."
    )


def _size_mm(scan: Scan) -> tuple[float, ...]:
    geometry = scan.geometry
    return tuple(n * mm for n, mm in zip(geometry.shape_zyx, geometry.spacing_mm, strict=True))


def _text(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> str:
    """Lengths along x, y, z; a range where they differ."""
    ends = zip(reversed(list(low)), reversed(list(high)), strict=True)
    texts = ((f"{a:.3g}", f"{b:.3g}") for a, b in ends)
    return " x ".join(a if a == b else f"{a}-{b}" for a, b in texts)
