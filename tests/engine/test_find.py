"""One walk finds the scans: what is none is left out and named, and names come from the paths as given."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import SHAPE, numbered, write_series, write_slice
from medssl.core.errors import UserError
from medssl.core.export.provenance import write_recorded
from medssl.core.io.find import find_scans
from medssl.core.io.scan_file import SearchResult
from medssl.core.io.volume import read_scan
from medssl.core.project.project import Project
from pydicom.uid import generate_uid


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(result: SearchResult) -> list[str]:
    return [scan.name for scan in result.scans]


def link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("links need a permission here")


def test_scans_are_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nrrd", "notes.txt", "pair.hdr", "pair.img", "below/d.mha")
    result = find_scans([tmp_path])
    paths = [str(scan.path.relative_to(tmp_path).as_posix()) for scan in result.scans]
    assert paths == ["a.nrrd", "b.nii.gz", "below/d.mha", "pair.hdr"] and not result.left_out


def test_hidden_files_and_folders_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "._a.nii.gz", ".DS_Store", ".trash/old.nii.gz")
    result = find_scans([tmp_path])
    assert names(result) == ["a"]
    assert result.left_out == (
        f"hidden file {tmp_path / '._a.nii.gz'}",
        f"hidden folder {tmp_path / '.trash'}",
    )


def test_a_hidden_folder_that_is_given_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/a.nii.gz")
    assert names(find_scans([tmp_path / ".cache"])) == ["a"]


def test_a_file_that_is_given_twice_is_one_scan(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii")
    (scan,) = find_scans([tmp_path / "a.nii", tmp_path]).scans
    assert scan.path == tmp_path / "a.nii" and scan.given


@pytest.mark.parametrize("name, code", [("", "no-scans"), ("nothing", "missing")])
def test_nothing_to_find_is_said(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(UserError) as error:
        find_scans([tmp_path / name])
    assert error.value.code == code


def test_a_path_that_is_missing_among_others_is_named_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    result = find_scans([tmp_path / "a.nii", tmp_path / "nosuch"])
    assert names(result) == ["a"] and result.missing == 1
    assert result.left_out == (f"path that does not exist {tmp_path / 'nosuch'}",)


def test_what_was_left_out_is_said_where_nothing_was_found(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz")
    with pytest.raises(UserError, match="left out: label file"):
        find_scans([tmp_path])


# --- label files and exports


@pytest.mark.parametrize(
    "name",
    [
        "labelsTr/case.nii.gz", "s1/segmentations/liver.nii.gz", "masks/deep/a.mha", "GT/a.nii",
        "a_seg.nii.gz", "a.seg.nrrd", "a-label.nrrd", "a_label_2.nii.gz", "sub-1_dseg.nii.gz",
        "lung_mask.mha", "p_gt.nii.gz", "a_segmentation.nii.gz", "a_Segmentation.nii.gz",
        "sub-1_label-liver_mask.nii.gz",
    ],
)  # fmt: skip
def test_label_files_are_left_out_and_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "scan.nii.gz", name)
    result = find_scans([tmp_path])
    assert names(result) == ["scan"] and result.left_out == (f"label file {tmp_path / name}",)


@pytest.mark.parametrize("name", ["brainmask.mgz", "t1_masked.nii.gz", "unlabelled.nrrd", "segment7.nii"])
def test_scans_with_similar_names_are_scans(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert len(find_scans([tmp_path]).scans) == 1


def test_a_label_file_that_is_given_is_tried(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a_seg.nii.gz")
    assert names(find_scans([tmp_path / "labelsTr" / "a_seg.nii.gz"])) == ["a_seg"]


def test_of_a_dataset_s_folders_that_of_labels_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    assert len(find_scans([tmp_path / "imagesTr", tmp_path / "labelsTr"]).scans) == 1


def test_many_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", *(f"labelsTr/{number}.nii" for number in range(12)))
    assert find_scans([tmp_path]).left_out == (f"12 label files in {tmp_path / 'labelsTr'}",)


def test_earlier_exports_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "b.nii.gz.json", "a.json")
    write_recorded(tmp_path / "liver.nii.gz", b"labels", {})
    result = find_scans([tmp_path])
    assert names(result) == ["a", "b"], "another program has written b.nii.gz.json"
    assert result.left_out == (f"earlier export {tmp_path / 'liver.nii.gz'}",)


def ellipsoid(values: int) -> np.ndarray:
    """Classes 1..values in layers of an ellipsoid, uint8 (20, 24, 28)."""
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in (20, 24, 28)), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    return np.where(radius < 0.9, 1 + (radius * values / 0.9).astype(int), 0).astype(np.uint8)


@pytest.mark.parametrize("values", [1, 3, 100])
def test_voxels_tell_a_mask_whose_name_does_not(tmp_path: Path, values: int) -> None:
    nibabel.save(nibabel.Nifti1Image(ellipsoid(1) * np.uint8(values), np.eye(4)), tmp_path / "organ.nii.gz")
    project = Project.create(tmp_path / "project")
    with pytest.raises(UserError, match="holds labels") as error:
        project.add_scan(tmp_path / "organ.nii.gz", refuse_masks=True)
    assert error.value.code == "mask"
    assert project.add_scan(tmp_path / "organ.nii.gz").id == "organ"


def test_an_image_of_few_counts_is_no_mask(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(ellipsoid(4)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(counts, np.eye(4)), tmp_path / "spect.nii.gz")
    assert Project.create(tmp_path / "project").add_scan(tmp_path / "spect.nii.gz", refuse_masks=True)


# --- names


def test_names_are_the_shortest_ends_of_paths_that_tell_scans_apart(tmp_path: Path) -> None:
    touch(tmp_path, "p1/x/ct.nii.gz", "p2/x/ct.nii.gz", "p2/x/t1.nii.gz", "p3/CT.mha", "p3/CT.nii.gz")
    assert names(find_scans([tmp_path])) == ["p1-x-ct", "p2-x-ct", "t1", "p3-CT", "CT-2"]


def test_ids_are_made_from_names(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    for patient in ("p1", "p2", "p3"):
        write_series(tmp_path / patient / "ct", numbered() + int(patient[1]))
    result = find_scans([tmp_path / "p1", tmp_path / "p2"])
    assert [project.add_scan(scan.path, name=scan.name).id for scan in result.scans] == ["p1-ct", "p2-ct"]
    (later,) = find_scans([tmp_path / "p3"]).scans
    assert project.add_scan(later.path, name=later.name).id == "ct"
    project.add_scan(later.path, name=later.name)
    write_series(tmp_path / "p4" / "ct", numbered() + 4)
    assert project.add_scan(tmp_path / "p4" / "ct", name="ct").id == "p4-ct"


def test_nnunet_s_first_channel_has_the_name_of_its_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/case_{case}_000{channel}.nii.gz" for case in (1, 2) for channel in (0, 1)))
    result = find_scans([tmp_path])
    assert names(result) == ["case_1", "case_2"]
    assert [scan.path.name for scan in result.scans] == ["case_1_0000.nii.gz", "case_2_0000.nii.gz"]
    assert not result.left_out
    (second,) = result.scans[0].further
    assert (result.scans[0].channel, second.channel, second.path.name) == (
        "0000",
        "0001",
        "case_1_0001.nii.gz",
    )


def test_dataset_json_names_nnunet_s_channels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/case_{case}_000{channel}.nii.gz" for case in (1, 2) for channel in (0, 1)))
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T2", "1": "ADC"}}')
    scan = find_scans([tmp_path]).scans[0]
    assert (scan.channel, scan.further[0].channel) == ("T2", "ADC")


@pytest.mark.parametrize(
    "files", [["imagesTr/amos_0001.nii.gz", "imagesTr/amos_0002.nii.gz"], ["x/a_0000.nii", "x/b_0000.nii"]]
)
def test_numbers_of_patients_are_no_channels(tmp_path: Path, files: list[str]) -> None:
    touch(tmp_path, *files)
    assert names(find_scans([tmp_path])) == [Path(file).name.partition(".")[0] for file in files]


# --- links and permissions


def test_a_link_gives_the_name_and_its_target_the_voxels(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(4, 5, 6)), np.eye(4)), tmp_path / "x.nii"
    )
    (tmp_path / "blobs").mkdir()
    (tmp_path / "x.nii").rename(tmp_path / "blobs" / "ab01")
    link(tmp_path / "snap" / "case_0.nii", "../blobs/ab01")
    (scan,) = find_scans([tmp_path / "snap"]).scans
    added = Project.create(tmp_path / "project").add_scan(scan.path, name=scan.name)
    assert added.id == "case_0" and added.source == str(tmp_path / "snap" / "case_0.nii")


def test_of_a_store_and_the_links_into_it_the_links_are_the_scans(tmp_path: Path) -> None:
    touch(tmp_path, "store/MD5E-1.nii.gz")
    link(tmp_path / "sub-01" / "sub-01_T1w.nii.gz", "../store/MD5E-1.nii.gz")
    result = find_scans([tmp_path])
    assert names(result) == ["sub-01_T1w"] and "second path to a scan" in result.left_out[0]


def test_a_link_beside_its_target_is_another_name_of_it(tmp_path: Path) -> None:
    touch(tmp_path, "case_7.nii.gz")
    link(tmp_path / "a_latest.nii.gz", "case_7.nii.gz")
    assert len(find_scans([tmp_path]).scans) == 1


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "all/a.nii.gz", "elsewhere/b.nii.gz")
    link(tmp_path / "all" / "loop", "..")
    link(tmp_path / "all" / "more", "../elsewhere")
    result = find_scans([tmp_path / "all"])
    assert names(result) == ["a", "b"]
    link(tmp_path / "all" / "again", "../elsewhere")
    assert names(find_scans([tmp_path / "all"])) == ["a", "b"]


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    link(tmp_path / "b.nii.gz", "nowhere")
    assert find_scans([tmp_path]).left_out == (f"broken link {tmp_path / 'b.nii.gz'}",)
    with pytest.raises(UserError, match="is a link to a file that does not exist"):
        find_scans([tmp_path / "b.nii.gz"])


def test_a_folder_that_may_not_be_read_is_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.nii.gz", "b/2.nii.gz", "c/3.nii.gz")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == tmp_path / "b":  # root may read everything, so chmod would not do
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = find_scans([tmp_path])
    assert names(result) == ["1", "3"]
    assert result.left_out == (f"folder that cannot be read {tmp_path / 'b'}",)


# --- DICOM


def test_a_series_is_found_as_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "patient" / "ct")
    assert [scan.path for scan in find_scans([tmp_path]).scans] == [tmp_path / "patient" / "ct"]


def test_all_slices_given_at_once_are_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    (tmp_path / "ct" / "empty.dcm").touch()
    result = find_scans(sorted((tmp_path / "ct").iterdir()))
    assert names(result) == ["ct"] and result.left_out == (f"empty file {tmp_path / 'ct' / 'empty.dcm'}",)


def test_two_series_in_a_folder_are_two_scans_named_by_their_descriptions(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesDescription="Lung 1.0", SeriesNumber=3)
    write_series(tmp_path, names=[f"second{number}.dcm" for number in range(SHAPE[0])], SeriesNumber=4)
    result = find_scans([tmp_path])
    assert [read_scan(scan.path).array.shape for scan in result.scans] == [SHAPE, SHAPE]
    assert [scan.stem for scan in result.scans] == [f"{tmp_path.name}-Lung 1.0", f"{tmp_path.name}-series4"]


def test_patients_in_one_folder_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    for patient in ("A7", "B2"):
        files = [f"{patient}{number}" for number in range(SHAPE[0])]
        write_series(tmp_path / "flat", names=files, PatientID=patient, SeriesNumber=1)
    assert names(find_scans([tmp_path])) == ["flat-A7-series1", "flat-B2-series1"]


def test_enhanced_files_have_their_own_names(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    write_slice(
        tmp_path / "scout.dcm", numbered()[0], (0, 0, 0), generate_uid(), ImageType=["A", "B", "LOCALIZER"]
    )
    result = find_scans([tmp_path])
    assert names(result) == ["a"] and result.left_out == (f"localiser {tmp_path / 'scout.dcm'}",)


def test_parts_of_a_series_in_several_folders_are_named_instead_of_taken_for_scans(tmp_path: Path) -> None:
    series = generate_uid()
    write_series(tmp_path / "low", series=series, skip=[3, 4, 5])
    write_series(tmp_path / "high", series=series, skip=[0, 1, 2])
    write_series(tmp_path / "other")
    result = find_scans([tmp_path])
    assert names(result) == ["other"] and "parts of series" in result.left_out[0]
