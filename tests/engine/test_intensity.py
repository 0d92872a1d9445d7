"""Grey values as the network sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl.core.io.intensity import InferredModality, infer_modality, normalise
from medssl.core.io.volume import read_scan

HEAD_NECK = "HeadNeckCT_OpenKBP/imagesTr"
REAL = {
    HEAD_NECK: "ct",
    "HeadNeckCT_OpenKBP/imagesUn": "ct",
    "CT_demo/totalseg_abdomen/imagesTr": "ct",
    "CT_demo/torso_cervical/imagesTr": "ct",
    "CT_demo/msd_spleen_crop/imagesTr": "ct",
    "CT_demo/totalseg_mr_abdomen/imagesTr": "mr",
    "Task04_Hippocampus/imagesTr": "mr",
    "ProstateMR_DeepReg/imagesTr": "mr",
    "LungMRI_Tustison/imagesTr": "mr",
    "Unlabelled": "mr",
    "Unlabelled/stroke_FLAIR_T1_T2": "mr",
}


@pytest.mark.data
@pytest.mark.parametrize("folder, modality", REAL.items())
def test_real_scans_are_told_apart(data: Path, folder: str, modality: str) -> None:
    every = sorted((data / folder).glob("*.nii.gz"))
    chosen = every[:: max(1, len(every) // 10)]
    guesses = {path.name: infer_modality(read_scan(path).array).modality for path in chosen}
    assert guesses == dict.fromkeys(guesses, modality)


@pytest.mark.data
@pytest.mark.parametrize(
    "name, modality",
    [
        ("ct_30slices_3mm.nii.gz", "ct"),
        ("nifti_gantry_tilt_shear.nii.gz", "ct"),
        ("FLAIR.nrrd", "mr"),
        ("freesurfer_brainmask.mgz", "mr"),
        ("dicom_series_flair_oblique_thick", "mr"),
    ],
)
def test_odd_files_are_told_apart(data: Path, name: str, modality: str) -> None:
    assert infer_modality(read_scan(data / "robustness" / name).array).modality == modality


def test_a_few_dark_voxels_do_not_make_a_ct() -> None:
    scan = np.random.default_rng(0).uniform(0, 3000, (20, 20, 20)).astype(np.float32)
    scan[0, 0, :3] = -400  # ringing of an interpolation
    assert infer_modality(scan) == InferredModality("mr", certain=True)


def test_metal_and_padding_do_not_make_an_mr(hounsfield: np.ndarray) -> None:
    scan = hounsfield.copy()
    scan[0, 0, :3] = 26000
    scan[:2] = -3024
    assert infer_modality(scan) == InferredModality("ct", certain=True)


@pytest.fixture
def hounsfield() -> np.ndarray:
    """Air around soft tissue with some bone, in HU."""
    generator = np.random.default_rng(0)
    scan = np.full((20, 24, 24), -1000.0)
    scan[:, 6:18, 6:18] = generator.normal(40, 20, (20, 12, 12))
    scan[:, 10:12, 10:12] = 900
    return scan.astype(np.float32)


@pytest.fixture
def weighted() -> np.ndarray:
    """Tissue of two kinds on a noisy background, in a scanner's own unit."""
    generator = np.random.default_rng(0)
    scan = np.abs(generator.normal(0, 3, (20, 24, 24)))
    scan[:, 4:20, 4:12] = generator.normal(300, 20, (20, 16, 8))
    scan[:, 4:20, 12:20] = generator.normal(700, 20, (20, 16, 8))
    return scan.astype(np.float32)


@pytest.fixture
def soft_crop() -> np.ndarray:
    """A crop of a CT without fat or air: muscle, vessels with contrast medium, a vertebra."""
    generator = np.random.default_rng(0)
    scan = generator.normal(45, 12, (14, 20, 22))
    scan[:, 4:8, 4:8] += 120
    scan[:, 12:18, 8:16] += 250
    return scan.round().astype(np.float32)


def test_a_crop_of_soft_tissue_is_a_ct_but_not_certain(soft_crop: np.ndarray) -> None:
    assert infer_modality(soft_crop) == InferredModality("ct", certain=False)


def test_an_mr_in_the_range_of_soft_tissue_is_not_certain(weighted: np.ndarray) -> None:
    assert infer_modality(np.round(weighted / 10)) == InferredModality("mr", certain=False)


@pytest.mark.parametrize("padding", [-2000, -3024, -8192, -32768, 32767, 63536])
def test_padding_makes_no_mr_and_is_air(hounsfield: np.ndarray, padding: float) -> None:
    scan = hounsfield.copy()
    scan[:, :, :4] = scan[:, :, -4:] = padding
    assert infer_modality(scan) == InferredModality("ct", certain=True)
    air = normalise(np.where(scan == padding, np.float32(-1024), scan), "ct")
    assert np.array_equal(normalise(scan, "ct"), air)


