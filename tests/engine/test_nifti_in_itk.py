"""NIfTI files of grids whose axes are not quite orthogonal, as ITK opens them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.io.nifti import MAX_QFORM_ERROR_MM, POSITION_FIELDS, opens_in_itk
from medssl.core.io.volume import write_labels

SHAPE = (28, 24, 12)
"""Voxels along (i, j, k)."""
CORNERS = np.array([(i, j, k) for i in (0, 27) for j in (0, 23) for k in (0, 11)])


def sheared(shear: float, spacing: float = 3.0) -> Geometry:
    """A grid whose slices are displaced by `shear` mm each."""
    matrix = np.diag([-0.8, -0.8, spacing, 1])
    matrix[1, 2] = shear
    matrix[:3, 3] = 11, -7, 30
    return Geometry.of(matrix, SHAPE)


def rounded_directions() -> Geometry:
    """An oblique grid with direction cosines of three decimals."""
    turn, tilt = np.deg2rad(7), np.deg2rad(13)
    about_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    matrix = np.eye(4)
    matrix[:3, :3] = np.round(np.array(about_z) @ about_x, 3) * (0.8, 0.8, 3.0)
    return Geometry.of(matrix, SHAPE)


def write(folder: Path, geometry: Geometry) -> Path:
    path = folder / "labels.nii.gz"
    write_labels(path, np.ones(geometry.shape_zyx, np.uint8), geometry)
    return path


def errors_mm(path: Path, geometry: Geometry) -> np.ndarray:
    """Distance between the positions of the corners for ITK and by the grid."""
    image = sitk.ReadImage(str(path))
    found = np.array([image.TransformIndexToPhysicalPoint(corner.tolist()) for corner in CORNERS])
    expected = np.column_stack([CORNERS, np.ones(len(CORNERS))]) @ (RAS_TO_LPS @ geometry.matrix).T
    return np.linalg.norm(found - expected[:, :3], axis=1)


@pytest.mark.parametrize("geometry", [sheared(0.004), rounded_directions()], ids=["sheared", "rounded"])
def test_nearly_orthogonal_axes_open_in_itk_within_hundredths_of_a_millimetre(
    tmp_path: Path, geometry: Geometry
) -> None:
    path = write(tmp_path, geometry)
    assert np.allclose(nibabel.load(path).affine, geometry.matrix, atol=1e-6), "the sform is exact"
    assert opens_in_itk(geometry)
    assert 0 < errors_mm(path, geometry).max() < MAX_QFORM_ERROR_MM


def test_orthogonal_axes_are_exact_in_itk(tmp_path: Path) -> None:
    assert errors_mm(write(tmp_path, sheared(0.0)), sheared(0.0)).max() < 1e-5


def test_a_tilted_gantry_has_the_exact_sform_alone(tmp_path: Path) -> None:
    tilted = sheared(0.8)
    path = write(tmp_path, tilted)
    image = nibabel.load(path)
    assert np.allclose(image.affine, tilted.matrix) and int(image.header["qform_code"]) == 0
    assert image.header.get_zooms() == pytest.approx((0.8, 0.8, np.hypot(3, 0.8)), rel=1e-6)
    assert not opens_in_itk(tilted)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(path))


def test_a_source_without_a_qform_gets_one_only_where_itk_needs_it(tmp_path: Path) -> None:
    for geometry, code in ((sheared(0.0), 0), (sheared(0.004), 1)):
        image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), geometry.matrix)
        image.header.set_sform(geometry.matrix, code=1)
        image.header["qform_code"] = 0
        fields = {name: np.asarray(image.header[name]).tolist() for name in POSITION_FIELDS}
        fields["pixdim"] = image.header["pixdim"][:4].tolist()
        source = Geometry.of(geometry.matrix, SHAPE, fields)
        path = write(tmp_path, source)
        assert int(nibabel.load(path).header["qform_code"]) == code
        assert errors_mm(path, geometry).max() < MAX_QFORM_ERROR_MM
