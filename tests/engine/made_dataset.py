"""A small data set in MSD layout for tests."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

CASES = 7


def write_dataset(folder: Path, contrast: float = 0.0, scale: int = 1) -> Path:
    """Scans (6, 5, 20) of noise with a structure in the slices 6..13 that is brighter by `contrast`.

    Slices are `scale` times as large either way.
    """
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index in range(CASES):
        rng = np.random.default_rng(index)
        labels = np.zeros((6, 5, 20), dtype=np.uint8)
        labels[1:4, 1:4, 6:14] = 1
        labels = labels.repeat(scale, 0).repeat(scale, 1)
        scan = (rng.normal(size=labels.shape) + contrast * labels).astype(np.float32)
        images = {"imagesTr": scan, "labelsTr": labels}
        for part, values in images.items():
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / part / f"case{index}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"name": "Made", "labels": {"1": "structure"}}))
    return folder
