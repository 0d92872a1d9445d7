"""DICOM folders are sorted: into phases, echoes and orientations, without copies and what is no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import SHAPE, numbered, write_series, write_slice
from medssl.core.errors import UserError
from medssl.core.io.dicom import read_stack
from medssl.core.io.dicom_headers import full_header
from medssl.core.io.dicom_sort import sort_folder
from medssl.core.io.volume import read_scan
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, generate_uid

EXPECTED = numbered()[:, ::-1, ::-1] - 1024.0
"""What a series of `write_series` reads as."""
FILES = [f"second{number}.dcm" for number in range(SHAPE[0])]


def rewrite(path: Path, **elements: Any) -> FileDataset:
    """Change elements of a file; None deletes."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
    return dataset


def without_image(path: Path, sop_class: str, modality: str) -> None:
    """An object without pixels beside a series."""
    write_slice(path, numbered()[0], (0, 0, 0), generate_uid(), SOPClassUID=sop_class, Modality=modality)
    dataset = rewrite(path, Rows=None, Columns=None, PixelData=None)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.save_as(path)


@pytest.mark.parametrize(
    "sop_class, modality, kind",
    [
        ("1.2.840.10008.1.3.10", None, "DICOM index"),
        ("1.2.840.10008.5.1.4.1.1.88.11", "SR", "DICOM object without a scan"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR", "DICOM object without a scan"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "DICOM object without a scan"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", "DICOM object without a scan"),
    ],
)
def test_other_objects_are_left_out(tmp_path: Path, sop_class: str, modality: str | None, kind: str) -> None:
    write_series(tmp_path)
    without_image(tmp_path / "other", sop_class, modality or "")
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert sort_folder(tmp_path).left_out == {tmp_path / "other": kind}


@pytest.mark.parametrize("content, kind", [(b"", "empty file"), (b"text " * 99, "file that is no DICOM")])
def test_files_that_only_have_the_ending_are_left_out(tmp_path: Path, content: bytes, kind: str) -> None:
    write_series(tmp_path)
    (tmp_path / "notes.dcm").write_bytes(content)
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert sort_folder(tmp_path).left_out == {tmp_path / "notes.dcm": kind}


def test_a_dose_sheet_in_colour_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_slice(tmp_path / "dose.dcm", numbered((1, 8, 30))[0], (0, 0, 0), generate_uid(), Columns=10, **rgb)
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert sort_folder(tmp_path).left_out == {tmp_path / "dose.dcm": "colour image"}


def test_a_damaged_header_is_named_because_a_slice_is_missing(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = tmp_path / f"{SHAPE[0] - 1:03d}.dcm"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=path.name) as error:
        read_scan(tmp_path)
    assert error.value.code == "unreadable"


# --- copies


@pytest.mark.parametrize("same_identifier", [True, False])
def test_a_copy_of_a_slice_is_dropped(tmp_path: Path, same_identifier: bool) -> None:
    write_series(tmp_path)
    copy = tmp_path / "002 (1).dcm"
    copy.write_bytes((tmp_path / "002.dcm").read_bytes())
    if not same_identifier:
        rewrite(copy, SOPInstanceUID=generate_uid())
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert np.array_equal(read_scan(copy).array, EXPECTED)
    assert list(sort_folder(tmp_path).left_out.values()) == ["copy of a slice"]


def test_one_identifier_for_all_slices_does_not_make_them_copies(tmp_path: Path) -> None:
    write_series(tmp_path, SOPInstanceUID="1.2.3.4")
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)


# --- several scans in a series


