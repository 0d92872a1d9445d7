"""Recognition of label volumes among scans, by the name of a file and by its voxels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medssl.core.io.volume import stem_of

MASK_FOLDERS = re.compile(
    r"(labels?|seg|segs|segmentations?|masks?|gt|ground[_-]?truth|annotations?|predictions?)(tr|ts|va|val)?"
)
"""Names of folders that hold label volumes: labelsTr, segmentations, masks, ..."""
MASK_WORDS = re.compile(r"(^|[^a-z])(d?seg|segmentations?|labels?|labelmap|masks?)([^a-z]|$)|[^a-z]gt$")
"""Words in the name of a label file: liver_mask, case-1_label, s.seg, sub-01_dseg; brainmask is a scan."""
MASK = "mask"
"""Code of the error that refuses a mask as a scan."""
SAMPLED_PLANES = 32
MIN_EQUAL_NEIGHBOURS = 0.8
"""Fraction of neighbouring voxels above zero that have the same value; in scans it is below a third."""


def is_mask_folder(name: str) -> bool:
    """Whether folders of this name hold label volumes."""
    return MASK_FOLDERS.fullmatch(name.lower()) is not None


def has_mask_name(path: Path) -> bool:
    """Whether files are named like this for holding labels."""
    return MASK_WORDS.search(stem_of(path).lower()) is not None


def is_label_volume(array_zyx: np.ndarray) -> bool:
    """Whether voxels are class ids: whole numbers from 0 on that are the same in most neighbouring voxels.

    Args:
        array_zyx: Any numeric type (Z, Y, X).
    """
    planes = array_zyx[:: max(1, len(array_zyx) // SAMPLED_PLANES)]
    if array_zyx.min() < 0 or array_zyx.max() > 65535 or not (planes == np.round(planes)).all():
        return False
    equal = pairs = 0
    for first, second in ((planes[:, 1:], planes[:, :-1]), (planes[..., 1:], planes[..., :-1])):
        inside = (first > 0) & (second > 0)
        pairs += int(np.count_nonzero(inside))
        equal += int(np.count_nonzero(inside & (first == second)))
    return bool(pairs == 0 or equal >= MIN_EQUAL_NEIGHBOURS * pairs)
