"""Folders in MSD layout: what is listed, and which cases are for testing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from medssl.benchmarking.dataset import read_dataset, split
from medssl.core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, names in {"imagesTr": "cab", "labelsTr": "ab", "imagesUn": "yx"}.items():
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
    write_labels(tmp_path, {"0": "background", "2": "spleen", "1": "liver"})
    return tmp_path


def write_labels(folder: Path, labels: object) -> None:
    (folder / "dataset.json").write_text(json.dumps({"name": "Abdomen", "labels": labels}))


def test_pairs_are_sorted_and_of_one_name(folder: Path) -> None:
    pairs = read_dataset(folder).pairs
    assert pairs == tuple(
        (folder / "imagesTr" / name, folder / "labelsTr" / name) for name in ("a.nii.gz", "b.nii.gz")
    )


def test_scans_without_labels_are_unlabelled(folder: Path) -> None:
    unlabelled = [path.name for path in read_dataset(folder).unlabelled]
    assert unlabelled == ["c.nii.gz", "x.nii.gz", "y.nii.gz"]


def test_hidden_doubles_of_a_mac_are_no_scans(folder: Path) -> None:
    (folder / "labelsTr" / "._a.nii.gz").touch()
    assert len(read_dataset(folder).pairs) == 2


def test_classes_come_in_order_of_their_ids_without_background(folder: Path) -> None:
    assert [(each.id, each.name) for each in read_dataset(folder).classes] == [(1, "liver"), (2, "spleen")]


def test_labels_the_other_way_round_are_read_too(folder: Path) -> None:
    write_labels(folder, {"background": 0, "liver": 1})
    assert [(each.id, each.name) for each in read_dataset(folder).classes] == [(1, "liver")]


@pytest.mark.parametrize("labels", [None, ["liver"], {"liver": "spleen"}])
def test_unusable_labels_are_refused_with_the_file_named(folder: Path, labels: object) -> None:
    write_labels(folder, labels)
    with pytest.raises(UserError, match=r"dataset\.json has no usable"):
        read_dataset(folder)


def test_a_label_without_a_scan_is_refused(folder: Path) -> None:
    (folder / "labelsTr" / "z.nii.gz").touch()
    with pytest.raises(UserError, match=r"z\.nii\.gz has no scan"):
        read_dataset(folder)


def test_a_folder_in_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no imagesTr"):
        read_dataset(tmp_path)


def test_every_fifth_case_is_for_testing() -> None:
    assert split("abcdefghijk") == (("a", "f", "k"), tuple("bcdeghij"))


@pytest.mark.data
def test_hippocampus_has_forty_test_cases_of_two_hundred(data: Path) -> None:
    dataset = read_dataset(data / "Task04_Hippocampus")
    test, rest = split(dataset.pairs)
    assert (len(test), len(rest)) == (40, 160)
    assert [each.name for each in dataset.classes] == ["Anterior", "Posterior"]
    assert test[0][0].name == "hippocampus_001.nii.gz"


@pytest.mark.data
def test_head_and_neck_brings_unlabelled_scans(data: Path) -> None:
    dataset = read_dataset(data / "HeadNeckCT_OpenKBP")
    assert (len(dataset.pairs), len(dataset.unlabelled)) == (38, 55)
