"""What is opened as labels, and what as an image."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.io.label_detection import looks_like_labels, read_scan_or_labels
from medssl.core.io.labels import LabelVolume
from scipy import ndimage

SHAPE = (24, 20, 16)


def blobs(*values: int) -> np.ndarray:
    """A ball of each value."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    labels = np.zeros(SHAPE, np.int32)
    for number, value in enumerate(values):
        centre = np.array([6 + 5 * number, 8 + 2 * number, 8])
        labels[np.linalg.norm(grid - centre[:, None, None, None], axis=0) < 4] = value
    return labels


def noise() -> np.random.Generator:
    return np.random.default_rng(0)


def smooth(levels: int) -> np.ndarray:
    """An image of that many grey values, most of it 0, as after skull stripping."""
    image = ndimage.gaussian_filter(noise().normal(size=SHAPE), 1)
    image = (image - image.min()) / np.ptp(image) * (levels - 1) + 1
    return np.where(blobs(1, 1, 1) > 0, image, 0).astype(np.uint8)


LABELS = {
    "FreeSurfer": blobs(1001, 2035),
    "MM-WHS": blobs(500, 205),
    "mask": blobs(255),
    "mostly foreground": np.where(blobs(2) == 2, 2, 1),
    "many in no order": np.where(blobs(1, 1) > 0, noise().integers(1, 60, SHAPE), 0),
    "a hair off": blobs(1, 2) * 1.00001,
    "NaN outside": np.where(blobs(1, 2) == 0, np.nan, blobs(1, 2)),
}
IMAGES = {
    "sparse counts": noise().poisson(0.3, SHAPE),
    "very sparse counts": noise().poisson(0.05, SHAPE),
    "counts in an organ": np.where(blobs(1) > 0, noise().poisson(6, SHAPE), 0),
    "CT": noise().integers(-1000, 1000, SHAPE),
    "8 bits": smooth(200),
    "fractions": noise().normal(size=SHAPE),
    "one value": np.ones(SHAPE),
}


@pytest.mark.parametrize("array", LABELS.values(), ids=LABELS)
def test_labels(array: np.ndarray) -> None:
    assert looks_like_labels(array)


@pytest.mark.parametrize("array", IMAGES.values(), ids=IMAGES)
def test_images(array: np.ndarray) -> None:
    assert not looks_like_labels(array)


def test_the_name_of_a_file_helps() -> None:
    touched_up = blobs(1, 2, 3)
    touched_up[noise().random(SHAPE) < 0.2] = 4
    assert not looks_like_labels(touched_up) and looks_like_labels(touched_up, "case_001_seg.nii.gz")
    assert not looks_like_labels(IMAGES["8 bits"], "sub-01_seg.nii.gz")


def test_channels_of_masks_are_labels_and_a_time_series_is_refused_as_a_scan(tmp_path: Path) -> None:
    masks = np.stack([blobs(1, 2) == value for value in (1, 2)], -1).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(masks, np.eye(4)), tmp_path / "masks.nii")
    assert isinstance(read_scan_or_labels(tmp_path / "masks.nii"), LabelVolume)
    nibabel.save(nibabel.Nifti1Image(masks + np.uint8(3), np.eye(4)), tmp_path / "series.nii")
    with pytest.raises(UserError, match="not one 3D volume"):
        read_scan_or_labels(tmp_path / "series.nii")
