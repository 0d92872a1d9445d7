"""Voxels whose value is NaN or infinite, which masking and resampling tools write outside the body."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.intensity import AIR_HU, infer_modality


def fill_non_finite(path: Path, values: np.ndarray, modality: str, notes: list[str]) -> np.ndarray | None:
    """Replace values that are not finite, in place.

    Args:
        path: The file, for the error message.
        values: float32 (I, J, K).
        modality: What the file states; empty for nothing.
        notes: Receives a sentence if there are such values.

    Returns:
        The voxels that were NaN or minus infinity, bool (I, J, K); None if all values are finite.

    Raises:
        UserError: "not-finite" if no value is finite, "constant" if all finite values are the same.
    """
    if np.isfinite(values.min() + values.max()):  # a single NaN makes both NaN
        return None
    finite = np.isfinite(values)
    if not finite.any():
        raise UserError(
            f"{path} holds no number in any voxel (all are NaN or infinite); export it again.",
            code="not-finite",
        )
    known = values[finite]
    is_ct = (modality or infer_modality(known).modality) == "ct"
    missing = ~finite & ~(values > 0)
    values[values == np.inf] = known.max()
    values[missing] = AIR_HU if is_ct else known.min()
    share = 100 * (1 - known.size / values.size)
    background = "air" if is_ct else "the lowest value"
    notes.append(f"{share:.3g} % of its voxels are NaN or infinite; NaN is taken as {background}.")
    return missing
