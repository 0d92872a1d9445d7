"""Metrics against reference labels, per class: Dice coefficient (Dice, 1945) and relative volume error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import size_text


def dice(prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int]) -> dict[int, float]:
    """Dice coefficient of each class: twice the intersection over the sum of both volumes.

    Args:
        prediction: Predicted class ids, any integer type (any shape).
        reference: Reference class ids (same shape as `prediction`).

    Returns:
        {class id: Dice in 0..1}; NaN for a class in neither of the two.

    Raises:
        UserError: "wrong-shape".
    """
    check_shapes(prediction, reference)
    result = {}
    for class_id in class_ids:
        predicted, true = prediction == class_id, reference == class_id
        total = int(predicted.sum()) + int(true.sum())
        intersection = int(np.count_nonzero(predicted & true))
        result[class_id] = 2.0 * intersection / total if total else math.nan
    return result


def volume_error(prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int]) -> dict[int, float]:
    """Absolute volume error of each class relative to its reference volume.

    Args:
        prediction: Predicted class ids, any integer type (any shape).
        reference: Reference class ids (same shape as `prediction`).

    Returns:
        {class id: error}; 0.1 is ten per cent, 1 a class that is missed, NaN a class that the reference
        lacks.

    Raises:
        UserError: "wrong-shape".
    """
    check_shapes(prediction, reference)
    result = {}
    for class_id in class_ids:
        predicted, true = (int((labels == class_id).sum()) for labels in (prediction, reference))
        result[class_id] = abs(predicted - true) / true if true else math.nan
    return result


def check_shapes(prediction: np.ndarray, reference: np.ndarray) -> None:
    """Require that prediction and reference have the same shape.

    Args:
        prediction: Predicted class ids (any shape).
        reference: Reference class ids (any shape).

    Raises:
        UserError: "wrong-shape" if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise UserError(
            f"A prediction of {size_text(prediction.shape)} voxels cannot be compared with a reference of "
            f"{size_text(reference.shape)}; give the reference of the same scan.",
            code="wrong-shape",
        )
