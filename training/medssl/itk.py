"""SimpleITK images as arrays with an affine, and the check that an array is one volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medssl.errors import UserError


def from_itk(image: sitk.Image, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array in (i, j, k) order and RAS affine of a SimpleITK image (whose own axes point left, posterior)."""
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{path} holds {image.GetNumberOfComponentsPerPixel()} values a voxel (colours, vectors or complex "
            "numbers), not one grey value; export it as a plain scalar volume.",
            code="not-scalar",
        )
    array = three_axes(sitk.GetArrayViewFromImage(image).T, path)
    spatial = range(3)
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array([image.GetSpacing()[axis] for axis in spatial])
    affine[:3, 3] = [image.GetOrigin()[axis] for axis in spatial]
    return np.array(array), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def three_axes(array: np.ndarray, path: Path) -> np.ndarray:
    """The array without trailing axes of length one."""
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3 or min(array.shape) < 2:
        raise UserError(
            f"{path} is not one 3D volume (its shape is {' x '.join(map(str, array.shape))}); export a single "
            "volume with at least two slices.",
            code="not-3d",
        )
    return array
