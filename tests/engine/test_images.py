"""Normalised images: a damaged one is made again from its source, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.project.project import LabelClass, Project
from project_parts import code_of
from small import Events, job_of, make_project, run

Damage = Callable[[Path], object]


def set_voxel(value: float) -> Damage:
    """Sets one voxel of the array in a file."""

    def damage(path: Path) -> None:
        image = np.load(path)
        image[2, 3, 4] = value
        np.save(path, image)

    return damage


DAMAGES = {
    "voxel": set_voxel(60000),
    "nan": set_voxel(np.nan),
    "infinite": set_voxel(-np.inf),
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no-array": lambda path: path.write_bytes(b"\x93NUMPY"),
    "shape": lambda path: np.save(path, np.zeros((2, 2, 2), np.float16)),
}
anything = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture
def path(small_project: Project) -> Path:
    return small_project.root / "scans" / "scan.npy"


@anything
def test_a_damaged_image_is_made_again_from_its_source(
    small_project: Project, path: Path, damage: Damage
) -> None:
    before, said = path.read_bytes(), []
    small_project.image("scan")
    small_project.on_notice = said.append
    damage(path)
    small_project.image("scan")
    assert path.read_bytes() == before
    assert len(said) == 1 and "made again" in said[0]


@anything
def test_without_its_source_it_is_refused(
    small_project: Project, scan_file: Path, path: Path, damage: Damage
) -> None:
    scan_file.unlink()
    damage(path)
    with pytest.raises(UserError, match=r"image of scan .*scan\.npy.*scan\.nii\.gz was not found") as error:
        small_project.image("scan")
    assert code_of(error) == "unreadable"


def test_with_other_voxels_in_its_source_it_is_refused(
    small_project: Project, scan_file: Path, path: Path
) -> None:
    source = nibabel.load(scan_file)
    nibabel.save(nibabel.Nifti1Image(source.get_fdata()[::-1], source.affine), scan_file)
    set_voxel(60000)(path)
    with pytest.raises(UserError, match="has changed since it was added") as error:
        small_project.image("scan")
    assert code_of(error) == "unreadable"


def test_a_window_that_only_reads_makes_none(small_project: Project, path: Path) -> None:
    set_voxel(60000)(path)
    before = path.read_bytes()
    small_project.read_only = "Another window has the project open."
    with pytest.raises(UserError, match="Another window has the project open") as error:
        small_project.image("scan")
    assert code_of(error) == "unreadable"
    assert path.read_bytes() == before


def test_adding_the_scan_again_from_another_folder_replaces_it(
    small_project: Project, scan_file: Path, path: Path, tmp_path: Path
) -> None:
    before = path.read_bytes()
    set_voxel(60000)(path)
    moved = tmp_path / "moved.nii.gz"
    scan_file.rename(moved)
    assert small_project.add_scan(moved).id == "scan"
    assert path.read_bytes() == before


def test_an_image_of_a_former_version_has_no_hash_and_must_be_finite(
    small_project: Project, path: Path
) -> None:
    file = small_project.root / "project.json"
    contents = json.loads(file.read_text())
    del contents["scans"][0]["image_sha256"]
    file.write_text(json.dumps(contents))
    former, before = Project.open(small_project.root), path.read_bytes()
    assert former.image("scan").shape == (6, 9, 10)
    set_voxel(np.inf)(path)
    former.image("scan")
    assert path.read_bytes() == before


def test_the_hash_outlives_other_changes(small_project: Project, path: Path) -> None:
    small_project.hold_out("scan")
    small_project.set_classes((LabelClass(1, "one", "#e41a1c"),))
    scan = Project.open(small_project.root).scans["scan"]
    assert len(scan.image_sha256) == 64


def test_a_training_leaves_out_and_names_the_scan_whose_image_is_damaged(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=(12, 24, 24))
    first, second = project.scans.values()
    for scan in (first, second):
        set_voxel(np.nan)(project.root / "scans" / f"{scan.id}.npy")
    Path(second.source).unlink()
    said = Events()
    assert run(job_of("pgl", project, steps=1), said)["step"] == 1
    texts = [notice.text for notice in said.of(Notice)]
    assert any(first.id in text and "made again" in text for text in texts)
    assert any(f"image of {second.id}" in text for text in texts)
