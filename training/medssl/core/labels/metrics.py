"""Agreement with reference labels, class by class: Dice (1945) and relative volume error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medssl.core.errors import UserError


def dice(prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int]) -> dict[int, float]:
    """Dice of each class: twice the common volume over the sum of both; NaN where a class is in neither.

    Args:
        prediction: labels of one shape.
        reference: reference labels of the same shape.

    Raises:
        UserError: "wrong-shape".
    """
    check_shapes(prediction, reference)
    result = {}
    for class_id in class_ids:
        predicted, true = prediction == class_id, reference == class_id
        both = int(predicted.sum()) + int(true.sum())
        common = int(np.count_nonzero(predicted & true))
        result[class_id] = 2.0 * common / both if both else math.nan
    return result


def volume_error(prediction: np.ndarray, reference: np.ndarray, class_ids: Sequence[int]) -> dict[int, float]:
    """How much too large or too small each class is, over its true volume: 0.1 is ten per cent, 1 is a class
    that is missed. NaN where the reference has none of it.

    Raises UserError ("wrong-shape").
    """
    check_shapes(prediction, reference)
    result = {}
    for class_id in class_ids:
        predicted, true = (int((labels == class_id).sum()) for labels in (prediction, reference))
        result[class_id] = abs(predicted - true) / true if true else math.nan
    return result


def check_shapes(prediction: np.ndarray, reference: np.ndarray) -> None:
    """Raises UserError ("wrong-shape") unless both are of one shape."""
    if prediction.shape != reference.shape:
        raise UserError(
            f"A prediction of shape {prediction.shape} cannot be compared with reference labels of shape "
            f"{reference.shape}; give the reference of the same scan.",
            code="wrong-shape",
        )
