"""Files that are channels of one scan: by their names, by nnU-Net's numbers, and volumes of 4D files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.io.channel_files import choose_volumes, group_channels
from medssl.core.io.find import find_scans
from medssl.core.io.scan_file import ScanFile
from medssl.core.project.project import Project
from small import SHAPE, write_nifti
from test_find import touch
from typer.testing import CliRunner


def grouped(folder: Path, *channels: str) -> dict[str, tuple[str, ...]]:
    """{name of a scan: its channels} in a folder."""
    found = group_channels(find_scans([folder]), channels)
    return {scan.name: (scan.channel, *(each.channel for each in scan.further)) for scan in found.scans}


@pytest.mark.parametrize(
    "one, two, case",
    [
        ("a/BraTS_001_t1.nii.gz", "a/BraTS_001_t2.nii.gz", "BraTS_001"),
        ("sub-01/anat/sub-01_T1.nii", "sub-01/anat/sub-01_T2.nii", "sub-01"),
        ("p1/t1.nii.gz", "p1/t2.nii.gz", "p1"),
        ("t1/p1.nrrd", "t2/p1.nrrd", "p1"),
        ("a/T1-p1.mha", "a/T2-p1.mha", "p1"),
    ],
)
def test_names_and_folders_tell_channels(tmp_path: Path, one: str, two: str, case: str) -> None:
    touch(tmp_path, one, two)
    assert grouped(tmp_path, "t1", "t2") == {case: ("t1", "t2")}


def test_a_longer_name_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p_{name}.nii" for name in ("t1", "t1ce", "t2")))
    assert grouped(tmp_path, "t1", "t1ce", "t2") == {"p": ("t1", "t1ce", "t2")}


def test_other_files_are_left_out_and_a_missing_channel_is_no_error(tmp_path: Path) -> None:
    touch(tmp_path, "p_t1.nii", "p_t2.nii", "q_t1.nii", "r_t2.nii", "s_flair.nii", "p-t1.nrrd")
    found = group_channels(find_scans([tmp_path]), ("t1", "t2"))
    assert [scan.channel for scan in found.scans] == ["t1", "t1", "t2"]
    assert [line.partition(" /")[0] for line in found.left_out] == [
        "file of none of these channels", "second file of a channel"
    ]  # fmt: skip


def test_a_channel_that_no_file_has_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p_t1.nii")
    with pytest.raises(UserError, match="t2"):
        grouped(tmp_path, "t1", "t2")


def test_nnunet_s_channels_can_be_named_and_chosen(tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/case_{case}_000{channel}.nii.gz" for case in (1, 2) for channel in (0, 1)))
    assert set(grouped(tmp_path, "t1", "t2").values()) == {("t1", "t2")}
    assert set(grouped(tmp_path, "0001").values()) == {("0001",)}
    with pytest.raises(UserError, match="0000, 0001"):
        grouped(tmp_path, "a", "b", "c")


def nnunet(folder: Path, names: str) -> None:
    """Two scans of two channels, which have these names in dataset.json."""
    touch(folder, *(f"imagesTr/case_{case}_000{channel}.nii.gz" for case in (1, 2) for channel in (0, 1)))
    (folder / "dataset.json").write_text(f'{{"channel_names": {names}}}', encoding="utf-8")


def test_channels_of_another_name_are_not_those_of_a_network(tmp_path: Path) -> None:
    """A network of T1 and T2 would take FLAIR for T1 without a word."""
    nnunet(tmp_path, '{"0": "FLAIR", "1": "T1"}')
    found = find_scans([tmp_path])
    for names in (("t1", "t2"), ("flair", "t1", "t2")):
        with pytest.raises(UserError, match="has the channels FLAIR, T1, and the network takes"):
            group_channels(found, names, for_network=True)
    assert [scan.channel for scan in group_channels(found, ("t1",), for_network=True).scans] == ["t1", "t1"]
    assert [scan.channel for scan in group_channels(found, ("t1", "t2")).scans] == ["t1", "t1"]
    (tmp_path / "dataset.json").unlink()  # numbers are no names
    found = group_channels(find_scans([tmp_path]), ("t1", "t2"), for_network=True)
    assert [scan.channel for scan in found.scans] == ["t1", "t1"]


def test_what_a_network_lacks_among_files_is_about_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "p_t1.nii")
    with pytest.raises(UserError, match=r"takes t1, t2, and no name .* has t2 .*; name the files after"):
        group_channels(find_scans([tmp_path]), ("t1", "t2"), for_network=True)


@pytest.mark.parametrize(
    "names", ['{"0": "T1", "1": "造影"}', '{"0": "CON", "1": "T1"}', '{"0": "t 1", "1": "T-1"}']
)
def test_names_that_channels_cannot_have_are_numbers(tmp_path: Path, names: str) -> None:
    nnunet(tmp_path, names)
    (scan, _) = find_scans([tmp_path]).scans
    assert (scan.channel, scan.further[0].channel) == ("0000", "0001")


def test_volumes_take_the_names_of_dataset_json(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "T2", "1": "ADC"}}')
    scan = ScanFile(tmp_path / "imagesTr" / "p.nii.gz", "p", "p", False)
    chosen = choose_volumes(scan, [0, 1], [])
    assert (chosen.channel, chosen.volume) == ("T2", 0)
    assert [(each.channel, each.volume) for each in chosen.further] == [("ADC", 1)]
    assert choose_volumes(scan, [1], []).channel == ""
    with pytest.raises(UserError, match="name each volume"):
        choose_volumes(scan, [0, 1], ["a"])


def init(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)], catch_exceptions=False)
    return " ".join(result.output.split())


def test_init_takes_channels_together_and_names_what_is_missing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("p_t1", "p_t2", "q_t1"):
        write_nifti(tmp_path / f"{name}.nii", random.normal(size=SHAPE).astype(np.float32))
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 4:9, 4:9] = 1
    (tmp_path / "labels").mkdir()
    write_nifti(tmp_path / "labels" / "p_seg.nii", labels)
    said = init(tmp_path / "project", tmp_path, "--channels", "t1,t2", "--labels", tmp_path / "labels")
    project = Project.open(tmp_path / "project")
    assert {scan.id: scan.channel_names for scan in project.scans.values()} == {
        "p": ("t1", "t2"), "q": ("t1",)
    }  # fmt: skip
    assert "q has no t2" in said and project.annotation("p") is not None
    init(tmp_path / "project", tmp_path)  # without the names again: the channel is no scan
    assert list(Project.open(tmp_path / "project").scans) == ["p", "q"]


def test_init_takes_volumes_of_a_4d_file(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(size=(24, 24, 12, 3)).astype(np.float32)
    path = tmp_path / "four.nii.gz"
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), path)
    init(tmp_path / "project", path, "--volumes", "0,2", "--channels", "flair,adc")
    scan = Project.open(tmp_path / "project").scans["four"]
    assert scan.channel_names == ("flair", "adc") and (scan.volume, scan.channels[0].volume) == (0, 2)
    with pytest.raises(UserError, match="as in 0,2"):
        init(tmp_path / "other", path, "--volumes", "0,x")
    with pytest.raises(UserError, match="as in 0,2"):  # whose names would fill the memory
        init(tmp_path / "other", path, "--volumes", "0,5000000000")


def test_a_channel_that_cannot_be_used_leaves_its_scan(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p_t1.nii", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    write_nifti(tmp_path / "p_t2.nii", np.zeros(SHAPE, np.float32))
    assert "same value" in init(tmp_path / "project", tmp_path, "--channels", "t1,t2")
    assert Project.open(tmp_path / "project").scans["p"].channel_names == ("t1",)
