"""What a result was made from: fingerprints of scan and weights, and the version of the computation.

Predictions, probabilities and features store it with them. One of which it differs from the present origin is
outdated: it is made again, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.core.project.contents import Scan

Origin = dict[str, str | int]
"""JSON values by name: "image" names source and modality, "normalised" what was made of them."""


def origin_of(scan: Scan, weights_sha256: str, version: int) -> Origin:
    """The origin of a result.

    Args:
        scan: The scan that it was computed from.
        weights_sha256: Fingerprint of the weights (`Run.weights_sha256`), taken before they were loaded: a
            training may replace them in the meantime, and the result is then outdated.
        version: Version of the computation.
    """
    origin: Origin = {"image": scan.image_fingerprint, "weights": weights_sha256, "format": version}
    return {**origin, "normalised": scan.image_hashes} if scan.image_sha256 else origin


def is_current(stored: Mapping[str, Any], present: Origin) -> bool:
    """Whether a result with this stored origin would come out the same now."""
    stored = {"format": 1, **stored}  # former versions did not store it
    return all(stored.get(name) == value for name, value in present.items())
