"""The made-up CT: reproducible, different for every seed, anatomically right."""

from __future__ import annotations

import json
from functools import cache

import nibabel as nib
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.phantom import CLASSES, make_phantom, write_dataset

SEEDS = (3, 4)  # 3 got contrast agent, 4 did not
IDS = {each.name: each.id for each in CLASSES}
COARSE = {"shape_zyx": (32, 56, 56), "spacing_mm": (10.0, 6.4, 6.4)}


@cache
def scan(seed: int) -> tuple[np.ndarray, np.ndarray, Geometry]:
    return make_phantom(seed)


def middle(labels: np.ndarray, name: str) -> np.ndarray:
    """Mean place (z, y, x) of a class, in voxels; indices grow to superior, anterior, right."""
    return np.argwhere(labels == IDS[name]).mean(0)


def test_default_grid():
    hu, labels, geometry = scan(3)
    assert hu.shape == labels.shape == geometry.shape_zyx == (64, 112, 112)
    assert (hu.dtype, labels.dtype) == (np.int16, np.uint8)
    assert geometry.spacing_mm == pytest.approx((5.0, 3.2, 3.2))
    assert geometry.axis_codes == "RAS"


def test_the_grid_lies_around_the_origin():
    _, _, geometry = scan(3)
    centre = geometry.canonical_affine @ [31.5, 55.5, 55.5, 1]
    assert centre == pytest.approx([0, 0, 0, 1], abs=1e-3)


def test_same_seed_same_scan():
    first, second = (make_phantom(5, **COARSE) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[2] == second[2]


def test_different_seeds_are_different_people():
    (_, first, _), (_, second, _) = scan(3), scan(4)
    for name, class_id in IDS.items():
        one, two = first == class_id, second == class_id
        dice = 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))
        assert dice < 0.95, f"{name} is the same in two people"


def test_same_person_on_a_coarser_grid():
    fine, coarse = scan(3)[1], make_phantom(3, **COARSE)[1]
    for name, class_id in IDS.items():
        volume = np.count_nonzero(fine == class_id) / 8
        assert np.count_nonzero(coarse == class_id) == pytest.approx(volume, rel=0.12), name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "smallest_ml", "largest_ml"),
    [
        ("liver", 700, 2400),
        ("spleen", 80, 450),
        ("kidneys", 160, 480),
        ("spine", 350, 750),
        ("lungs", 1500, 5000),
    ],
)
def test_volumes(seed: int, name: str, smallest_ml: float, largest_ml: float):
    _, labels, geometry = scan(seed)
    millilitres = np.count_nonzero(labels == IDS[name]) * np.prod(geometry.spacing_mm) / 1000
    assert smallest_ml < millilitres < largest_ml


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("liver", 40, 125),
        ("spleen", 30, 130),
        ("kidneys", 15, 190),
        ("spine", 120, 400),
        ("lungs", -900, -700),
    ],
)
def test_densities(seed: int, name: str, lowest: float, highest: float):
    hu, labels, _ = scan(seed)
    assert lowest < np.median(hu[labels == IDS[name]]) < highest


def test_contrast_agent_shows_most_in_the_kidneys():
    gain = {}
    for name in ("liver", "kidneys"):
        venous, native = (np.median(hu[labels == IDS[name]]) for hu, labels, _ in map(scan, SEEDS))
        gain[name] = venous - native
    assert gain["kidneys"] > gain["liver"] + 20 > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_lie_where_they_belong(seed: int):
    _, labels, _ = scan(seed)
    place = {name: middle(labels, name) for name in IDS}
    up, front, right = 0, 1, 2
    assert place["liver"][right] > place["spine"][right] + 8
    assert place["spleen"][right] < place["spine"][right] - 15
    assert place["spine"][front] < place["liver"][front] - 8
    assert place["lungs"][up] > place["liver"][up] + 8 > place["kidneys"][up] + 8


@pytest.mark.parametrize("seed", SEEDS)
def test_the_heart_lies_left(seed: int):
    """Between the lungs, in front of the spine, there is more soft tissue on the left than on the right."""
    hu, labels, _ = scan(seed)
    spine = middle(labels, "spine")
    slab = hu[46:52, int(spine[1]) + 10 : int(spine[1]) + 30]
    tissue = (slab > 0) & (slab < 250)
    column = round(float(spine[2]))
    assert tissue[..., column - 25 : column].sum() > 1.3 * tissue[..., column : column + 25].sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_label_in_the_air_around(seed: int):
    hu, labels, _ = scan(seed)
    border = np.ones(labels.shape[1:], bool)
    border[4:-4, 4:-4] = False
    assert not labels[:, border].any()
    assert not (labels[(hu < -940)] == IDS["spine"]).any()


def test_the_air_around_is_air():
    hu, _, _ = scan(3)
    assert np.median(hu[:, -4:]) == pytest.approx(-1000, abs=15)


def test_a_small_part_can_be_made():
    hu, labels, geometry = make_phantom(1, shape_zyx=(3, 9, 8))
    assert hu.shape == labels.shape == geometry.shape_zyx == (3, 9, 8)


def test_dataset_reads_back(tmp_path):
    folder = write_dataset(tmp_path / "phantoms", [4])
    image = nib.load(folder / "imagesTr" / "phantom_004.nii.gz")
    labels = nib.load(folder / "labelsTr" / "phantom_004.nii.gz")
    hu, expected, geometry = scan(4)
    assert np.array_equal(geometry.to_canonical(np.asarray(image.dataobj)), hu)
    assert np.array_equal(geometry.to_canonical(np.asarray(labels.dataobj)), expected)
    assert np.allclose(image.affine, geometry.matrix, atol=1e-4)
    assert np.array_equal(image.affine, labels.affine)


def test_dataset_describes_itself(tmp_path):
    folder = write_dataset(tmp_path, [4])
    about = json.loads((folder / "dataset.json").read_text())
    assert about["labels"] == {"0": "background", **{str(each.id): each.name for each in CLASSES}}
    assert [pair["image"] for pair in about["training"]] == ["./imagesTr/phantom_004.nii.gz"]
    assert all((folder / pair[part]).exists() for pair in about["training"] for part in ("image", "label"))


def test_a_dataset_needs_seeds(tmp_path):
    with pytest.raises(UserError, match="at least one seed"):
        write_dataset(tmp_path, [])
