"""The project folder: what goes in comes back, and what is damaged is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medssl.errors import UserError
from medssl.project import Annotation, LabelClass, Project, is_project
from medssl.volume import read_scan
from project_parts import SHAPE, code_of, painted

Action = Callable[[Project], Any]


# --- project.json -----------------------------------------------------------------------------------


def test_a_project_is_as_it_was_when_it_is_opened_again(small_project: Project) -> None:
    small_project.save_view_state({"scan": "scan", "slices": {"scan": [0, 3]}})
    again = Project.open(small_project.root)
    assert again.classes == small_project.classes
    assert again.scans == small_project.scans
    assert again.view_state == small_project.view_state


def test_a_folder_with_a_project_is_one(small_project: Project, tmp_path: Path) -> None:
    assert is_project(small_project.root)
    assert not is_project(tmp_path)


def test_a_project_is_not_made_over_another(small_project: Project) -> None:
    with pytest.raises(UserError) as error:
        Project.create(small_project.root)
    assert code_of(error) == "exists"
    assert Project.open(small_project.root).scans


def test_what_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Project.open(tmp_path)
    assert code_of(error) == "not-a-project"


def test_a_project_of_a_newer_version_is_refused_and_left_alone(small_project: Project) -> None:
    path = small_project.root / "project.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    before = path.read_bytes()
    for action in (lambda: Project.open(small_project.root), lambda: small_project.save_view_state({})):
        with pytest.raises(UserError) as error:
            action()
        assert code_of(error) == "newer-version"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: "\udcff",
        lambda text: text.replace('"version": 1', '"version": "one"'),
        lambda text: text.replace('"scans"', '"scan"'),
        lambda text: text.replace('"id": "scan"', '"id": "../../scan"'),
        lambda text: text.replace('"sha256"', '"sha512"'),
        lambda text: text.replace('"affine": [', '"affine": [[1],'),
        lambda text: text.replace("20.0", "NaN"),
        lambda text: text.replace("#e41a1c", "red"),
        lambda text: text.replace('"id": 2', '"id": 1'),
    ],
)
def test_a_damaged_project_is_refused(small_project: Project, damage: Callable[[str], str]) -> None:
    path = small_project.root / "project.json"
    before = path.read_text()
    path.write_text(damage(before), errors="surrogateescape")
    assert path.read_bytes() != before.encode()
    with pytest.raises(UserError) as error:
        Project.open(small_project.root)
    assert code_of(error) == "unreadable"


def test_two_open_copies_do_not_undo_each_other(small_project: Project, second_file: Path) -> None:
    other = Project.open(small_project.root)
    other.add_scan(second_file)
    small_project.save_view_state({"step": 2})
    other.set_classes((LabelClass(7, "seven", "#000000"),))
    again = Project.open(small_project.root)
    assert list(again.scans) == ["scan", "other"]
    assert again.view_state == {"step": 2}
    assert [each.id for each in again.classes] == [7]


@pytest.mark.parametrize(
    "classes",
    [
        [LabelClass(0, "a", "#000000")],
        [LabelClass(255, "a", "#000000")],
        [LabelClass(1, "a", "#000000"), LabelClass(1, "b", "#000000")],
        [LabelClass(True, "a", "#000000")],
        [LabelClass(1, "a", "blue")],
    ],
)
def test_classes_that_do_not_work_are_refused(small_project: Project, classes: list[LabelClass]) -> None:
    before = small_project.classes
    with pytest.raises(UserError) as error:
        small_project.set_classes(classes)
    assert code_of(error) == "bad-classes"
    assert Project.open(small_project.root).classes == small_project.classes == before


# --- scans ------------------------------------------------------------------------------------------


def test_a_scan_is_kept_normalised_in_canonical_order(small_project: Project, scan_file: Path) -> None:
    image, scan = small_project.image("scan"), read_scan(scan_file).array
    assert isinstance(image, np.memmap)
    assert (image.dtype, image.shape) == (np.float16, SHAPE)
    order = np.argsort(scan, axis=None)
    assert (np.diff(image.ravel()[order].astype(np.float32)) >= 0).all()


def test_a_scan_knows_its_file_and_grid(small_project: Project, scan_file: Path) -> None:
    scan = small_project.scans["scan"]
    assert Path(scan.source) == scan_file
    assert scan.geometry == read_scan(scan_file).geometry
    assert scan.modality == "mr"


def test_the_same_scan_twice_is_one(small_project: Project, scan_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy.nii"
    copy.parent.mkdir()
    nibabel.save(nibabel.load(scan_file), copy)  # not packed: another file of the same content
    assert small_project.add_scan(copy) == small_project.scans["scan"]
    assert len(Project.open(small_project.root).scans) == 1


@pytest.mark.parametrize(
    "name, expected",
    [
        ("SCAN.nii", "SCAN-2"),
        ("patient 7 (T1).nii", "patient-7-T1"),
        ("patient.7.nii.gz", "patient-7"),
        ("Grüße.NII.GZ", "Gr-e"),
        ("-.nii", "scan-2"),
        (f"{'long' * 50}.nii", "long" * 20),
    ],
)
def test_ids_are_good_file_names_and_free(
    small_project: Project, tmp_path: Path, second_file: Path, name: str, expected: str
) -> None:
    path = tmp_path / "elsewhere" / name
    nibabel.save(nibabel.load(second_file), tmp_path / "again.nii.gz")
    shutil.copy(tmp_path / "again.nii.gz" if name.lower().endswith(".gz") else second_file, path)
    assert small_project.add_scan(path).id == expected


def test_a_scan_that_is_refused_leaves_no_trace(small_project: Project, tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("hello")
    before = sorted(small_project.root.rglob("*"))
    with pytest.raises(UserError):
        small_project.add_scan(tmp_path / "text.nii.gz")
    assert sorted(small_project.root.rglob("*")) == before


def test_an_image_of_another_shape_is_refused(small_project: Project) -> None:
    np.save(small_project.root / "scans" / "scan.npy", np.zeros((2, 2, 2), np.float16))
    with pytest.raises(UserError) as error:
        small_project.image("scan")
    assert code_of(error) == "unreadable"


def test_a_scan_can_be_held_out_and_taken_back(small_project: Project) -> None:
    small_project.hold_out("scan")
    assert Project.open(small_project.root).scans["scan"].held_out
    small_project.hold_out("scan", False)
    assert not Project.open(small_project.root).scans["scan"].held_out


@pytest.mark.parametrize(
    "action",
    [
        lambda project: project.image("nobody"),
        lambda project: project.annotation("nobody"),
        lambda project: project.save_annotation("nobody", Annotation(painted())),
        lambda project: project.prediction("0001-finetune-x", "nobody"),
        lambda project: project.hold_out("nobody"),
    ],
)
def test_a_scan_that_is_not_there_is_said(small_project: Project, action: Action) -> None:
    with pytest.raises(UserError) as error:
        action(small_project)
    assert code_of(error) == "no-scan"
