"""Volume files for tests, and what the libraries themselves read in them."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.core.errors import UserError
from medssl.core.io.volume import read_scan

ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(["LR", "AP", "IS"])
    for letters in itertools.product(*pairs)
]
"""Codes of all 48 axis orders and directions."""


def refusal(path: Path) -> str:
    """The code of the UserError that reading a path gives; its text names the path in one line."""
    with pytest.raises(UserError) as error:
        read_scan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return error.value.code


def reference(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (i, j, k) and RAS affine by the library itself."""
    if path.suffix in (".nrrd", ".mha"):
        image = sitk.ReadImage(str(path))
        to_place = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = to_place, image.GetOrigin()
        return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine
    image = nibabel.load(path)
    array = np.asanyarray(image.dataobj)
    return array.reshape(array.shape[:3]), image.affine


def numbered(dtype: type = np.float32, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    """An array in which every voxel is different."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def save(folder: Path, array: np.ndarray, ending: str = ".nii.gz") -> Path:
    """Write an array (NIfTI: i, j, k; else its reverse) as "scan" with that ending, 1 mm voxels."""
    path = folder / f"scan{ending}"
    if ending in (".nii", ".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    return path
