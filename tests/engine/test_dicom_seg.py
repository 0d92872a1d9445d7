"""DICOM-SEG: what was segmented on a series comes back on its very images, whoever reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, numbered, write_series
from medssl.core.errors import UserError
from medssl.core.io.dicom import read_stack
from medssl.core.io.dicom_seg import AlgorithmType, dicom_seg_bytes
from medssl.core.io.labels import read_labels
from medssl.core.io.read_dicom_seg import SEGMENTATIONS
from medssl.core.io.volume import read_scan
from medssl.core.project.contents import LabelClass
from pydicom.uid import generate_uid

CLASSES = (LabelClass(1, "Liver", "#ff9e64"), LabelClass(7, "Gefäß", "#7aa2ff"))
SERIES = (
    "dicom_series_ct_head_small",
    "dicom_series_flair_oblique_thick",
    "dicom_series_hippocrop_mr",
    "dicom_series_torchio",
)
LPS = np.array([-1.0, -1.0, 1.0])


def written(
    source: Path,
    path: Path,
    classes: Sequence[LabelClass] = CLASSES,
    how: AlgorithmType = "SEMIAUTOMATIC",
    label_map: bool = False,
) -> np.ndarray:
    """Write random labels of a series as DICOM-SEG and return them, (Z, Y, X)."""
    geometry = read_scan(source).geometry
    values = np.array([0, 0, *(item.id for item in classes)], np.uint8)
    labels = np.random.default_rng(0).choice(values, geometry.shape_zyx)
    path.write_bytes(dicom_seg_bytes(labels, geometry, source, classes, how, label_map))
    return labels


def assert_refused(code: str, source: Path, path: Path) -> None:
    with pytest.raises(UserError) as error:
        written(source, path)
    assert error.value.code == code
    assert str(source) in str(error.value) and ".nii.gz" in str(error.value)
    assert not path.exists()


def assert_highdicom_finds_each_voxel(labels: np.ndarray, source: Path, path: Path) -> None:
    """Frame by frame through the images that they refer to, and those images' own headers say where."""
    files = [each for each in source.iterdir() if each.suffix == ".dcm"] if source.is_dir() else [source]
    headers = {header.SOPInstanceUID: header for header in (pydicom.dcmread(each) for each in files)}
    segmentation = highdicom.seg.segread(path)
    frames = segmentation.get_pixels_by_source_instance(
        list(headers), combine_segments=True, segment_numbers=[1, 2]
    )
    to_index = np.linalg.inv(read_scan(source).geometry.canonical_affine)
    for frame, header in zip(frames, headers.values(), strict=True):
        across, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = map(float, header.PixelSpacing)
        rows, columns = np.mgrid[: header.Rows, : header.Columns]
        places = np.array(header.ImagePositionPatient, float) + (
            rows[..., None] * between_rows * down + columns[..., None] * between_columns * across
        )
        index = places * LPS @ to_index[:3, :3].T + to_index[:3, 3]
        assert np.abs(index - np.round(index)).max() < 0.02
        z, y, x = np.moveaxis(np.round(index).astype(int), -1, 0)
        assert np.array_equal(np.array([0, 1, 7])[frame], labels[z, y, x])


def assert_itk_finds_each_voxel(labels: np.ndarray, source: Path, path: Path) -> None:
    """On the grid that ITK gives the series: the segments' stacks come one after the other."""
    image, stack = sitk.ReadImage(str(path)), read_stack(source)
    files = [str(stack.files[number]) for number in stack.order]
    series = sitk.ReadImage(files)
    assert image.GetOrigin() == pytest.approx(series.GetOrigin(), abs=1e-3)
    assert image.GetSpacing() == pytest.approx(series.GetSpacing(), abs=1e-4)
    assert image.GetDirection() == pytest.approx(series.GetDirection(), abs=1e-4)
    voxels = sitk.GetArrayFromImage(image)
    shape = sitk.GetArrayFromImage(series).shape
    geometry = read_scan(source).geometry
    for segment, item in zip(voxels.reshape(-1, *shape), CLASSES, strict=True):
        assert np.array_equal(geometry.to_canonical(segment.T) > 0, labels == item.id)


