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
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.files import portable_name
from medssl.core.io.volume import read_scan
from medssl.core.project.annotation_file import write_annotation
from medssl.core.project.project import Annotation, LabelClass, Project, ViewState, is_project
from project_parts import SHAPE, code_of, painted

Action = Callable[[Project], Any]


# --- project.json -----------------------------------------------------------------------------------


def test_a_project_is_as_it_was_when_it_is_opened_again(small_project: Project) -> None:
    small_project.save_view_state(ViewState("scan", {"scan": (0, 3)}))
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
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
    before = path.read_bytes()
    for action in (
        lambda: Project.open(small_project.root),
        lambda: small_project.set_classes(()),
    ):
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
        lambda text: text.replace("20.0", "NaN"),
    ],
    ids=["cut off", "empty", "a list", "deep", "no text", "not a number"],
)
def test_a_project_file_that_is_none_is_refused(small_project: Project, damage: Callable[[str], str]) -> None:
    path = small_project.root / "project.json"
    before = path.read_text()
    path.write_text(damage(before), errors="surrogateescape")
    assert path.read_bytes() != before.encode()
    with pytest.raises(UserError) as error:
        Project.open(small_project.root)
    assert code_of(error) == "unreadable"


def change_file(project: Project, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what project.json says."""
    path = project.root / "project.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no version": lambda value: value.pop("version"),
    "a word for a version": lambda value: value.update(version="1"),
    "no classes": lambda value: value.pop("classes"),
    "no scans": lambda value: value.pop("scans"),
    "numbers for scans": lambda value: value.update(scans=[1, 2]),
    "a scan without its checksum": lambda value: value["scans"][0].pop("sha256"),
    "a scan without its grid": lambda value: value["scans"][0].pop("geometry"),
    "a grid without an affine": lambda value: value["scans"][0]["geometry"].pop("affine"),
    "a flat grid": lambda value: value["scans"][0]["geometry"].update(affine=[[0] * 4] * 4),
    "a grid of two axes": lambda value: value["scans"][0]["geometry"].update(shape=[3, 4]),
    "a scan outside the folder": lambda value: value["scans"][0].update(id="../../elsewhere"),
    "a word for held out": lambda value: value["scans"][0].update(held_out="no"),
    "a number for a source": lambda value: value["scans"][0].update(source=3),
    "an unknown field": lambda value: value["scans"][0].update(surprise=1),
    "an affine of words": lambda value: value["scans"][0]["geometry"]["affine"][0].append("1"),
    "two classes of one number": lambda value: value["classes"][1].update(id=1),
    "a class without a name": lambda value: value["classes"][0].pop("name"),
    "a class with number 0": lambda value: value["classes"][0].update(id=0),
    "a class with a word for a number": lambda value: value["classes"][0].update(id="one"),
    "a class without a colour": lambda value: value["classes"][0].update(color=None),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_project_file_is_refused(
    small_project: Project, damage: Callable[[dict[str, Any]], object]
) -> None:
    change_file(small_project, damage)
    with pytest.raises(UserError, match=r"project\.json") as error:
        Project.open(small_project.root)
    assert code_of(error) == "unreadable"


def test_two_open_copies_do_not_undo_each_other(small_project: Project, second_file: Path) -> None:
    other = Project.open(small_project.root)
    other.add_scan(second_file)
    small_project.hold_out("scan")
    other.set_classes((LabelClass(7, "seven", "#000000"),))
    small_project.change_classes(lambda known: (*known, LabelClass(8, "eight", "#000000")))
    again = Project.open(small_project.root)
    assert [(scan.id, scan.held_out) for scan in again.scans.values()] == [("scan", True), ("other", False)]
    assert [each.id for each in again.classes] == [7, 8]


@pytest.mark.parametrize("damage", [[1, 2], {"scan": 3}, {"slices": {"scan": [3, 0]}}, {"slices": [0]}])
def test_a_damaged_view_costs_the_view_only(small_project: Project, damage: Any) -> None:
    small_project.save_view_state(ViewState("scan"))
    (small_project.root / "view-state.json").write_text(json.dumps(damage))
    assert Project.open(small_project.root).view_state == ViewState()


def test_an_image_that_no_scan_has_is_not_overwritten(small_project: Project, second_file: Path) -> None:
    orphan = small_project.root / "scans" / "Other.npy"
    orphan.write_bytes(b"of a process that was killed before it wrote project.json")
    assert small_project.add_scan(second_file).id == "other-2"
    assert orphan.read_bytes().startswith(b"of a process")


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


@pytest.mark.parametrize("name", ["CON", "aux", "Lpt1", "nul"])
def test_scans_are_not_named_as_devices_of_windows(small_project: Project, tmp_path: Path, name: str) -> None:
    scan = small_project.add_scan(save_scan(tmp_path / f"{name}.nii.gz"))
    assert scan.id == f"{name}-2"
    assert portable_name(scan.id)


def test_a_project_that_has_such_a_scan_still_opens(small_project: Project) -> None:
    path = small_project.root / "project.json"
    path.write_text(path.read_text().replace('"id": "scan"', '"id": "aux"'))
    assert list(Project.open(small_project.root).scans) == ["aux"]


@pytest.mark.parametrize("name", ["con", "Aux.study", "scans.", "scans ", "a:b"])
def test_a_project_is_not_made_where_windows_could_not_open_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        Project.create(tmp_path / name)
    assert code_of(caught) == "bad-name"
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["console", "com", "aux2", "lpt10", ".hidden", "a.b", "Müller 3"])
def test_names_that_resemble_reserved_ones_are_accepted(name: str) -> None:
    assert portable_name(name)


def test_a_scan_that_is_refused_leaves_no_trace(small_project: Project, tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("hello")
    before = sorted(small_project.root.rglob("*"))
    with pytest.raises(UserError):
        small_project.add_scan(tmp_path / "text.nii.gz")
    assert sorted(small_project.root.rglob("*")) == before


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


def save_scan(path: Path, seed: int = 0, affine: np.ndarray | None = None) -> Path:
    """A small scan file with noise of that seed."""
    values = np.random.default_rng(seed).gamma(2, 100, (5, 6, 7)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def test_the_same_values_on_another_grid_are_another_scan(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.add_scan(save_scan(tmp_path / "one.nii"))
    project.add_scan(save_scan(tmp_path / "two.nii", affine=np.diag([2.0, 1, 1, 1])))
    assert len(project.scans) == 2


@pytest.mark.parametrize(
    "name, other",
    [
        ("a/image.nii.gz", "b/image.nii.gz"),
        ("image.nii.gz", "image.nii"),
        ("a/Image.nii", "b/image.nii"),
        ("a/CT 1.nii", "a/CT-1.nii"),
        ("a/патиент.nii", "a/大脑.nii"),
    ],
)
def test_scans_with_similar_names_do_not_share_files(tmp_path: Path, name: str, other: str) -> None:
    project = Project.create(tmp_path / "project")
    first = project.add_scan(save_scan(tmp_path / name, seed=1))
    second = project.add_scan(save_scan(tmp_path / other, seed=2))
    assert first.id.lower() != second.id.lower()
    assert len(list((project.root / "scans").glob("*.npy"))) == 2
    assert not np.array_equal(project.image(first.id), project.image(second.id))


def test_holding_out_what_is_already_there_holds_it_out(small_project: Project, scan_file: Path) -> None:
    assert small_project.add_scan(scan_file, held_out=True).held_out
    assert Project.open(small_project.root).scans["scan"].held_out


def test_adding_again_does_not_let_a_held_out_scan_take_part(small_project: Project, scan_file: Path) -> None:
    small_project.hold_out("scan")
    assert small_project.add_scan(scan_file).held_out


def test_a_missing_source_is_said(small_project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.nii") as error:
        small_project.add_scan(tmp_path / "nothing.nii")
    assert code_of(error) == "missing"


def test_a_source_that_went_missing_later_is_not_needed(
    small_project: Project, scan_file: Path, tmp_path: Path
) -> None:
    affine = nibabel.load(scan_file).affine
    scan_file.unlink()
    project = Project.open(small_project.root)
    project.save_annotation("scan", Annotation(painted()))
    export_scan(project, "scan", None, tmp_path / "labels.nii.gz")
    assert np.array_equal(nibabel.load(tmp_path / "labels.nii.gz").affine, affine)


def test_the_annotation_of_another_scan_of_the_same_size_is_refused(small_project: Project) -> None:
    source = Path(small_project.scans["scan"].source)
    image = nibabel.load(source)
    other = source.parent / "twin.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image.get_fdata()[::-1].astype(np.float32), image.affine), other)
    small_project.add_scan(other)
    small_project.save_annotation("scan", Annotation(painted()))
    file = small_project.annotation_file("scan")
    shutil.copy(file, small_project.annotation_file("twin"))
    with pytest.raises(UserError, match="another scan") as error:
        small_project.annotation("twin")
    assert code_of(error) == "other-scan"
    assert small_project.annotated() == ("scan",)
    write_annotation(small_project.annotation_file("twin"), Annotation(painted()), SHAPE)
    assert small_project.annotation("twin") is not None, "files of earlier versions name no scan"