def two_parts(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    series = generate_uid()
    write_series(folder, series=series, **first)
    write_series(folder, numbered() + 500, series=series, names=FILES, **second)


@pytest.mark.parametrize(
    "element, values, labels",
    [
        ("AcquisitionNumber", (1, 2), ["phase1", "phase2"]),
        ("TemporalPositionIdentifier", (2, 1), ["phase2", "phase1"]),
        ("EchoTime", (4.6, 2.3), ["echo2", "echo1"]),
        ("ImageType", (["ORIGINAL", "PRIMARY", "F"], ["ORIGINAL", "PRIMARY", "W"]), ["type1", "type2"]),
        ("ContentTime", ("120000", "120030"), ["phase1", "phase2"]),
    ],
)
def test_phases_and_echoes_are_scans_of_their_own(
    tmp_path: Path, element: str, values: tuple[Any, Any], labels: list[str]
) -> None:
    two_parts(tmp_path, {element: values[0]}, {element: values[1]})
    assert [group.label for group in sort_folder(tmp_path).scans] == labels
    assert np.array_equal(read_scan(tmp_path / "003.dcm").array, EXPECTED)
    assert np.array_equal(read_scan(tmp_path / FILES[3]).array, EXPECTED + 500)
    with pytest.raises(UserError, match=r"holds 2 scans: .*000\.dcm") as error:
        read_scan(tmp_path)
    assert error.value.code == "several-series"


def test_echoes_of_phases_are_told_apart(tmp_path: Path) -> None:
    series = generate_uid()
    for phase in (1, 2):
        for echo in (2.0, 4.0):
            names = [f"{phase}-{echo}-{number}" for number in range(SHAPE[0])]
            pixels = numbered() + int(100 * phase + echo)
            write_series(tmp_path, pixels, series=series, names=names, AcquisitionNumber=phase, EchoTime=echo)
    labels = {group.label for group in sort_folder(tmp_path).scans}
    assert labels == {"echo1-phase1", "echo1-phase2", "echo2-phase1", "echo2-phase2"}


def test_times_that_differ_from_slice_to_slice_split_nothing(tmp_path: Path) -> None:
    series = generate_uid()
    for number, image in enumerate(numbered()):
        for part in (0, 1):
            instance = 2 * number + part + 1
            write_slice(
                tmp_path / f"{instance:02d}.dcm", image + 500 * part, (0, 0, 3 * number), series,
                InstanceNumber=instance, ContentTime=f"1200{instance:02d}",
            )  # fmt: skip
    assert [group.label for group in sort_folder(tmp_path).scans] == ["part1", "part2"]
    assert np.array_equal(read_scan(tmp_path / "01.dcm").array, EXPECTED)


def test_orientations_and_sizes_are_scans_of_their_own(tmp_path: Path) -> None:
    series = generate_uid()
    write_series(tmp_path, series=series)
    write_series(tmp_path, series=series, names=FILES, directions=(0, 1, 0, 0, 0, -1), step=(3.0, 0, 0))
    write_series(tmp_path, numbered((4, 5, 6)), series=series, names=["s1", "s2", "s3", "s4"])
    assert [group.label for group in sort_folder(tmp_path).scans] == ["axial", "axial-2", "sagittal"]


def test_a_localiser_of_one_slice_is_left_out(tmp_path: Path) -> None:
    series = generate_uid()
    write_series(tmp_path, series=series)
    write_slice(tmp_path / "scout.dcm", numbered()[0], (0, 0, 50), series, directions=(0, 1, 0, 0, 0, -1))
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert sort_folder(tmp_path).left_out == {tmp_path / "scout.dcm": "single slice"}


def test_slices_that_each_have_a_series_are_put_together(tmp_path: Path) -> None:
    for number, image in enumerate(numbered()):
        write_slice(tmp_path / f"{number}.dcm", image, (0, 0, 3 * number), generate_uid())
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert np.array_equal(read_scan(tmp_path / "4.dcm").array, EXPECTED)


def test_single_slices_of_several_patients_are_not_put_together(tmp_path: Path) -> None:
    for number, image in enumerate(numbered()):
        write_slice(
            tmp_path / f"{number}.dcm", image, (0, 0, 3 * number), generate_uid(), PatientID=str(number)
        )
    assert not sort_folder(tmp_path).scans


# --- enhanced files


def write_enhanced(path: Path, heights: list[float], pixels: np.ndarray, series: str, **extra: Any) -> None:
    """An enhanced CT file, one frame for each height."""
    write_slice(path, pixels, (0, 0, 0), series, NumberOfFrames=len(heights), **extra)
    dataset = rewrite(path, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    shared, orientation, measures, scaling = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [2.0, 1.5]
    scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = (
        Sequence([orientation]),
        Sequence([measures]),
    )
    shared.PixelValueTransformationSequence = Sequence([scaling])
    frames = []
    for height in heights:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-50.0, -40.0, height]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.save_as(path)


@pytest.mark.parametrize("frames", [1, 3])
def test_an_enhanced_series_in_several_files_is_one_scan(tmp_path: Path, frames: int) -> None:
    series = generate_uid()
    for start in range(0, SHAPE[0], frames):
        heights = [100.0 + 3 * number for number in range(start, start + frames)]
        write_enhanced(tmp_path / f"{9 - start}.dcm", heights, numbered()[start : start + frames], series)
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)
    assert read_stack(tmp_path).modality == "CT"


