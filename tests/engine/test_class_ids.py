"""Which class a value of a label file is: by its name, by what an import has made of it, by its number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from medssl.core.io.label_names import LabelTable
from medssl.core.labels.class_ids import assign_ids, known_ids, map_values
from medssl.core.project.contents import LabelClass
from medssl.core.project.project import Project

LIVER, SPLEEN = LabelClass(1, "Liver", "#ff9e64"), LabelClass(2, "Left_Spleen", "#7aa2ff")
NONE = LabelTable()


def test_a_name_counts_for_more_than_a_number() -> None:
    table = LabelTable({1: "left spleen", 2: "Liver"})
    assert known_ids([1, 2], table, (LIVER, SPLEEN)) == {1: 2, 2: 1}


def test_a_named_label_is_no_class_of_another_name() -> None:
    assert known_ids([1], LabelTable({1: "tumor"}), (LIVER, SPLEEN)) == {}


def test_what_an_import_has_made_of_a_value_holds_for_the_next_file() -> None:
    first = assign_ids("a.nii", [205, 500], NONE, ())
    assert first.ids == {205: 205, 500: 1}
    assert [(item.id, item.values) for item in first.classes] == [(205, ()), (1, (500,))]
    second = assign_ids("b.nii", [420, 500], NONE, first.classes)
    assert second.ids == {420: 2, 500: 1} and [item.id for item in second.classes] == [2]


def test_two_values_of_a_file_never_become_one_class_by_number() -> None:
    """500 is class 1, so the 1 beside it is another label."""
    classes = (LabelClass(1, "Label 500", "#ff9e64", (500,)),)
    assert known_ids([1, 500], NONE, classes) == {500: 1}
    assert assign_ids("a.nii", [1, 500], NONE, classes).ids == {500: 1, 1: 2}


def test_values_of_other_files_are_not_taken_as_ids() -> None:
    assert assign_ids("a.nii", [500], NONE, (), reserved={1, 2}).ids == {500: 3}


def test_ids_that_a_network_or_an_annotation_refers_to_are_not_given_away() -> None:
    assert assign_ids("a.nii", [1, 500], NONE, (), used={1, 2}).ids == {1: 3, 500: 4}


def test_projects_from_before_values_were_remembered_have_their_names() -> None:
    assert known_ids([500], NONE, (LabelClass(1, "Label 500", "#ff9e64"),)) == {500: 1}


def test_a_mask_of_255_is_the_only_class() -> None:
    found = assign_ids("mask.nii", [255], NONE, (LIVER,))
    assert found.ids == {255: 1} and found.classes[0].values == (255,)
    assert known_ids([255], NONE, (LIVER, SPLEEN)) == {} == known_ids([7], NONE, (LIVER,))


def test_names_and_colours_of_the_file_make_the_classes() -> None:
    table = LabelTable({1: "liver", 7: "tumor"}, {7: "#123456"})
    default = LabelClass(1, "Structure", "#ff9e64")
    assert assign_ids("a.nii", [1, 7], table, (default,)).classes == (
        LabelClass(1, "liver", "#ff9e64"),
        LabelClass(7, "tumor", "#123456"),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_are_mapped(dtype: type) -> None:
    labels = np.array([[0, 7], [205, 9]], dtype)
    assert map_values(labels, {7: 1, 205: 2}).tolist() == [[0, 1], [2, 0]]


def test_label_values_are_stored_outside_of_the_classes_for_former_versions(tmp_path: Path) -> None:
    project = Project.create(
        tmp_path / "project", (LabelClass(1, "Label 500", "#ff9e64", (500, 501)), SPLEEN)
    )
    assert Project.open(project.root).classes == project.classes
    written = json.loads((project.root / "project.json").read_text())
    assert set(written["classes"][0]) == {"id", "name", "color"}
    del written["label_values"]  # as a former version leaves it
    (project.root / "project.json").write_text(json.dumps(written))
    assert Project.open(project.root).classes[0].values == ()


def test_names_that_a_class_cannot_have_are_cut_to_what_it_can() -> None:
    table = LabelTable(names={1: "x" * 80, 2: "a\nb", 3: " \x00"})
    assert [item.name for item in assign_ids("a.nii", [1, 2, 3], table, ()).classes] == [
        "x" * 64,
        "a b",
        "Label 3",
    ]
