"""Classes keep their ids: added, renamed and removed, with what annotations and networks refer to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.json_files import write_json
from medssl.core.labels.classes import add_classes, class_named, painted, rename_class, used_ids
from medssl.core.project.project import Annotation, LabelClass, Project
from project_parts import code_of
from test_commands import write_scan
from typer.testing import CliRunner, Result

SHAPE = (8, 10, 12)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Liver (1) in ten voxels of slices 4 and 6, spleen (2) in one, cord (3) nowhere."""
    classes = [
        LabelClass(number, name, "#ff0000") for number, name in enumerate(("liver", "spleen", "cord"), 1)
    ]
    made = Project.create(tmp_path / "project", classes)
    scan = made.add_scan(write_scan(tmp_path / "a.nii.gz")).id
    labels = np.zeros(SHAPE, np.uint8)
    labels[4, 5, :8], labels[6, 1, :2], labels[6, 2, 2] = 1, 1, 2
    made.save_annotation(scan, Annotation(labels, ((0, 4), (0, 6))))
    return made


def medssl(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def named(project: Project) -> dict[int, str]:
    return {item.id: item.name for item in Project.open(project.root).classes}


def test_init_adds_classes_and_leaves_those_that_are_there(project: Project, tmp_path: Path) -> None:
    colors = [item.color for item in project.classes]
    scan = write_scan(tmp_path / "b.nii.gz", seed=1)
    assert medssl("init", project.root, scan, "--classes", "spleen,tumour").exit_code == 0
    assert named(project) == {1: "liver", 2: "spleen", 3: "cord", 4: "tumour"}
    assert [item.color for item in Project.open(project.root).classes[:3]] == colors


def test_init_with_classes_alone_changes_nothing_but_the_classes(project: Project) -> None:
    assert medssl("init", project.root, "--classes", "cord").exit_code == 0
    assert named(project) == {1: "liver", 2: "spleen", 3: "cord"}
    assert len(Project.open(project.root).scans) == 1


def test_the_list_says_what_is_annotated(project: Project) -> None:
    lines = medssl("classes", project.root).stdout.splitlines()
    assert "liver" in lines[1] and "10 voxels on 2 axial slices of 1 scan" in lines[1]
    assert "spleen" in lines[2] and "1 voxel on 1 axial slice of 1 scan" in lines[2]
    assert "cord" in lines[3] and "annotated nowhere" in lines[3]


def test_a_renamed_class_keeps_id_colour_and_labels(project: Project) -> None:
    before = project.annotation("a")
    result = medssl("classes", project.root, "--rename", "liver", "hepar")
    assert "keeps its id 1 and is annotated in 10 voxels" in " ".join(result.output.split())
    assert named(project) == {1: "hepar", 2: "spleen", 3: "cord"}
    after = Project.open(project.root).annotation("a")
    assert before is not None and after is not None
    assert np.array_equal(after.labels, before.labels) and after.complete == before.complete


def test_two_classes_have_two_names(project: Project) -> None:
    with pytest.raises(UserError) as error:
        rename_class(project, 1, "spleen")
    assert code_of(error) == "same-name"
    assert named(project)[1] == "liver"


def test_an_annotated_class_is_removed_only_with_a_word_on_its_labels(project: Project) -> None:
    result = medssl("classes", project.root, "--remove", "liver")
    assert "liver is annotated in a (axial slices 4, 6); add --into" in str(result.exception)
    assert named(project)[1] == "liver"


@pytest.mark.parametrize(("into", "label", "complete"), [("spleen", 2, ((0, 4), (0, 6))), ("none", 0, ())])
def test_labels_of_a_removed_class_become_what_was_said(
    project: Project, into: str, label: int, complete: tuple[tuple[int, int], ...]
) -> None:
    result = medssl("classes", project.root, "--remove", "1", "--into", into)
    assert "Removed liver (id 1); annotated in 10 voxels" in " ".join(result.output.split())
    assert named(project) == {2: "spleen", 3: "cord"}
    after = Project.open(project.root).annotation("a")
    assert after is not None and np.all(after.labels[4, 5, :8] == label) and after.complete == complete


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--remove", "tumour"), "no-class"),
        (("--remove", "liver", "--into", "tumour"), "no-class"),
        (("--remove", "liver", "--into", "liver"), "same-name"),
        (("--into", "spleen"), "bad-option"),
        (("--rename", "tumour", "liver"), "no-class"),
    ],
)
def test_what_cannot_be_done_changes_nothing(project: Project, options: tuple[str, ...], code: str) -> None:
    result = medssl("classes", project.root, *options)
    assert isinstance(result.exception, UserError) and result.exception.code == code
    assert named(project) == {1: "liver", 2: "spleen", 3: "cord"}


def test_the_last_class_stays(project: Project) -> None:
    project.set_classes(project.classes[:1])
    result = medssl("classes", project.root, "--remove", "liver", "--into", "none")
    assert "rename this one instead" in str(result.exception)


def test_an_id_that_is_still_annotated_gets_no_second_meaning(project: Project) -> None:
    project.set_classes(project.classes[1:])  # as an earlier version did
    assert "(removed)" in medssl("classes", project.root).stdout
    assert [item.id for item in add_classes(project, ["tumour"])] == [4]


def test_an_id_that_is_interpolated_gets_no_second_meaning(project: Project) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 5, 5] = 7
    annotation = project.annotation("a")
    assert annotation is not None
    project.save_annotation("a", Annotation(annotation.labels, annotation.complete, labels))
    assert used_ids(project) == {1, 2, 3, 7}


def test_an_id_that_a_network_predicts_gets_no_second_meaning(project: Project) -> None:
    run = project.new_run("finetune", {"job": "finetune"}, "quick")
    write_json(run.folder / "card.json", {"classes": [{"id": 1, "name": "liver"}, {"id": 3, "name": "cord"}]})
    project.save_prediction(run.id, "a", np.full(SHAPE, 3, np.uint8))
    assert medssl("classes", project.root, "--remove", "cord").exit_code == 0
    assert medssl("init", project.root, "--classes", "tumour").exit_code == 0
    assert named(project) == {1: "liver", 2: "spleen", 4: "tumour"}
    prediction = project.prediction(run.id, "a")
    assert prediction is not None and set(np.unique(prediction)) == {3}


def test_an_id_that_nothing_refers_to_is_used_again(project: Project) -> None:
    assert medssl("classes", project.root, "--remove", "cord").exit_code == 0
    assert [item.id for item in add_classes(Project.open(project.root), ["tumour"])] == [3]


def test_no_id_left_is_said(project: Project) -> None:
    add_classes(project, [str(number) for number in range(251)])
    with pytest.raises(UserError) as error:
        add_classes(project, ["one more"])
    assert code_of(error) == "too-many"


def test_more_classes_than_ids_leave_no_project_behind(tmp_path: Path) -> None:
    result = medssl("init", tmp_path / "new", "--classes", ",".join(f"c{number}" for number in range(255)))
    assert isinstance(result.exception, UserError) and "254" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_a_name_goes_before_an_id(project: Project) -> None:
    rename_class(project, 1, "2")
    assert class_named(project, "2").id == 1 and class_named(project, "3").id == 3


def test_counts_are_those_of_the_labels(project: Project) -> None:
    found = painted(project)
    assert {class_id: entry.voxels for class_id, entry in found.items()} == {1: 10, 2: 1}
    assert found[1].slices_by_scan == {"a": [4, 6]}
