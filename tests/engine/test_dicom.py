"""DICOM: slices go where their headers say, and what is no even stack is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import SHAPE, numbered, write_series, write_slice
from medssl.core.errors import UserError
from medssl.core.io.volume import read_scan
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
SERIES = {
    "dicom_series_ct_head_small": (93, 64, 64),
    "dicom_series_flair_oblique_thick": (22, 320, 280),
    "dicom_series_hippocrop_mr": (32, 51, 35),
    "dicom_series_torchio": (17, 128, 88),
}


def refusal(path: Path) -> str:
    """The code of the UserError that reading a path gives; its text names the path in one line."""
    with pytest.raises(UserError) as error:
        read_scan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return error.value.code


def assert_voxels_lie_where_headers_say(folder: Path) -> None:
    """DICOM PS3.3 C.7.6.2.1-1: every slice's own position, directions and pixel spacing."""
    volume = read_scan(folder)
    to_index = np.linalg.inv(volume.geometry.canonical_affine)
    for path in sorted(folder.iterdir())[::3]:
        header = pydicom.dcmread(path)
        pixels = header.pixel_array * float(header.get("RescaleSlope", 1)) + float(
            header.get("RescaleIntercept", 0)
        )
        for row, column in [(0, 0), (header.Rows - 1, 2), (3, header.Columns - 1)]:
            along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
            between_rows, between_columns = map(float, header.PixelSpacing)
            place = np.array(header.ImagePositionPatient, float)
            place = place + along_row * between_columns * column + along_column * between_rows * row
            index = (to_index @ [*(place * LPS_TO_RAS), 1])[:3]
            assert index == pytest.approx(np.round(index), abs=0.02)
            assert volume.array[tuple(np.round(index).astype(int))] == pytest.approx(pixels[row, column])


@pytest.mark.data
@pytest.mark.parametrize("name, shape_zyx", SERIES.items())
def test_real_series_lie_where_their_headers_say(
    data: Path, name: str, shape_zyx: tuple[int, int, int]
) -> None:
    assert read_scan(data / "robustness" / name).array.shape == shape_zyx
    assert_voxels_lie_where_headers_say(data / "robustness" / name)


@pytest.mark.data
def test_frames_of_an_enhanced_file_lie_where_they_say(data: Path) -> None:
    path = data / "robustness" / "dicom_enhanced_multiframe.dcm"
    volume, header = read_scan(path), pydicom.dcmread(path)
    to_index = np.linalg.inv(volume.geometry.canonical_affine)
    for frame, groups in enumerate(header.PerFrameFunctionalGroupsSequence):
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        index = np.round((to_index @ [*(place * LPS_TO_RAS), 1])[:3]).astype(int)
        scaling = groups.PixelValueTransformationSequence[0]
        value = header.pixel_array[frame, 0, 0] * float(scaling.RescaleSlope)
        assert volume.array[tuple(index)] == pytest.approx(value + float(scaling.RescaleIntercept))


def test_a_series_is_rescaled_and_turned_to_canonical(tmp_path: Path) -> None:
    write_series(tmp_path)
    volume = read_scan(tmp_path)
    # DICOM counts towards left and posterior: both in-plane axes are mirrored, superior is not.
    assert np.array_equal(volume.array, numbered()[:, ::-1, ::-1] - 1024.0)
    assert volume.geometry.spacing_mm == (3.0, 2.0, 1.5)


@pytest.mark.parametrize(
    "directions, step",
    [
        ((0, 1, 0, 0, 0, -1), (2.5, 0, 0)),
        ((1, 0, 0, 0, 0, -1), (0, 2.5, 0)),
        ((0, 1, 0, 1, 0, 0), (0, 0, -2.5)),
        ((0.8, 0.6, 0, -0.6, 0.8, 0), (0, 0, 3.0)),
        ((1, 0, 0, 0, 0.8, -0.6), (0, 1.8, 2.4)),
    ],
    ids=["sagittal", "coronal", "transposed", "turned", "oblique"],
)
def test_slices_of_any_direction_lie_where_they_say(
    tmp_path: Path, directions: tuple[float, ...], step: tuple[float, ...]
) -> None:
    write_series(tmp_path, directions=directions, step=step)
    assert_voxels_lie_where_headers_say(tmp_path)


def test_a_tilted_gantry_shears_the_affine_and_nothing_else(tmp_path: Path) -> None:
    write_series(tmp_path, step=(0.0, 1.2, 3.0))
    assert_voxels_lie_where_headers_say(tmp_path)
    assert np.array_equal(read_scan(tmp_path).array, numbered()[:, ::-1, ::-1] - 1024.0)


