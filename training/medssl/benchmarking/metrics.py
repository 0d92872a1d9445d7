"""Metrics of the protocol: Dice, 95 % Hausdorff distance as MONAI computes it, relative volume error.

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
    """95 % Hausdorff distance of each class: the larger of both directed 95th percentiles.

    If only one of the two contains a class, the distance is the diagonal of the scan.

    Args:
        prediction: predicted labels, integer (Z, Y, X).
        reference: reference labels, integer (Z, Y, X).
        class_ids: classes to evaluate.
        spacing_mm: voxel spacing (z, y, x).

    Returns:
        {class id: distance in mm}; NaN if neither contains the class.

    Raises:
        UserError: "wrong-shape" if the shapes differ.
    """
    import torch  # a dependency of MONAI
    from monai.metrics import compute_hausdorff_distance

    check_shapes(prediction, reference)
    diagonal = math.hypot(*(length * step for length, step in zip(reference.shape, spacing_mm, strict=True)))
    result = {}
    for class_id in class_ids:
        pair = [labels == class_id for labels in (prediction, reference)]
        present = [bool(mask.any()) for mask in pair]
        if not all(present):
            result[class_id] = diagonal if any(present) else math.nan
            continue
        box = _box(pair[0] | pair[1])
        predicted, true = (torch.from_numpy(mask[box].astype(np.float32))[None, None] for mask in pair)
        with warnings.catch_warnings():  # MONAI uses an argument that it deprecates
            warnings.simplefilter("ignore", FutureWarning)
            distance = compute_hausdorff_distance(
                predicted, true, include_background=True, percentile=PERCENTILE, spacing=list(spacing_mm)
            )
        result[class_id] = float(distance)
    return result


def measure(
    prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int], spacing_mm: Sequence[float]
) -> dict[str, dict[int, float]]:
    """Compute all MEASURES.

    Args:
        prediction: predicted labels, integer (Z, Y, X).
        reference: reference labels, integer (Z, Y, X).
        class_ids: classes to evaluate.
        spacing_mm: voxel spacing (z, y, x).

    Returns:
        {metric: {class id: value}}.

    Raises:
        UserError: "wrong-shape" if the shapes differ.
    """
    return {
        "dice": dice(prediction, reference, class_ids),
        "hausdorff95_mm": hausdorff95_mm(prediction, reference, class_ids, spacing_mm),
        "volume_error": volume_error(prediction, reference, class_ids),
    }


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of a non-empty mask, to which the computation of distances can be limited."""
    spans = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        indices = np.flatnonzero(mask.any(axis=others))
        spans.append(slice(int(indices[0]), int(indices[-1]) + 1))
    return tuple(spans)
