"""What the tests of the project folder share; the project itself is `small_project` of conftest.py."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.core.errors import UserError

SHAPE = (6, 9, 10)
"""(Z, Y, X) of the small project's scan."""


def code_of(error: pytest.ExceptionInfo[UserError]) -> str:
    """The code; the text is one line that ends a sentence."""
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    return error.value.code


def painted(value: int = 1) -> np.ndarray:
    """Labels (Z, Y, X) with a block of `value`."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 3:6, 4:8] = value
    return labels
