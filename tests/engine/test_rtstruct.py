"""Contours of an RTSTRUCT become labels on the grid of their scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import SHAPE, numbered, write_series
from medssl.core.errors import UserError
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.io.label_detection import read_scan_or_labels
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import Volume, read_scan
from medssl.core.labels.pairing import pair_labels
from project_parts import code_of
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from test_label_files import DIRECTIONS

Box = tuple[float, int, int, int, int]
"""Slice, and rows and columns from and to, of a rectangle of voxels; across the first canonical axis."""


def write_contours(
    path: Path, scan: Geometry, structures: dict[str, Iterable[Box]], axis: int = 0, series: str = ""
) -> Path:
    """An RTSTRUCT with rectangles that enclose whole voxels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    header.Modality, header.StructureSetROISequence, header.ROIContourSequence = "RTSTRUCT", [], []
    for number, (name, boxes) in enumerate(structures.items(), 7):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [255, 128, 0]
        drawn.ContourSequence = [_contour(scan, box, axis) for box in boxes]
        header.StructureSetROISequence.append(roi)
        header.ROIContourSequence.append(drawn)
    if series:
        frame, study, referenced = Dataset(), Dataset(), Dataset()
        referenced.SeriesInstanceUID = series
        study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [referenced], [study]
        header.ReferencedFrameOfReferenceSequence = [frame]
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def _contour(scan: Geometry, box: Box, axis: int) -> Dataset:
    position, top, bottom, left, right = box
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    points = np.insert(np.array(corners) - 0.5, axis, position, axis=1)
    mm = np.c_[points, np.ones(4)] @ (RAS_TO_LPS @ scan.canonical_affine).T
    item = Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", 4
    item.ContourData = [f"{value:.3f}" for value in mm[:, :3].ravel()]
    return item


def filled(shape: Sequence[int], boxes: Iterable[Box]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for position, top, bottom, left, right in boxes:
        mask[int(position), top:bottom, left:right] = True
    return mask


@pytest.fixture
def scan(tmp_path: Path) -> Geometry:
    write_series(tmp_path / "series")
    return read_scan(tmp_path / "series").geometry


@pytest.mark.parametrize("geometry", DIRECTIONS.values(), ids=DIRECTIONS)
def test_contours_in_every_direction_enclose_their_voxels(tmp_path: Path, geometry: dict) -> None:
    write_series(tmp_path / "series", **geometry)
    scan = read_scan(tmp_path / "series").geometry
    axis = int(np.argmin(scan.shape_zyx))  # across the slices of the series, of which there are fewest
    boxes = [(index, 2, 5, 1, 6 - index) for index in range(1, 4)]
    path = write_contours(tmp_path / "rs.dcm", scan, {"Liver": boxes, "Marker": []}, axis)
    labels = read_labels(path, scan)
    shape = np.moveaxis(labels.array, axis, 0).shape
    assert np.array_equal(np.moveaxis(labels.array, axis, 0) == 1, filled(shape, boxes))
    assert labels.names == {1: "Liver", 2: "Marker"} and labels.colors[1] == "#ff8000"
    assert labels.values() == [1] and labels.notes == ("left out without closed contours: Marker",)


def test_a_contour_within_another_is_a_hole(tmp_path: Path, scan: Geometry) -> None:
    path = write_contours(tmp_path / "rs.dcm", scan, {"ring": [(2, 1, 7, 1, 8), (2, 3, 5, 3, 6)]})
    expected = filled(SHAPE, [(2, 1, 7, 1, 8)]) & ~filled(SHAPE, [(2, 3, 5, 3, 6)])
    assert np.array_equal(read_labels(path, scan).array == 1, expected)


def test_slices_between_contours_are_filled_and_a_wider_gap_is_not(tmp_path: Path) -> None:
    write_series(tmp_path / "series", numbered((12, 8, 10)))
    scan = read_scan(tmp_path / "series").geometry
    boxes = [(index, 2, 6, 2, 6) for index in (0, 2, 4, 10)]
    labels = read_labels(write_contours(tmp_path / "rs.dcm", scan, {"two parts": boxes}), scan)
    assert np.flatnonzero(labels.array.any(axis=(1, 2))).tolist() == [0, 1, 2, 3, 4, 10]
    assert np.array_equal(labels.array[1], labels.array[0])


def test_planes_between_two_slices_fill_as_many_slices_as_there_are_planes(
    tmp_path: Path, scan: Geometry
) -> None:
    boxes = [(index + 0.5, 2, 6, 2, 6) for index in range(1, 4)]
    labels = read_labels(write_contours(tmp_path / "rs.dcm", scan, {"a": boxes}), scan)
    assert len(np.flatnonzero(labels.array.any(axis=(1, 2)))) == 3


def test_an_organ_is_kept_within_the_body_whichever_comes_first(tmp_path: Path, scan: Geometry) -> None:
    organ, body = (2, 3, 5, 3, 6), (2, 0, 8, 0, 10)
    for structures in ({"Organ": [organ], "Body": [body]}, {"Body": [body], "Organ": [organ]}):
        labels = read_labels(write_contours(tmp_path / "rs.dcm", scan, structures), scan)
        (value,) = (value for value, name in labels.names.items() if name == "Organ")
        assert np.array_equal(labels.array == value, filled(SHAPE, [organ]))
        assert labels.notes == ("6 voxels are in several structures and belong to the smallest",)


@pytest.mark.parametrize(
    ("kind", "code"), [("outside", "other-grid"), ("oblique", "other-grid"), ("no scan", "no-grid"),
                       ("damaged", "unreadable")]
)  # fmt: skip
def test_what_cannot_be_placed_is_refused_in_a_sentence(
    tmp_path: Path, scan: Geometry, kind: str, code: str
) -> None:
    box = (50, 2, 6, 2, 6) if kind == "outside" else (2, 2, 6, 2, 6)
    path = write_contours(tmp_path / "rs.dcm", scan, {"a": [box]})
    if kind in ("oblique", "damaged"):
        header = pydicom.dcmread(path)
        contour = header.ROIContourSequence[0].ContourSequence[0]
        data = list(contour.ContourData)
        data[2] += 20
        contour.ContourData = data if kind == "oblique" else data[:-1]
        header.save_as(path)
    with pytest.raises(UserError) as error:
        read_labels(path, None if kind == "no scan" else scan)
    assert code_of(error) == code and str(path) in str(error.value)


def test_a_structure_set_beside_its_slices_hides_no_scan(tmp_path: Path, scan: Geometry) -> None:
    write_contours(tmp_path / "series" / "rs.dcm", scan, {"a": [(2, 2, 6, 2, 6)]})
    assert isinstance(read_scan_or_labels(tmp_path / "series"), Volume)
    assert read_labels(tmp_path / "series", scan).names == {1: "a"}


def test_a_structure_set_belongs_to_the_series_that_it_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_series(tmp_path / name, series=generate_uid())
    uid = pydicom.dcmread(tmp_path / "two" / "000.dcm").SeriesInstanceUID
    scan = read_scan(tmp_path / "two").geometry
    path = write_contours(tmp_path / "labels" / "rs.dcm", scan, {"a": [(2, 2, 6, 2, 6)]}, series=uid)
    pairs = pair_labels({name: tmp_path / name for name in ("one", "two")}, tmp_path / "labels")
    assert pairs.files == {"two": path}