def test_file_names_in_any_order_make_the_same_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "sorted")
    names = [f"IM{number}" for number in (4, 10, 2, 1, 33, 5)]
    write_series(tmp_path / "mixed", names=names)
    assert np.array_equal(read_scan(tmp_path / "mixed").array, read_scan(tmp_path / "sorted").array)


def test_one_file_stands_for_its_series(tmp_path: Path) -> None:
    write_series(tmp_path)
    assert np.array_equal(read_scan(tmp_path / "004.dcm").array, read_scan(tmp_path).array)


def test_slices_may_each_have_their_own_scale(tmp_path: Path) -> None:
    series = generate_uid()
    for number, image in enumerate(numbered()):
        slope = 1 + number / 4
        write_slice(tmp_path / f"{number}.dcm", image, (0, 0, 3 * number), series, RescaleSlope=slope)
    expected = numbered() * (1 + np.arange(SHAPE[0]) / 4)[:, None, None] - 1024
    assert np.array_equal(read_scan(tmp_path).array, expected[:, ::-1, ::-1])


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("seen by the radiologist\n" * 100)
    (tmp_path / ".hidden").write_bytes(b"\0" * 1000)
    (tmp_path / "empty").touch()
    assert read_scan(tmp_path).array.shape == SHAPE


def test_an_object_without_an_image_beside_the_series_does_not_matter(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_slice(tmp_path / "plan.dcm", numbered()[0], (0, 0, 0), generate_uid(), Modality="RTSTRUCT")
    plan = pydicom.dcmread(tmp_path / "plan.dcm")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(plan, name)
    plan.save_as(tmp_path / "plan.dcm")
    assert read_scan(tmp_path).array.shape == SHAPE


def test_two_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_series(tmp_path, names=[f"second{number}" for number in range(SHAPE[0])])
    assert refusal(tmp_path) == "several-series"


def test_one_of_two_series_is_read_through_a_file_of_it(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_series(tmp_path, numbered() + 5, names=[f"second{number}.dcm" for number in range(SHAPE[0])])
    assert read_scan(tmp_path / "second3.dcm").array.min() == 5 - 1024


@pytest.mark.parametrize("missing", [1, 3, 4])
def test_a_missing_slice_is_refused(tmp_path: Path, missing: int) -> None:
    write_series(tmp_path, skip=[missing])
    assert refusal(tmp_path) == "uneven-slices"


@pytest.mark.data
def test_a_missing_slice_of_a_real_series_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "robustness" / "dicom_series_torchio", tmp_path / "series")
    files = sorted(
        (tmp_path / "series").iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2]
    )
    files[len(files) // 2].unlink()
    assert refusal(tmp_path / "series") == "uneven-slices"


def test_several_images_at_one_place_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    series = generate_uid()
    write_series(tmp_path, series=series)
    write_series(tmp_path, numbered() + 1, series=series, names=[f"later{n}" for n in range(SHAPE[0])])
    assert refusal(tmp_path) == "not-3d"


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, numbered((1, 8, 10)))
    assert refusal(tmp_path) == "not-3d"


def test_slices_without_a_position_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, ImagePositionPatient=None)
    assert refusal(tmp_path) == "unsupported"


def test_colours_are_refused(tmp_path: Path) -> None:
    write_series(
        tmp_path,
        np.zeros((3, 8, 30), np.int16),
        SOPClassUID=SecondaryCaptureImageStorage,
        Columns=10,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    assert refusal(tmp_path) == "not-scalar"


def test_a_segmentation_is_no_scan(tmp_path: Path) -> None:
    write_series(tmp_path, Modality="SEG")
    assert refusal(tmp_path) == "unsupported"


def test_frames_without_places_are_refused(tmp_path: Path) -> None:
    write_slice(tmp_path / "cine.dcm", numbered(), (0, 0, 0), generate_uid(), NumberOfFrames=SHAPE[0])
    assert refusal(tmp_path / "cine.dcm") == "unsupported"


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = tmp_path / "002.dcm"
    path.write_bytes(path.read_bytes()[:-60])
    assert refusal(tmp_path) == "unreadable"


@pytest.mark.parametrize("content", [b"", b"this is no scan\n" * 50], ids=["empty", "text"])
def test_a_file_that_only_has_the_ending_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scan.dcm").write_bytes(content)
    assert refusal(tmp_path / "scan.dcm") == "unreadable"


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert refusal(tmp_path) == "unreadable"
