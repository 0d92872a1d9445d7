"""Every odd file is read right or refused in one sentence, and labels land on the source's grid."""

from __future__ import annotations

import gzip
import itertools
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.errors import UserError
from medssl.geometry import Geometry
from medssl.volume import find_scans, read_labels, read_scan, write_labels
from nibabel import freesurfer  # noqa: F401 - lets nibabel.load know MGH

ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(["LR", "AP", "IS"])
    for letters in itertools.product(*pairs)
]
READ = {
    # name: axis codes and canonical shape
    "FLAIR.nrrd": ("RAS", (140, 160, 124)),
    "brain2_image_0.78x0.78x6.5.nrrd": ("LAS", (23, 256, 256)),
    "brain2_label.nrrd": ("LAS", (23, 256, 256)),
    "breast1_image.nrrd": ("LPS", (21, 120, 45)),
    "breast1_label.nrrd": ("LPS", (21, 120, 45)),
    "ct_30slices_3mm.nii.gz": ("RAS", (30, 101, 122)),
    "ct_head_PHANTOM_pitch_oblique.nii.gz": ("RAS", (58, 248, 175)),
    "freesurfer_brainmask.mgz": ("LIA", (256, 256, 256)),
    "label_256.nii.gz": ("LIA", (256, 256, 256)),
    "label_only_torso_384x320x89.nii.gz": ("RAS", (89, 320, 384)),
    "mha.mha": ("LAS", (37, 64, 64)),
    "nifti_PSR_spine_t2.nii.gz": ("PSR", (55, 60, 52)),
    "nifti_PSR_spine_t2_label.nii.gz": ("PSR", (55, 60, 52)),
    "nifti_aniso_0.5x0.5x7.5.nii.gz": ("LAS", (11, 320, 320)),
    "nifti_aniso_0.5x0.5x7.5_label.nii.gz": ("LAS", (11, 320, 320)),
    "nifti_bigendian_q0s0.nii.gz": ("LAS", (10, 64, 64)),
    "nifti_bigendian_q0s4.nii.gz": ("RAS", (91, 109, 91)),
    "nifti_gantry_tilt_shear.nii.gz": ("RAS", (54, 422, 306)),
    "nifti_int32_fmri.nii.gz": ("LAS", (60, 90, 90)),
    "nifti_int64_trailing_singleton_4d.nii.gz": ("LAS", (9, 54, 49)),
    "nifti_oblique_fmri.nii.gz": ("RAS", (35, 64, 64)),
    "nifti_q0s2_monkey_T2w.nii.gz": ("LAS", (156, 185, 148)),
    "nifti_sform0_q1_ch2_float.nii.gz": ("RAS", (181, 217, 181)),
    "nifti_tiny_7x5x3.nii.gz": ("RAS", (3, 5, 7)),
    "nifti_uint32_IPL.nii.gz": ("IPL", (266, 266, 190)),
    "nifti_uncompressed_anatomical.nii": ("LAS", (25, 41, 33)),
    "pair_ras.hdr": ("RAS", (34, 41, 62)),
    "pair_ras.img": ("RAS", (34, 41, 62)),
    "spine_t1w.nii.gz": ("RAS", (77, 76, 42)),
    "spine_t1w_label.nii.gz": ("RAS", (77, 76, 42)),
}
REFUSED = {
    "SOURCE.txt": "unsupported",
    "dicom_SEG_glioma.dcm": "unsupported",
    "mrtrix_fa.mif": "unsupported",
    "tiny.mnc": "unsupported",
    "nifti2_example.nii.gz": "not-3d",
    "nifti_4d_asl_25vol.nii.gz": "not-3d",
    "nifti_4d_example.nii.gz": "not-3d",
    "nifti_4d_fmri_0.96x0.96x16.8_30vol.nii.gz": "not-3d",
    "nifti_complex64.nii.gz": "not-scalar",
    "nifti_rgb24.nii.gz": "not-scalar",
    "nifti_rgb_ivadomed.nii.gz": "not-scalar",
    "nifti_vector_V1.nii.gz": "not-3d",
    "nifti_space_48_orientations": "unreadable",
}
BY_DICOM_TESTS = ("dicom_series", "dicom_enhanced")
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


