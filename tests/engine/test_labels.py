"""Labels land on the source's own grid, voxel by voxel, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan, write_labels
from volume_files import ORIENTATIONS, reference, save

SOURCES = [
    *(f"nifti_space_48_orientations/{code}.nii.gz" for code in ORIENTATIONS),
    "nifti_oblique_fmri.nii.gz",
    "nifti_gantry_tilt_shear.nii.gz",
    "ct_head_PHANTOM_pitch_oblique.nii.gz",
    "nifti_bigendian_q0s0.nii.gz",
    "nifti_bigendian_q0s4.nii.gz",
    "nifti_sform0_q1_ch2_float.nii.gz",
    "nifti_uint32_IPL.nii.gz",
    "nifti_PSR_spine_t2.nii.gz",
    "pair_ras.hdr",
]


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    path = tmp_path / "whole.nii.gz"
    noise = np.random.default_rng(0).normal(0, 1, (20, 20, 20))
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    return path


def place_of_one_voxel(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Millimetres of the single voxel that is set."""
    (index,) = np.argwhere(array)
    return (affine @ [*index, 1])[:3]


def mark_one(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Labels with one voxel off every symmetry, and where it lies."""
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    at = tuple(length // fraction for length, fraction in zip(labels.shape, (3, 4, 5), strict=True))
    labels[at] = 7
    return labels, place_of_one_voxel(labels, geometry.canonical_affine)


@pytest.mark.data
@pytest.mark.parametrize("name", SOURCES)
def test_labels_lie_on_the_source_voxel_by_voxel(data: Path, tmp_path: Path, name: str) -> None:
    source = data / "robustness" / name
    geometry = read_scan(source).geometry
    labels, place = mark_one(geometry)
    write_labels(tmp_path / "labels.nii.gz", labels, geometry)
    written, original = nibabel.load(tmp_path / "labels.nii.gz"), nibabel.load(source)
    assert written.shape == original.shape[:3]
    assert np.array_equal(written.affine, original.affine)
    assert place_of_one_voxel(np.asarray(written.dataobj), original.affine) == pytest.approx(place, abs=1e-3)


@pytest.mark.data
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("name", ["FLAIR.nrrd", "mha.mha", "breast1_image.nrrd", "brain2_label.nrrd"])
def test_itk_labels_lie_on_the_source(data: Path, tmp_path: Path, name: str, ending: str) -> None:
    geometry = read_scan(data / "robustness" / name).geometry
    labels, place = mark_one(geometry)
    write_labels(tmp_path / f"labels{ending}", labels, geometry)
    written = sitk.ReadImage(str(tmp_path / f"labels{ending}"))
    source = sitk.ReadImage(str(data / "robustness" / name))
    assert written.GetSize() == source.GetSize()
    for tell in (sitk.Image.GetOrigin, sitk.Image.GetSpacing, sitk.Image.GetDirection):
        assert tell(written) == pytest.approx(tell(source), abs=1e-9)
    array, affine = reference(tmp_path / f"labels{ending}")
    assert place_of_one_voxel(array, affine) == pytest.approx(place, abs=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    "name", ["nifti_gantry_tilt_shear.nii.gz", "freesurfer_brainmask.mgz", "dicom_series_flair_oblique_thick"]
)
def test_every_kind_of_label_file_holds_any_source_grid(
    data: Path, tmp_path: Path, name: str, ending: str
) -> None:
    geometry = read_scan(data / "robustness" / name).geometry
    labels, place = mark_one(geometry)
    write_labels(tmp_path / f"labels{ending}", labels, geometry)
    back = read_labels(tmp_path / f"labels{ending}")
    assert back.geometry.same_grid(geometry)
    assert np.array_equal(back.array, labels)
    assert place_of_one_voxel(back.array, back.geometry.canonical_affine) == pytest.approx(place, abs=1e-3)


def small() -> Geometry:
    return Geometry.of(np.diag([-1.0, -2, 3, 1]), (4, 3, 2))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("largest, dtype", [(255, np.uint8), (300, np.uint16)])
def test_label_ids_come_back_in_the_smallest_type(
    tmp_path: Path, ending: str, largest: int, dtype: type
) -> None:
    labels = np.arange(24).reshape(2, 3, 4)
    labels[0, 0, 0] = largest
    write_labels(tmp_path / f"labels{ending}", labels, small())
    back = read_labels(tmp_path / f"labels{ending}").array
    assert back.dtype == dtype
    assert np.array_equal(back, labels)


@pytest.mark.parametrize(
    "labels, code",
    [
        (np.zeros((3, 2, 4), np.uint8), "wrong-shape"),
        (np.full((2, 3, 4), -1), "not-labels"),
        (np.full((2, 3, 4), 70000), "not-labels"),
        (np.full((2, 3, 4), 0.5), "not-labels"),
    ],
    ids=["another scan's", "negative", "too large", "fractions"],
)
def test_labels_that_do_not_fit_are_not_written(tmp_path: Path, labels: np.ndarray, code: str) -> None:
    with pytest.raises(UserError) as error:
        write_labels(tmp_path / "labels.nii.gz", labels, small())
    assert error.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [{"srow_x": [1, 2]}, {"srow_x": [0, 0, 9.0, 0]}, {"pixdim": None}, {}])
def test_header_fields_that_contradict_the_affine_do_not_move_labels(
    tmp_path: Path, nifti: Path, damage: dict[str, object]
) -> None:
    source = read_scan(nifti).geometry
    fields = {**source.nifti, **damage} if damage else {}
    geometry = Geometry.of(source.matrix, source.shape, fields)
    write_labels(tmp_path / "labels.nii", np.zeros(geometry.shape_zyx, np.uint8), geometry)
    assert np.array_equal(nibabel.load(tmp_path / "labels.nii").affine, source.matrix)


def test_an_ending_that_is_not_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        write_labels(tmp_path / "labels.png", np.zeros((2, 3, 4), np.uint8), small())
    assert error.value.code == "unsupported"


def test_whole_numbers_in_a_float_file_are_labels(tmp_path: Path) -> None:
    labels = np.zeros((5, 6, 7), np.float64)
    labels[1, 2, 3] = 4
    back = read_labels(save(tmp_path, labels))
    assert back.array.dtype == np.uint8
    assert back.array[3, 2, 1] == 4


def test_labels_may_be_empty(tmp_path: Path) -> None:
    assert not read_labels(save(tmp_path, np.zeros((5, 6, 7), np.uint8))).array.any()


@pytest.mark.parametrize("value", [0.5, -1.0, np.inf])
def test_an_image_is_no_label_volume(tmp_path: Path, value: float) -> None:
    array = np.zeros((5, 6, 7))
    array[1, 2, 3] = value
    with pytest.raises(UserError) as error:
        read_labels(save(tmp_path, array))
    assert error.value.code == "not-labels"


@pytest.mark.data
@pytest.mark.parametrize(
    "name, ids",
    [
        ("label_only_torso_384x320x89.nii.gz", None),
        ("spine_t1w_label.nii.gz", None),
        ("brain2_label.nrrd", {0, 1}),
        ("breast1_label.nrrd", {0, 1}),
    ],
)
def test_label_files_hold_what_they_hold(data: Path, name: str, ids: set[int] | None) -> None:
    labels = read_labels(data / "robustness" / name).array
    array, _ = reference(data / "robustness" / name)
    values, counts = np.unique(array, return_counts=True)
    assert np.array_equal(np.unique(labels), values)
    assert np.array_equal(np.unique(labels, return_counts=True)[1], counts)
    assert ids is None or set(values) == ids