def test_enhanced_files_at_the_same_positions_are_scans_of_their_own(tmp_path: Path) -> None:
    series, heights = generate_uid(), [100.0 + 3 * number for number in range(SHAPE[0])]
    for name, offset in (("a", 0), ("b", 500)):
        write_enhanced(tmp_path / f"{name}.dcm", heights, numbered() + np.int16(offset), series)
    assert np.array_equal(read_scan(tmp_path / "a.dcm").array, EXPECTED)
    assert np.array_equal(read_scan(tmp_path / "b.dcm").array, EXPECTED + 500)


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_damaged_size_is_refused_before_gdcm_takes_the_memory_for_it(
    tmp_path: Path, enhanced: bool
) -> None:
    if enhanced:
        write_enhanced(tmp_path / "a.dcm", [100.0, 103.0], numbered()[:2], generate_uid())
    else:
        write_series(tmp_path)
    for path in tmp_path.iterdir():
        rewrite(path, Rows=20_000, Columns=15_000)
    declared = "1,200,000,000" if enhanced else "600,000,000"
    with pytest.raises(UserError, match=f"header declares {declared} bytes of pixels, and the file has"):
        read_scan(tmp_path)


# --- files and pixels of older programs


@pytest.mark.parametrize("name", ["IM{}", "{}.IMA", "{}.dicom", "1.2.840.{}"])
@pytest.mark.parametrize("cut", [0, 132], ids=["preamble", "no-preamble"])
def test_files_without_preamble_or_usual_ending_are_read(tmp_path: Path, name: str, cut: int) -> None:
    write_series(tmp_path, names=[name.format(number) for number in range(SHAPE[0])])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[cut:])
    assert np.array_equal(read_scan(tmp_path).array, EXPECTED)


@pytest.mark.parametrize("bits, signed", [(16, 1), (12, 1), (16, 0), (12, 0)])
def test_monochrome1_has_the_same_values(tmp_path: Path, bits: int, signed: int) -> None:
    write_series(
        tmp_path, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed, RescaleSlope=2,
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    assert np.array_equal(read_scan(tmp_path).array, 2 * (EXPECTED + 1024) - 1024)


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    read, opened = pydicom.dcmread, []
    monkeypatch.setattr(pydicom, "dcmread", lambda path, **rest: (opened.append(path), read(path, **rest))[1])
    for _ in range(2):
        read_scan(tmp_path)
    assert len(opened) == SHAPE[0]
    rewrite(tmp_path / "000.dcm", PatientID="changed to something longer")
    assert sort_folder(tmp_path).scans[0].images[0].text("PatientID") == "changed to something longer"
    assert full_header(tmp_path / "000.dcm").PatientID == "changed to something longer"