# ---- reading


@pytest.mark.data
def test_every_odd_file_has_an_expectation(data: Path) -> None:
    known = {*READ, *REFUSED}
    names = {path.name for path in (data / "robustness").iterdir()}
    assert {name for name in names - known if not name.startswith(BY_DICOM_TESTS)} == set()


@pytest.mark.data
@pytest.mark.parametrize("name", READ)
def test_an_odd_file_is_read_as_its_library_reads_it(data: Path, name: str) -> None:
    path = data / "robustness" / name
    volume, (array, affine) = read_scan(path), reference(path)
    assert (volume.geometry.axis_codes, volume.array.shape) == READ[name]
    assert volume.array.dtype == np.float32
    to_source = np.linalg.inv(affine)
    generator = np.random.default_rng(0)
    for _ in range(50):
        zyx = tuple(int(generator.integers(length)) for length in volume.array.shape)
        ijk = (to_source @ volume.geometry.canonical_affine @ [*zyx, 1])[:3]
        assert ijk == pytest.approx(np.round(ijk), abs=1e-3)
        assert volume.array[zyx] == np.float32(array[tuple(np.round(ijk).astype(int))])


@pytest.mark.data
@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_file_is_refused_in_one_sentence(data: Path, name: str) -> None:
    assert refusal(data / "robustness" / name) == REFUSED[name]


@pytest.mark.data
def test_all_48_orientations_show_the_same_anatomy(data: Path) -> None:
    folder = data / "robustness" / "nifti_space_48_orientations"
    first = read_scan(folder / "RAS.nii.gz")
    for code in ORIENTATIONS:
        volume = read_scan(folder / f"{code}.nii.gz")
        assert volume.geometry.axis_codes == code
        assert np.allclose(volume.array, first.array, rtol=1e-4)
        assert volume.geometry.canonical_affine == pytest.approx(first.geometry.canonical_affine, abs=1e-3)


def test_upper_case_endings_are_read(tmp_path: Path, nifti: Path) -> None:
    shutil.copy(nifti, tmp_path / "SCAN.NII.GZ")
    assert np.array_equal(read_scan(tmp_path / "SCAN.NII.GZ").array, read_scan(nifti).array)


