"""Recognition of label files among scans by their names; label_detection.py does so by their voxels."""

from __future__ import annotations

import re
from pathlib import Path

from medssl.core.io.volume import stem_of

MASK_FOLDERS = re.compile(
    r"(labels?|seg|segs|segmentations?|masks?|gt|ground[_-]?truth|annotations?|predictions?)(tr|ts|va|val)?"
)
"""Names of folders that hold label volumes: labelsTr, segmentations, masks, ..."""
MASK_WORDS = re.compile(r"(^|[^a-z])(d?seg|segmentations?|labels?|labelmap|masks?)([^a-z]|$)|[^a-z]gt$")
"""Words in the name of a label file: liver_mask, case-1_label, s.seg, sub-01_dseg; brainmask is a scan."""
MASK = "mask"
"""Code of the error that refuses a mask as a scan."""


def is_mask_folder(name: str) -> bool:
    """Whether folders of this name hold label volumes."""
    return MASK_FOLDERS.fullmatch(name.lower()) is not None


def has_mask_name(path: Path) -> bool:
    """Whether files are named like this for holding labels."""
    return MASK_WORDS.search(stem_of(path).lower()) is not None