@pytest.mark.parametrize("offset, certain", [(1024, False), (32768, True)])
def test_a_ct_without_its_intercept_is_the_same_image(
    hounsfield: np.ndarray, offset: float, certain: bool
) -> None:
    shifted = hounsfield + np.float32(offset)
    assert infer_modality(shifted) == InferredModality("ct", certain)
    assert normalise(shifted, "ct") == pytest.approx(normalise(hounsfield, "ct"), abs=1e-3)


def test_a_crop_without_its_intercept_is_the_same_image(soft_crop: np.ndarray) -> None:
    assert infer_modality(soft_crop + 1024) == InferredModality("ct", certain=False)
    assert np.array_equal(normalise(soft_crop + 1024, "ct"), normalise(soft_crop, "ct"))


def test_metal_stays_bright_and_ends_with_hounsfield_units(hounsfield: np.ndarray) -> None:
    scan = hounsfield.copy()
    scan[8:14, 8:14, 8:14] = 30000
    normal = normalise(scan, "ct")
    assert normal.max() == normal[9, 9, 9] == np.arcsinh(np.float32(3071 - 40) / 100)


@pytest.mark.parametrize("factor", [0.001, 0.01])
def test_small_numbers_are_no_ct(weighted: np.ndarray, factor: float) -> None:
    assert infer_modality(weighted * np.float32(factor)) == InferredModality("mr", certain=True)
    assert infer_modality(normalise(weighted, "mr")) == InferredModality("mr", certain=True)


def test_phases_are_no_ct() -> None:
    phases = np.random.default_rng(0).uniform(-4096, 4095, (20, 20, 20)).astype(np.float32)
    assert infer_modality(phases).modality == "mr"


LARGEST = float(np.finfo(np.float32).max)
VALUES = st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=8, max_size=60).filter(
    lambda values: len(set(values)) > 1
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["ct", "mr"]))
def test_any_scan_stays_finite_in_float16_and_in_order(values: list[float], modality: str) -> None:
    scan = np.sort(np.array(values, np.float32)).reshape(-1, 1, 1)
    with np.errstate(all="raise", under="ignore"):
        normal = normalise(scan, modality)
    assert np.isfinite(normal.astype(np.float16)).all()
    assert (np.diff(normal.ravel()) >= 0).all()


def test_ct_is_the_same_map_for_every_scan(hounsfield: np.ndarray) -> None:
    assert np.array_equal(normalise(hounsfield, "ct")[:5], normalise(hounsfield[:5], "ct"))


def test_ct_keeps_soft_tissues_air_and_bone_apart() -> None:
    fat, liver, blood, bone, air = normalise(np.array([-100, 55, 40, 1000, -1000], np.float32), "ct")
    assert liver - blood > 0.1
    assert air < fat - 0.5 < blood - 1 < bone - 2


def test_mr_has_about_zero_mean_and_unit_range(weighted: np.ndarray) -> None:
    normal = normalise(weighted, "mr")
    assert abs(normal.mean()) < 1e-3
    assert normal.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e6])
def test_the_unit_of_an_mr_does_not_matter(weighted: np.ndarray, factor: float) -> None:
    changed = normalise(weighted * np.float32(factor), "mr")
    assert changed == pytest.approx(normalise(weighted, "mr"), abs=1e-3)


def test_an_mr_hardly_changes_for_a_few_wild_voxels(weighted: np.ndarray) -> None:
    wild = weighted.copy()
    wild[0, 0, :5] = [1e7, -1e7, 3e7, 1e6, 1e5]
    change = np.abs(normalise(wild, "mr") - normalise(weighted, "mr"))
    assert np.delete(change.ravel(), range(5)).max() < 0.1


def test_a_large_empty_background_does_not_flatten_the_tissue(weighted: np.ndarray) -> None:
    around = np.pad(weighted, 20)
    normal = normalise(around, "mr")
    dark, bright = (normal[around > 150][around[around > 150] < 500], normal[around > 500])
    assert bright.mean() - dark.mean() > 0.5


@pytest.mark.parametrize("inside, outside", [(1, 0), (0, 1)], ids=["bright", "dark"])
def test_a_sparse_mask_is_not_wiped_out(inside: int, outside: int) -> None:
    mask = np.full((20, 20, 20), outside, np.float32)
    mask[5, 5, 5:8] = inside
    normal = normalise(mask, "mr")
    assert (normal[5, 5, 5] - normal[0, 0, 0]) * (inside - outside) > 1


def test_float32_in_the_same_shape_comes_out(weighted: np.ndarray) -> None:
    assert normalise(weighted.astype(np.int16), "mr").dtype == np.float32
    assert normalise(weighted, "mr").shape == weighted.shape
