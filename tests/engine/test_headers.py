"""Voxel sizes, units and placement in headers: heeded, tolerated with a note, or refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.io.units import mm_per_unit
from medssl.core.io.volume import read_scan, write_labels
from volume_files import numbered, refusal, save

DIRECTIONS = "space directions: (900,0,0) (0,900,0) (0,0,3000)"
SPACE = "space: left-posterior-superior"
PIXDIM, QUATERNION, SROW = 76, 256, 280
"""Offsets of fields in a NIfTI-1 header."""


def nrrd(folder: Path, *fields: str, encoding: str = "utf-8") -> Path:
    lines = ["NRRD0005", "type: float", "dimension: 3", "sizes: 5 6 7", "endian: little", "encoding: raw"]
    path = folder / "scan.nrrd"
    path.write_bytes("\n".join([*lines, *fields, "", ""]).encode(encoding) + numbered().tobytes())
    return path


def meta_image(folder: Path, *fields: str) -> Path:
    start = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    end = ["DimSize = 5 6 7", "ElementType = MET_FLOAT", "ElementDataFile = LOCAL", ""]
    path = folder / "scan.mha"
    path.write_bytes("\n".join([*start, *fields, *end]).encode() + numbered().tobytes())
    return path


def nifti(folder: Path, qform: int, sform: int, *patches: tuple[int, tuple[float, ...]]) -> Path:
    """A NIfTI file of 0.9 x 0.9 x 3 mm with these codes; each patch is an offset in it and float32 values."""
    image = nibabel.Nifti1Image(numbered(), np.diag([0.9, 0.9, 3, 1]))
    image.set_qform(image.affine, qform)
    image.set_sform(image.affine, sform)
    content = bytearray(image.to_bytes())
    for offset, values in patches:
        content[offset : offset + 4 * len(values)] = struct.pack(f"<{len(values)}f", *values)
    path = folder / "scan.nii"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("unit", ["um", "µm", "μm", "microns", "Micrometers", "micrometre"])
def test_names_of_micrometres(unit: str) -> None:
    assert mm_per_unit(unit) == 0.001


@pytest.mark.parametrize("unit", ["", "pixel", "s", "furlong"])
def test_what_is_no_unit_of_length(unit: str) -> None:
    assert mm_per_unit(unit) is None


@pytest.mark.parametrize(
    "unit, factor", [("um", 1e-3), ("µm", 1e-3), ("mm", 1), ("cm", 10), ("m", 1e3), ("nm", 1e-6)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_space_units_of_nrrd_are_heeded(tmp_path: Path, unit: str, factor: float, encoding: str) -> None:
    units = " ".join([f'"{unit}"'] * 3)
    path = nrrd(
        tmp_path, SPACE, DIRECTIONS, "space origin: (1,2,3)", f"space units: {units}", encoding=encoding
    )
    geometry = read_scan(path).geometry
    assert geometry.spacing_mm == pytest.approx((3000 * factor, 900 * factor, 900 * factor))
    assert geometry.matrix[:3, 3] == pytest.approx(np.array([-1, -2, 3]) * factor)


def test_each_axis_of_an_nrrd_has_its_own_unit(tmp_path: Path) -> None:
    path = nrrd(
        tmp_path, SPACE, "space directions: (900,0,0) (0,0.9,0) (0,0,0.3)", 'space units: "um" "mm" "cm"'
    )
    assert read_scan(path).geometry.spacing_mm == pytest.approx((3, 0.9, 0.9))


def test_units_of_an_nrrd_without_directions_are_heeded(tmp_path: Path) -> None:
    path = nrrd(tmp_path, "spacings: 900 900 3000", 'units: "um" "um" "um"')
    assert read_scan(path).geometry.spacing_mm == pytest.approx((3, 0.9, 0.9))


def test_an_unknown_unit_is_mentioned(tmp_path: Path) -> None:
    volume = read_scan(nrrd(tmp_path, "spacings: 0.9 0.9 3", 'units: "pixel" "pixel" "mm"'))
    assert volume.geometry.spacing_mm == pytest.approx((3, 0.9, 0.9))
    assert "'pixel'" in volume.notes[0]


@pytest.mark.parametrize("unit, factor", [("um", 1e-3), ("mm", 1), ("cm", 10), ("?", 1)])
def test_distance_units_of_a_meta_image_are_heeded(tmp_path: Path, unit: str, factor: float) -> None:
    path = meta_image(tmp_path, "ElementSpacing = 2 3 4", f"DistanceUnits = {unit}")
    assert read_scan(path).geometry.spacing_mm == pytest.approx((4 * factor, 3 * factor, 2 * factor))


@pytest.mark.parametrize(
    "modality, name", [("MET_MOD_CT", "ct"), ("MET_MOD_MR", "mr"), ("MET_MOD_UNKNOWN", "")]
)
def test_the_modality_of_a_meta_image_is_read(tmp_path: Path, modality: str, name: str) -> None:
    path = meta_image(tmp_path, "ElementSpacing = 1 1 1", f"Modality = {modality}")
    assert read_scan(path).modality == name


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [SPACE],
        ["spacings: nan nan nan"],
        ["spacings: 0.9 0.9 nan"],
        ["spacings: 0.9 0.9 0"],
        [SPACE, "space directions: (0.9,0,0) (0,0.9,0) none"],
        [SPACE, "space directions: (0.9,0,0) (0,0.9,0) (0,0,0)"],
    ],
)
def test_an_nrrd_without_voxel_size_is_refused(tmp_path: Path, fields: list[str]) -> None:
    assert refusal(nrrd(tmp_path, *fields)) == "bad-geometry"


@pytest.mark.parametrize("spacing", [None, "0.9 0.9 0", "0.9 0.9 nan"])
def test_a_meta_image_without_voxel_size_is_refused(tmp_path: Path, spacing: str | None) -> None:
    fields = [] if spacing is None else [f"ElementSpacing = {spacing}"]
    assert refusal(meta_image(tmp_path, *fields)) == "bad-geometry"


@pytest.mark.parametrize("make, field", [(nrrd, "spacings: 2 3 -4"), (meta_image, "ElementSpacing = 2 3 -4")])
def test_a_negative_voxel_size_is_mentioned(tmp_path: Path, make, field: str) -> None:  # type: ignore[no-untyped-def]
    volume = read_scan(make(tmp_path, field))
    assert volume.geometry.spacing_mm == pytest.approx((4, 3, 2))
    assert "negative" in volume.notes[0]


@pytest.mark.parametrize("codes", [(0, 0), (1, 0)], ids=["sizes", "qform"])
@pytest.mark.parametrize("size", [0.0, np.nan, np.inf])
def test_a_nifti_without_voxel_size_is_refused(tmp_path: Path, codes: tuple[int, int], size: float) -> None:
    assert refusal(nifti(tmp_path, *codes, (PIXDIM + 12, (size,)))) == "bad-geometry"


@pytest.mark.parametrize("codes", [(0, 0), (1, 0)], ids=["sizes", "qform"])
def test_the_sign_of_a_voxel_size_of_a_nifti_is_ignored_with_a_note(
    tmp_path: Path, codes: tuple[int, int]
) -> None:
    right = read_scan(nifti(tmp_path, *codes))
    volume = read_scan(nifti(tmp_path, *codes, (PIXDIM + 12, (-3.0,))))
    assert volume.geometry == right.geometry
    assert "negative" in volume.notes[0]
    assert not right.notes


@pytest.mark.parametrize("size", [0.0, -3.0, 1.0, np.nan])
def test_an_sform_gives_the_voxel_size_that_is_wrong_elsewhere(tmp_path: Path, size: float) -> None:
    volume = read_scan(nifti(tmp_path, 0, 1, (PIXDIM + 12, (size,))))
    assert volume.geometry.spacing_mm == pytest.approx((3, 0.9, 0.9))
    assert "sform" in volume.notes[0]


@pytest.mark.parametrize("row", [(0.0,) * 12, (np.nan,) * 12], ids=["zero", "nan"])
def test_a_dead_sform_gives_way_to_the_qform(tmp_path: Path, row: tuple[float, ...]) -> None:
    right = read_scan(nifti(tmp_path, 1, 0))
    volume = read_scan(nifti(tmp_path, 1, 1, (SROW, row)))
    assert np.allclose(volume.geometry.matrix, right.geometry.matrix)
    assert "sform" in volume.notes[0]


@pytest.mark.parametrize("quaternion", [(0, 0, 1.0000004), (0.0007, 0, 1), (0.6, 0.8000004, 0)])
def test_a_quaternion_a_hair_beyond_one_is_read_with_a_note(
    tmp_path: Path, quaternion: tuple[float, float, float]
) -> None:
    volume = read_scan(nifti(tmp_path, 1, 0, (QUATERNION, quaternion)))
    b, c, d = np.array(quaternion) / np.linalg.norm(quaternion)
    rotation = 2 * np.outer([b, c, d], [b, c, d]) - np.eye(3)
    assert volume.geometry.matrix[:3, :3] == pytest.approx(rotation * (0.9, 0.9, 3), abs=1e-5)
    assert "quaternion" in volume.notes[0]


def test_labels_of_a_repaired_header_have_a_sound_one(tmp_path: Path) -> None:
    volume = read_scan(nifti(tmp_path, 1, 0, (QUATERNION, (0, 0, 1.0000004))))
    write_labels(tmp_path / "labels.nii", np.ones(volume.array.shape, np.uint8), volume.geometry)
    assert nibabel.load(tmp_path / "labels.nii").affine == pytest.approx(volume.geometry.matrix)


@pytest.mark.parametrize("quaternion", [(2, 0, 0), (np.nan, 0, 0)])
def test_a_quaternion_that_is_no_rotation_is_refused(tmp_path: Path, quaternion: tuple[float, ...]) -> None:
    assert refusal(nifti(tmp_path, 1, 0, (QUATERNION, quaternion))) == "bad-geometry"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgh", ".mgz"])
def test_a_file_that_is_gzipped_other_than_its_name_says_is_read_with_a_note(
    tmp_path: Path, ending: str
) -> None:
    kind = nibabel.Nifti1Image if ending.startswith(".nii") else nibabel.MGHImage
    content = kind(numbered(), np.eye(4)).to_bytes()
    path = tmp_path / f"scan{ending}"
    path.write_bytes(content if ending.endswith("z") else gzip.compress(content))
    volume = read_scan(path)
    assert volume.geometry.to_source(volume.array) == pytest.approx(numbered())
    assert "gzipped" in volume.notes[0]


def test_an_mgh_without_valid_geometry_is_refused(tmp_path: Path) -> None:
    content = bytearray(nibabel.MGHImage(numbered(), np.eye(4)).to_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "scan.mgh").write_bytes(content)
    assert refusal(tmp_path / "scan.mgh") == "bad-geometry"


@pytest.mark.parametrize("unit, said", [("meter", True), ("mm", False)])
def test_implausible_voxels_are_mentioned(tmp_path: Path, unit: str, said: bool) -> None:
    image = nibabel.Nifti1Image(numbered(), np.diag([0.9, 0.9, 3, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    notes = read_scan(tmp_path / "scan.nii").notes
    assert bool(notes) == said
    assert not said or "900 x 900 x 3000 mm" in notes[0]


@pytest.mark.parametrize("ct, background", [(True, -1024), (False, 5)])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_undefined_background_is_air_or_the_lowest_value(
    tmp_path: Path, ct: bool, background: float, value: float
) -> None:
    array = np.random.default_rng(0).normal(*((-50, 60) if ct else (900, 200)), (12, 12, 12)).clip(-900)
    array[0, 0, 0] = array.min() if ct else background
    array[8:] = value
    volume = read_scan(save(tmp_path, array))
    assert (volume.array[..., 8:] == background).all()
    assert np.isfinite(volume.array).all()
    assert "33.3 %" in volume.notes[0]


def test_infinity_becomes_the_highest_value(tmp_path: Path) -> None:
    array = numbered()
    array[1, 2, 3] = np.inf
    volume = read_scan(save(tmp_path, array))
    assert volume.array[3, 2, 1] == volume.array.max() == 209
    assert volume.notes