@pytest.mark.parametrize("unit, factor", [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_the_unit_of_a_nifti_header_is_heeded(tmp_path: Path, unit: str, factor: float) -> None:
    image = nibabel.Nifti1Image(numbered(), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    assert read_scan(tmp_path / "scan.nii").geometry.spacing_mm == pytest.approx(
        (4 * factor, 3 * factor, 2 * factor)
    )


def test_scaled_values_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -100)
    nibabel.save(image, tmp_path / "scan.nii")
    assert read_scan(tmp_path / "scan.nii").array[0, 0, :3] == pytest.approx(
        nibabel.load(tmp_path / "scan.nii").get_fdata()[:3, 0, 0]
    )


# ---- bad files


def numbered(dtype: type = np.float32, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    """An array in which every voxel is different."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    path = tmp_path / "whole.nii.gz"
    noise = np.random.default_rng(0).normal(0, 1, (20, 20, 20))
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    return path


def save(folder: Path, array: np.ndarray, ending: str = ".nii.gz") -> Path:
    path = folder / f"scan{ending}"
    if ending in (".nii", ".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", [0.5, 0.98])
def test_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, ending: str, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (20, 20, 20)).astype(np.float32)
    if ending == ".mgz":
        path = tmp_path / "scan.mgz"
        nibabel.save(nibabel.MGHImage(noise, np.eye(4)), path)
    else:
        path = save(tmp_path, noise, ending)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert refusal(path) == "unreadable"


@pytest.mark.parametrize(
    "ending", [".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh", ".nrrd", ".mha", ".mhd"]
)
@pytest.mark.parametrize("content", [b"", b"this is no scan\n" * 50], ids=["empty", "text"])
def test_a_file_that_only_has_the_ending_is_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"scan{ending}").write_bytes(content)
    assert refusal(tmp_path / f"scan{ending}") == "unreadable"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_promises_far_too_much_is_refused(tmp_path: Path, ending: str) -> None:
    header = bytearray(save(tmp_path, numbered(), ".nii").read_bytes())
    header[42:48] = np.array([30000] * 3, "<i2").tobytes()
    path = tmp_path / f"large{ending}"
    path.write_bytes(gzip.compress(header) if ending == ".nii.gz" else header)
    assert refusal(path) == "unreadable"


@pytest.mark.parametrize("name", ["whole.nii.gz", "whole.nii", "whole.nrrd", "whole.mha", "whole.mgz"])
def test_bytes_damaged_anywhere_give_a_sentence_or_a_scan(tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(0)
    if name.endswith(".mgz"):
        nibabel.save(nibabel.MGHImage(numbered(), np.eye(4)), tmp_path / name)
    else:
        save(tmp_path, numbered(), name.removeprefix("whole")).rename(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for at in generator.integers(len(whole), size=3):
            damaged[at] = generator.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            read_scan(tmp_path / name)
        except UserError as error:
            assert name in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    array = numbered(np.float64)
    array[1, 2, 3] = value
    assert refusal(save(tmp_path, array)) == "not-finite"


def test_a_constant_scan_is_refused(tmp_path: Path) -> None:
    assert refusal(save(tmp_path, np.full((5, 6, 7), 3.0))) == "constant"


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (3, 4, 5, 6)], ids=["2D", "one slice", "4D"])
def test_what_is_not_one_volume_is_refused(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    assert refusal(save(tmp_path, numbered(shape=shape), ending)) == "not-3d"


def test_a_trailing_axis_of_one_is_fine(tmp_path: Path) -> None:
    assert read_scan(save(tmp_path, numbered(shape=(4, 5, 6, 1)))).array.shape == (6, 5, 4)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_complex_numbers_are_refused(tmp_path: Path, ending: str) -> None:
    assert refusal(save(tmp_path, numbered(np.complex64), ending)) == "not-scalar"


def test_colours_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert refusal(save(tmp_path, colours)) == "not-scalar"


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vectors_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(numbered(shape=(5, 6, 7, 3)), isVector=True), str(path))
    assert refusal(path) == "not-scalar"


def test_an_affine_without_space_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered(), np.eye(4))
    image.header["srow_x"] = 0
    image.header["srow_y"] = image.header["srow_z"] = [0, 1, 0, 0]
    (tmp_path / "scan.nii").write_bytes(image.header.binaryblock + b"\0\0\0\0" + numbered().tobytes())
    assert refusal(tmp_path / "scan.nii") == "bad-geometry"


def test_a_missing_file_and_a_missing_half_of_a_pair_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.nii.gz") == "missing"
    nibabel.save(nibabel.Nifti1Pair(numbered(), np.eye(4)), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    assert refusal(tmp_path / "pair.hdr") == "unreadable"


# ---- labels


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


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0, np.nan])
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


# ---- finding


def test_files_and_folders_are_found_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nrrd", ".c.nii.gz", "notes.txt", "pair.hdr", "pair.img", "below/d.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_scans([tmp_path])]
    assert found == ["a.nrrd", "b.nii.gz", "below/d.mha", "pair.hdr"]


def test_a_file_that_is_given_twice_is_one_scan(tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    assert find_scans([tmp_path / "a.nii", tmp_path]) == [tmp_path / "a.nii"]


@pytest.mark.parametrize("name, code", [("", "no-scans"), ("nothing", "missing")])
def test_nothing_to_find_is_said(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(UserError) as error:
        find_scans([tmp_path / name])
    assert error.value.code == code