DIRECTIONS = {
    "axial": {},
    "from above": {"step": (0, 0, -3.0)},
    "sagittal": {"directions": (0, 1, 0, 0, 0, -1), "step": (2.5, 0, 0)},
    "coronal": {"directions": (1, 0, 0, 0, 0, -1), "step": (0, 2.5, 0)},
    "transposed": {"directions": (0, 1, 0, 1, 0, 0), "step": (0, 0, -2.5)},
    "oblique": {"directions": (1, 0, 0, 0, 0.8, -0.6), "step": (0, 1.8, 2.4)},
}


@pytest.mark.parametrize("geometry", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_segmentation_of_any_direction_and_file_order_is_read_back_voxel_by_voxel(
    tmp_path: Path, geometry: dict
) -> None:
    series, path = tmp_path / "series", tmp_path / "out.dcm"
    write_series(series, names=[f"{name}.dcm" for name in "caebfd"], **geometry)
    labels = written(series, path)
    assert_highdicom_finds_each_voxel(labels, series, path)
    assert_itk_finds_each_voxel(labels, series, path)


@pytest.mark.parametrize("geometry", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_label_map_has_one_frame_for_each_image_and_every_voxel(tmp_path: Path, geometry: dict) -> None:
    series, path = tmp_path / "series", tmp_path / "out.dcm"
    write_series(series, names=[f"{name}.dcm" for name in "caebfd"], **geometry)
    labels = written(series, path, label_map=True)
    header = pydicom.dcmread(path)
    assert header.SOPClassUID == SEGMENTATIONS[1] and header.NumberOfFrames == SHAPE[0]
    assert_highdicom_finds_each_voxel(labels, series, path)
    scan = read_scan(series).geometry
    back = read_labels(path, scan)
    assert np.array_equal(np.array([0, 1, 7])[back.array], labels)
    assert back.names == {1: "Liver", 2: "Gefäß"}


@pytest.mark.data
@pytest.mark.parametrize("name", SERIES)
def test_on_real_series_too(data: Path, tmp_path: Path, name: str) -> None:
    series, path = data / "robustness" / name, tmp_path / "out.dcm"
    labels = written(series, path)
    assert_highdicom_finds_each_voxel(labels, series, path)
    assert_itk_finds_each_voxel(labels, series, path)


def test_a_single_class_comes_back_to_itk_on_the_series_own_grid(tmp_path: Path) -> None:
    write_series(tmp_path / "series", **DIRECTIONS["oblique"])
    labels = written(tmp_path / "series", tmp_path / "out.dcm", CLASSES[1:])
    image = sitk.ReadImage(str(tmp_path / "out.dcm"))
    geometry = read_scan(tmp_path / "series").geometry
    assert image.GetSize() == geometry.shape
    assert np.array_equal(geometry.to_canonical(sitk.GetArrayFromImage(image).T) > 0, labels == 7)
    assert image.GetOrigin() == pytest.approx(LPS * geometry.matrix[:3, 3])


def test_under_a_tilted_gantry_every_frame_lies_on_its_image(tmp_path: Path) -> None:
    write_series(tmp_path / "series", step=(0.0, 1.2, 3.0))
    labels = written(tmp_path / "series", tmp_path / "out.dcm")
    assert_highdicom_finds_each_voxel(labels, tmp_path / "series", tmp_path / "out.dcm")


def test_frames_whose_bits_do_not_fill_bytes_are_put_in_order_too(tmp_path: Path) -> None:
    # 60 bits each. (ITK leaves out the last bits of a file that does not end with a full byte; 480 do.)
    write_series(tmp_path / "series", numbered((4, 6, 10)))
    labels = written(tmp_path / "series", tmp_path / "out.dcm")
    assert_highdicom_finds_each_voxel(labels, tmp_path / "series", tmp_path / "out.dcm")
    assert_itk_finds_each_voxel(labels, tmp_path / "series", tmp_path / "out.dcm")


@pytest.mark.data
def test_frames_of_an_enhanced_file_lie_on_its_frames(data: Path, tmp_path: Path) -> None:
    source, path = data / "robustness" / "dicom_enhanced_multiframe.dcm", tmp_path / "out.dcm"
    labels = written(source, path)
    header, geometry = pydicom.dcmread(source), read_scan(source).geometry
    frames = highdicom.seg.segread(path).get_pixels_by_source_frame(
        header.SOPInstanceUID, range(1, header.NumberOfFrames + 1), combine_segments=True
    )
    to_index = np.linalg.inv(geometry.canonical_affine)
    for frame, said in zip(frames, header.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(said.PlanePositionSequence[0].ImagePositionPatient, float)
        z, y, x = np.round((to_index @ [*(place * LPS), 1])[:3]).astype(int)
        assert np.array([0, 1, 7])[frame[0, 0]] == labels[z, y, x]
        assert np.count_nonzero(frame) > 0


def test_it_refers_to_the_series_the_study_and_the_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "series", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Änne")
    written(tmp_path / "series", tmp_path / "out.dcm")
    image, made = pydicom.dcmread(tmp_path / "series" / "000.dcm"), pydicom.dcmread(tmp_path / "out.dcm")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert made[name].value == image[name].value
    referred = made.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == image.SeriesInstanceUID
    assert len(referred.ReferencedInstanceSequence) == SHAPE[0]
    assert made.SeriesInstanceUID != image.SeriesInstanceUID


def test_segments_have_the_classes_names_ids_and_colours(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    written(tmp_path / "series", tmp_path / "out.dcm")
    first, second = highdicom.seg.segread(tmp_path / "out.dcm").SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("Liver", "Gefäß")
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeValue == "7"
    color = highdicom.color.CIELabColor.from_dicom_value(second.RecommendedDisplayCIELabValue)
    assert color.to_rgb(clip=True) == pytest.approx((0x7A, 0xA2, 0xFF), abs=2)
    assert first.SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_what_a_person_painted_names_no_algorithm(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    written(tmp_path / "series", tmp_path / "out.dcm", how="MANUAL")
    assert all(
        segment.SegmentAlgorithmType == "MANUAL" and "SegmentAlgorithmName" not in segment
        for segment in pydicom.dcmread(tmp_path / "out.dcm").SegmentSequence
    )


def test_a_class_without_a_voxel_is_no_segment(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    geometry = read_scan(tmp_path / "series").geometry
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 1:3, 2:5] = 7
    path = tmp_path / "out.dcm"
    path.write_bytes(dicom_seg_bytes(labels, geometry, tmp_path / "series", CLASSES, "AUTOMATIC"))
    (segment,) = highdicom.seg.segread(path).SegmentSequence
    assert (segment.SegmentNumber, segment.SegmentLabel) == (1, "Gefäß")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(geometry.to_canonical(voxels.T) > 0, labels > 0)


def test_without_a_voxel_of_any_class_there_is_no_dicom_seg(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    geometry = read_scan(tmp_path / "series").geometry
    with pytest.raises(UserError, match=r"no voxel of any class.*choose \.nii\.gz") as error:
        dicom_seg_bytes(np.zeros(SHAPE, np.uint8), geometry, tmp_path / "series", CLASSES, "AUTOMATIC")
    assert error.value.code == "empty"


def test_the_longest_name_and_a_backslash_fit(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    classes = (LabelClass(1, "x" * 64, "#000000"), LabelClass(2, "left\\right", "#ffffff"))
    written(tmp_path / "series", tmp_path / "out.dcm", classes)
    labels = [each.SegmentLabel for each in pydicom.dcmread(tmp_path / "out.dcm").SegmentSequence]
    assert labels == ["x" * 64, "left/right"]


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SOPInstanceUID"])
def test_a_series_that_is_anonymised_too_far_is_refused(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "series")
    for each in (tmp_path / "series").iterdir():
        header = pydicom.dcmread(each)
        del header[name]
        header.save_as(each)
    assert_refused("not-referable", tmp_path / "series", tmp_path / "out.dcm")


def test_a_series_whose_images_share_a_name_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "series", SOPInstanceUID=generate_uid())
    assert_refused("not-referable", tmp_path / "series", tmp_path / "out.dcm")


def test_a_series_that_lies_elsewhere_by_now_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "then")
    write_series(tmp_path / "now", step=(0, 0, 3.01))
    geometry = read_scan(tmp_path / "then").geometry
    with pytest.raises(UserError) as error:
        dicom_seg_bytes(np.ones(SHAPE, np.uint8), geometry, tmp_path / "now", CLASSES, "MANUAL")
    assert error.value.code == "changed"
