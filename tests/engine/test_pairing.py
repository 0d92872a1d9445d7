"""Label files go to the scans whose names they have, and to no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series
from medssl.core.errors import UserError
from medssl.core.io.dicom_seg import dicom_seg_bytes
from medssl.core.io.volume import read_scan
from medssl.core.labels.pairing import Pairs, pair_labels
from medssl.core.project.contents import LabelClass


def pair(folder: Path, scans: dict[str, str], labels: Sequence[str]) -> Pairs:
    """Pair empty files: {scan id: path below scans/}, and paths below labels/."""
    names = [f"scans/{name}" for name in scans.values()] + [f"labels/{name}" for name in labels]
    for path in [folder / name for name in names]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return pair_labels({key: folder / "scans" / name for key, name in scans.items()}, folder / "labels")


@pytest.mark.parametrize(
    "scan, label",
    [
        ("a.nii.gz", "a.nii.gz"),
        ("a.nii.gz", "a.seg.nrrd"),
        ("a.nii.gz", "A_Segmentation.nii.gz"),
        ("case_1_0000.nii.gz", "case_1.nii.gz"),
        ("a_image.mha", "a_label.mha"),
        ("volume-12.nii", "segmentation-12.nii"),
        ("scan.nii.gz", "scan_seg.nii.gz"),
        ("p0/ct.nii.gz", "p0/ct.nii.gz"),
        ("p0/ct.nii.gz", "p0/labels/ct.nii.gz"),
        ("p0/ct.nii.gz", "p0/ct_mask.nrrd"),
        ("p0/ct.nii.gz", "p0/seg.nii.gz"),
        ("p0/ct.nii.gz", "p0.nii.gz"),
        ("site/p0/image.nii.gz", "site/p0/label.nii.gz"),
    ],
)
def test_names_that_mean_the_scan(tmp_path: Path, scan: str, label: str) -> None:
    """Another patient's files are beside them."""
    other = scan.replace("p0", "p1") if "p0" in scan else f"other/{'z' * 3}.nii.gz"
    pairs = pair(tmp_path, {"one": scan, "two": other}, [label])
    assert pairs == Pairs({"one": tmp_path / "labels" / label}, {}, ("two",), ())


def test_a_label_file_of_either_of_two_patients_is_neither_s(tmp_path: Path) -> None:
    scans = {"ct": "p0/ct.nii.gz", "ct-2": "p1/ct.nii.gz"}
    pairs = pair(tmp_path, scans, ["ct.nii.gz"])
    assert pairs.files == {} and set(pairs.ambiguous) == {"ct", "ct-2"}
    assert "ct.nii.gz may belong to ct or ct-2" in pairs.ambiguous["ct"]


def test_ids_name_scans_where_all_of_that_name_have_theirs(tmp_path: Path) -> None:
    scans = {"ct": "p0/ct.nii.gz", "ct-2": "p1/ct.nii.gz"}
    pairs = pair(tmp_path, scans, ["ct.nii.gz", "ct-2.nii.gz"])
    assert {key: path.name for key, path in pairs.files.items()} == {"ct": "ct.nii.gz", "ct-2": "ct-2.nii.gz"}


def test_a_patient_without_labels_does_not_get_those_of_another(tmp_path: Path) -> None:
    pairs = pair(tmp_path, {"ct": "p0/ct.nii.gz", "ct-2": "p1/ct.nii.gz"}, ["p0/ct.nii.gz"])
    assert list(pairs.files) == ["ct"] and pairs.missing == ("ct-2",) and not pairs.ambiguous


def test_several_label_files_of_a_scan_are_named(tmp_path: Path) -> None:
    pairs = pair(tmp_path, {"a": "a.nii.gz"}, ["a_seg.nii.gz", "a_mask.nii.gz"])
    assert pairs.files == {} and all(
        name in pairs.ambiguous["a"] for name in ("a_mask.nii.gz", "a_seg.nii.gz")
    )


def test_several_files_in_the_folder_of_a_scan_are_its_structures(tmp_path: Path) -> None:
    names = [
        "p0/liver.nii.gz",
        "p0/spleen.nii.gz",
        "p1/segmentations/liver.nii.gz",
        "p1/segmentations/aorta.nii",
    ]
    pairs = pair(tmp_path, {"ct": "p0/ct.nii.gz", "ct-2": "p1/ct.nii.gz"}, names)
    labels = tmp_path / "labels"
    assert pairs == Pairs({"ct": labels / "p0", "ct-2": labels / "p1" / "segmentations"}, {}, (), ())


def test_the_more_precise_name_wins_and_the_rest_is_unused(tmp_path: Path) -> None:
    pairs = pair(tmp_path, {"a": "a.nii.gz"}, ["a.nii.gz", "b.nii.gz", ".hidden.nii.gz", "notes.txt"])
    assert pairs.files == {"a": tmp_path / "labels" / "a.nii.gz"}
    assert pairs.unused == (tmp_path / "labels" / "b.nii.gz",)


def test_scans_in_the_folder_are_no_labels(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a_seg.nii.gz"):
        (tmp_path / name).touch()
    assert pair_labels({"a": tmp_path / "a.nii.gz"}, tmp_path).files == {"a": tmp_path / "a_seg.nii.gz"}


@pytest.mark.parametrize("name", ["nothing-here", "empty"])
def test_a_folder_without_labels_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        pair_labels({}, tmp_path / name)
    assert error.value.code == "missing" and name in str(error.value)


def test_a_dicom_seg_goes_to_its_series_whatever_its_name(tmp_path: Path) -> None:
    for name in ("p0", "p1"):
        write_series(tmp_path / name)
    geometry = read_scan(tmp_path / "p1").geometry
    (tmp_path / "labels").mkdir()
    labels, classes = np.ones(geometry.shape_zyx, np.uint8), (LabelClass(1, "Liver", "#ff9e64"),)
    content = dicom_seg_bytes(labels, geometry, tmp_path / "p1", classes, "MANUAL")
    (tmp_path / "labels" / "x.dcm").write_bytes(content)
    pairs = pair_labels({"one": tmp_path / "p0", "two": tmp_path / "p1"}, tmp_path / "labels")
    assert pairs.files == {"two": tmp_path / "labels" / "x.dcm"} and pairs.missing == ("one",)


@pytest.mark.parametrize("label", ["Patient 7_segmentation.nii.gz", "patient 7.nrrd", "b.nii.gz"])
def test_a_scan_is_meant_by_what_it_was_called_and_by_its_file(tmp_path: Path, label: str) -> None:
    """Its exports are named after its name."""
    (tmp_path / label).touch()
    sources = {"a": Path("scans/a.nii"), "b": Path("scans/b.nii")}
    assert pair_labels(sources, tmp_path, {"b": "Patient 7"}).files == {"b": tmp_path / label}
