"""The project folder: what it keeps, what it refuses, and that strokes always win."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medssl.annotation import SURE_BACKGROUND
from medssl.errors import UserError
from medssl.project import FORMAT_VERSION, Annotation, LabelClass, Project, is_project

SHAPE = (6, 9, 10)
"""Of the small project's scan."""


def save_scan(path: Path, seed: int = 0, affine: np.ndarray | None = None) -> Path:
    """A small scan file with noise of that seed."""
    values = np.random.default_rng(seed).gamma(2, 100, (5, 6, 7)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def refusal(call: Callable[[], Any], names: str = "") -> str:
    """The code of the UserError that a call gives; its text names the thing."""
    with pytest.raises(UserError) as error:
        call()
    assert names in str(error.value)
    return error.value.code


def labels(*painted: tuple[tuple[int, int, int], int]) -> np.ndarray:
    """Labels of the small project's scan with some voxels set."""
    array = np.zeros(SHAPE, np.uint8)
    for place, value in painted:
        array[place] = value
    return array


# ---- the folder


def test_a_new_project_opens_again_as_it_was(tmp_path: Path) -> None:
    classes = (LabelClass(1, "liver", "#aa0000"), LabelClass(254, "Milz", "#00bb00"))
    Project.create(tmp_path / "new" / "project", classes)
    project = Project.open(tmp_path / "new" / "project")
    assert (project.classes, project.scans, project.view_state) == (classes, {}, {})


def test_a_project_is_known_by_its_file(tmp_path: Path) -> None:
    assert not is_project(tmp_path)
    Project.create(tmp_path)
    assert is_project(tmp_path)


def test_everything_opens_again_as_it_was(small_project: Project) -> None:
    small_project.hold_out("scan")
    small_project.save_view_state({"scan": "scan", "step": 3})
    again = Project.open(small_project.root)
    assert again.scans == small_project.scans
    assert again.scans["scan"].held_out
    assert again.scans["scan"].geometry.nifti == small_project.scans["scan"].geometry.nifti
    assert again.view_state == {"scan": "scan", "step": 3}


def test_a_project_is_not_made_over_another(small_project: Project) -> None:
    assert refusal(lambda: Project.create(small_project.root), str(small_project.root)) == "exists"


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    assert refusal(lambda: Project.open(tmp_path), str(tmp_path)) == "not-a-project"


def test_a_project_of_a_newer_version_is_refused_and_left_alone(small_project: Project) -> None:
    change_file(small_project, lambda value: value.update(version=FORMAT_VERSION + 1))
    before = (small_project.root / "project.json").read_bytes()
    assert refusal(lambda: Project.open(small_project.root), str(small_project.root)) == "newer-version"
    assert refusal(lambda: small_project.set_classes(())) == "newer-version"
    assert (small_project.root / "project.json").read_bytes() == before


def change_file(project: Project, change: Callable[[dict[str, Any]], object]) -> None:
    path = project.root / "project.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no version": lambda value: value.pop("version"),
    "a word for a version": lambda value: value.update(version="1"),
    "no classes": lambda value: value.pop("classes"),
    "no scans": lambda value: value.pop("scans"),
    "no view state": lambda value: value.pop("view_state"),
    "a list for a view state": lambda value: value.update(view_state=[1, 2]),
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
    path = str(small_project.root / "project.json")
    assert refusal(lambda: Project.open(small_project.root), path) == "unreadable"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"'])
def test_a_project_file_that_is_none_is_refused(small_project: Project, content: str) -> None:
    (small_project.root / "project.json").write_text(content)
    assert refusal(lambda: Project.open(small_project.root), str(small_project.root)) == "unreadable"


def test_two_processes_do_not_undo_each_other(small_project: Project, tmp_path: Path) -> None:
    other = Project.open(small_project.root)
    other.add_scan(save_scan(tmp_path / "second.nii.gz"))
    small_project.save_view_state({"step": 2})
    small_project.set_classes((LabelClass(3, "three", "#333333"),))
    now = Project.open(small_project.root)
    assert list(now.scans) == ["scan", "second"]
    assert (now.view_state, now.classes[0].name) == ({"step": 2}, "three")


@pytest.mark.parametrize(
    "classes",
    [
        (LabelClass(1, "a", "#000000"), LabelClass(1, "b", "#000000")),
        (LabelClass(0, "a", "#000000"),),
        (LabelClass(255, "a", "#000000"),),
        (LabelClass(1, "a", "red"),),
    ],
    ids=["twice", "0", "255", "colour"],
)
def test_classes_that_cannot_be_are_refused(small_project: Project, classes: tuple[LabelClass, ...]) -> None:
    before = small_project.classes
    assert refusal(lambda: small_project.set_classes(classes)) == "bad-classes"
    assert small_project.classes == before == Project.open(small_project.root).classes


# ---- scans


def test_the_image_is_normalised_canonical_and_stays_on_disk(small_project: Project) -> None:
    image = small_project.image("scan")
    assert isinstance(image, np.memmap)
    assert (image.shape, image.dtype) == (SHAPE, np.float16)
    assert abs(float(image.mean(dtype=np.float64))) < 0.01


def test_the_same_content_is_the_same_scan(small_project: Project, tmp_path: Path, scan_file: Path) -> None:
    shutil.copy(scan_file, tmp_path / "copy.nii.gz")
    nibabel.save(nibabel.load(scan_file), tmp_path / "uncompressed.nii")
    for path in (scan_file, tmp_path / "copy.nii.gz", tmp_path / "uncompressed.nii"):
        assert small_project.add_scan(path).id == "scan"
    assert list(small_project.scans) == ["scan"]


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


def test_a_very_long_name_makes_a_usable_id(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    scan = project.add_scan(save_scan(tmp_path / f"{'very' * 50}long.nii.gz"))
    assert project.image(scan.id).size


def test_dots_inside_a_name_are_kept_apart(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    assert project.add_scan(save_scan(tmp_path / "sub.01.nii.gz")).id == "sub-01"


def test_a_bad_scan_leaves_the_project_as_it_was(small_project: Project, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    assert refusal(lambda: small_project.add_scan(tmp_path / "bad.nii.gz"), "bad.nii.gz") == "unreadable"
    assert list(small_project.scans) == list(Project.open(small_project.root).scans) == ["scan"]
    assert [path.name for path in (small_project.root / "scans").iterdir()] == ["scan.npy"]


def test_a_missing_source_is_said_when_adding(small_project: Project, tmp_path: Path) -> None:
    missing = tmp_path / "nothing.nii.gz"
    assert refusal(lambda: small_project.add_scan(missing), str(missing)) == "missing"


def test_a_source_that_went_missing_later_is_not_needed(
    small_project: Project, scan_file: Path, tmp_path: Path
) -> None:
    affine = nibabel.load(scan_file).affine
    scan_file.unlink()
    project = Project.open(small_project.root)
    project.save_annotation("scan", Annotation(labels(((0, 0, 0), 1))))
    project.export("scan", None, tmp_path / "labels.nii.gz")
    assert np.array_equal(nibabel.load(tmp_path / "labels.nii.gz").affine, affine)


def test_an_unknown_scan_is_said(small_project: Project) -> None:
    for call in (small_project.image, small_project.annotation, small_project.hold_out):
        assert refusal(lambda call=call: call("nobody"), "nobody") == "no-scan"


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY"], ids=["missing", "empty", "cut off"])
def test_an_image_that_is_gone_or_damaged_is_said(small_project: Project, content: bytes | None) -> None:
    path = small_project.root / "scans" / "scan.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code = refusal(lambda: small_project.image("scan"), str(path))
    assert code == ("missing" if content is None else "unreadable")


def test_holding_out_what_is_already_there_holds_it_out(small_project: Project, scan_file: Path) -> None:
    assert small_project.add_scan(scan_file, held_out=True).held_out
    assert Project.open(small_project.root).scans["scan"].held_out


def test_adding_again_does_not_let_a_held_out_scan_take_part(small_project: Project, scan_file: Path) -> None:
    small_project.hold_out("scan")
    assert small_project.add_scan(scan_file).held_out


# ---- annotations


def test_annotations_come_back(small_project: Project) -> None:
    assert small_project.annotation("scan") is None
    annotation = Annotation(labels(((1, 2, 3), 2), ((0, 0, 0), SURE_BACKGROUND)), ((0, 1), (2, 9)))
    small_project.save_annotation("scan", annotation)
    back = Project.open(small_project.root).annotation("scan")
    assert back is not None
    assert np.array_equal(back.labels, annotation.labels)
    assert back.complete == annotation.complete


def test_an_annotation_of_another_scan_is_refused(small_project: Project) -> None:
    other = Annotation(np.zeros((6, 9, 11), np.uint8))
    assert refusal(lambda: small_project.save_annotation("scan", other), "scan") == "wrong-shape"
    assert small_project.annotation("scan") is None


@pytest.mark.parametrize(
    "annotation, counts",
    [
        (Annotation(labels()), False),
        (Annotation(labels(((1, 2, 3), 1))), True),
        (Annotation(labels(((1, 2, 3), SURE_BACKGROUND))), True),
        (Annotation(labels(), ((1, 0),)), True),
    ],
    ids=["nothing", "a stroke", "sure background", "a complete empty slice"],
)
def test_what_counts_as_annotated(small_project: Project, annotation: Annotation, counts: bool) -> None:
    small_project.save_annotation("scan", annotation)
    assert small_project.annotated() == (("scan",) if counts else ())


def test_held_out_scans_are_never_annotated(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(labels(((1, 2, 3), 1)), ((0, 0),)))
    small_project.hold_out("scan")
    assert small_project.annotated() == ()
    small_project.hold_out("scan", False)
    assert small_project.annotated() == ("scan",)


def test_a_damaged_annotation_is_said(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(labels(((1, 2, 3), 1))))
    path = small_project.root / "annotations" / "scan.npz"
    path.write_bytes(path.read_bytes()[:50])
    assert refusal(lambda: small_project.annotation("scan"), str(path)) == "unreadable"
    assert refusal(small_project.annotated, str(path)) == "unreadable"


# ---- runs and predictions


def test_runs_are_numbered_in_the_order_of_their_start(small_project: Project) -> None:
    first = small_project.new_run("pretrain", {"job": "pretrain"}, "pgl")
    second = small_project.new_run("finetune", {"job": "finetune"}, "quick")
    assert (first.id, second.id) == ("0001-pretrain-pgl", "0002-finetune-quick")
    assert small_project.runs() == [first, second]
    assert small_project.runs("finetune") == [second]
    assert small_project.run(first.id) == first


def test_two_processes_get_different_runs(small_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small_project.new_run("pretrain", {}, "pgl")
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # as if both had looked before either wrote
    assert small_project.new_run("pretrain", {}, "pgl").folder != first.folder


def test_the_number_of_a_run_that_was_cut_off_is_not_used_again(small_project: Project) -> None:
    (small_project.root / "runs" / "0007-pretrain-pgl").mkdir(parents=True)
    assert small_project.new_run("pretrain", {}, "pgl").id == "0008-pretrain-pgl"


def test_one_damaged_run_does_not_hide_the_others(small_project: Project) -> None:
    broken = small_project.new_run("pretrain", {}, "pgl")
    whole = small_project.new_run("pretrain", {}, "pgl")
    (broken.folder / "job.json").write_text("{")
    assert small_project.runs() == [whole]
    assert refusal(lambda: small_project.run(broken.id), broken.id) == "unreadable"


@pytest.mark.parametrize("run_id", ["", "0009-pretrain-pgl", "..", "../annotations", "/etc"])
def test_an_unknown_run_is_said(small_project: Project, run_id: str) -> None:
    assert refusal(lambda: small_project.run(run_id)) == "no-run"


def test_a_run_without_weights_has_an_empty_card(small_project: Project) -> None:
    run = small_project.new_run("pretrain", {}, "pgl")
    assert run.card == {}
    assert not run.checkpoint.exists()


@pytest.fixture
def run_id(small_project: Project) -> str:
    return small_project.new_run("finetune", {}, "quick").id


def test_predictions_come_back(small_project: Project, run_id: str) -> None:
    assert small_project.prediction(run_id, "scan") is None
    small_project.save_prediction(run_id, "scan", labels(((1, 2, 3), 2)))
    prediction = small_project.prediction(run_id, "scan")
    assert prediction is not None and np.array_equal(prediction, labels(((1, 2, 3), 2)))


def test_a_prediction_of_another_shape_is_refused(small_project: Project, run_id: str) -> None:
    wrong = np.zeros((2, 2, 2), np.uint8)
    assert refusal(lambda: small_project.save_prediction(run_id, "scan", wrong)) == "wrong-shape"


def test_strokes_win_over_the_prediction(small_project: Project, run_id: str) -> None:
    small_project.save_prediction(run_id, "scan", np.full(SHAPE, 2, np.uint8))
    strokes = labels(((3, 3, 3), 1), ((4, 4, 4), SURE_BACKGROUND), ((0, 0, 0), 1))
    small_project.save_annotation("scan", Annotation(strokes, ((0, 0),)))
    expected = np.full(SHAPE, 2, np.uint8)
    expected[0] = 0  # complete: what was not painted there is background
    expected[0, 0, 0] = expected[3, 3, 3] = 1
    expected[4, 4, 4] = 0
    assert np.array_equal(small_project.segmentation("scan", run_id), expected)


def test_without_a_prediction_the_strokes_alone_are_the_segmentation(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(labels(((3, 3, 3), 1), ((4, 4, 4), SURE_BACKGROUND))))
    assert np.array_equal(small_project.segmentation("scan"), labels(((3, 3, 3), 1)))


def test_nothing_to_segment_with_is_said(small_project: Project, run_id: str) -> None:
    assert refusal(lambda: small_project.segmentation("scan"), "scan") == "nothing-yet"
    assert refusal(lambda: small_project.segmentation("scan", run_id), "scan") == "nothing-yet"


def test_export_lies_on_the_source_voxel_by_voxel(
    small_project: Project, scan_file: Path, tmp_path: Path
) -> None:
    geometry = small_project.scans["scan"].geometry
    small_project.save_annotation("scan", Annotation(labels(((1, 2, 3), 2))))
    small_project.export("scan", None, tmp_path / "labels.nii.gz")
    written, source = nibabel.load(tmp_path / "labels.nii.gz"), nibabel.load(scan_file)
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    (index,) = np.argwhere(np.asarray(written.dataobj) == 2)
    assert source.affine @ [*index, 1] == pytest.approx(geometry.canonical_affine @ [1, 2, 3, 1])
