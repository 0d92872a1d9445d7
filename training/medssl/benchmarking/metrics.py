"""The metrics of the protocol: Dice, 95 % Hausdorff distance as MONAI computes it, relative volume error.

The first two are what Maier-Hein et al., "Metrics reloaded" (Nature Methods 21, 2024), recommend together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from medssl.core.labels.metrics import check_shapes, dice, volume_error

MEASURES = ("dice", "hausdorff95_mm", "volume_error")

PERCENTILE = 95


def hausdorff95_mm(
    prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int], spacing_mm: Sequence[float]
) -> dict[int, float]:
    """95 % Hausdorff distance of each class: the larger of both directed 95th percentiles, in millimetres.

    A class that only one of the two has is as far off as the scan is large: its diagonal. NaN where neither
    has it.

    Args:
        prediction: labels (Z, Y, X).
        reference: reference labels of the same shape.
        spacing_mm: along (z, y, x).

    Raises:
        UserError: "wrong-shape".
    """
    import torch  # MONAI brings it anyway
    from monai.metrics import compute_hausdorff_distance

    check_shapes(prediction, reference)
    diagonal = math.hypot(*(length * step for length, step in zip(reference.shape, spacing_mm, strict=True)))
    result = {}
    for class_id in class_ids:
        pair = [labels == class_id for labels in (prediction, reference)]
        found = [bool(mask.any()) for mask in pair]
        if not all(found):
            result[class_id] = diagonal if any(found) else math.nan
            continue
        box = _box(pair[0] | pair[1])
        predicted, true = (torch.from_numpy(mask[box].astype(np.float32))[None, None] for mask in pair)
        with warnings.catch_warnings():  # MONAI's own use of its own deprecated argument
            warnings.simplefilter("ignore", FutureWarning)
            distance = compute_hausdorff_distance(
                predicted, true, include_background=True, percentile=PERCENTILE, spacing=list(spacing_mm)
            )
        result[class_id] = float(distance)
    return result


def measure(
    prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int], spacing_mm: Sequence[float]
) -> dict[str, dict[int, float]]:
    """All MEASURES at once, {measure: {class id: value}}."""
    return {
        "dice": dice(prediction, reference, class_ids),
        "hausdorff95_mm": hausdorff95_mm(prediction, reference, class_ids, spacing_mm),
        "volume_error": volume_error(prediction, reference, class_ids),
    }


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty: distances outside of it are nobody's."""
    spans = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        spans.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(spans)
