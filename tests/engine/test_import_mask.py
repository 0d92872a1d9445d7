"""A mask made elsewhere becomes an annotation only where it lies on the scan, and never over strokes."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.label_names import LabelTable
from medssl.core.io.labels import read_labels
from medssl.core.labels.class_ids import NEW_CLASS, ClassIds, assign_ids, with_choices
from medssl.core.labels.import_mask import ImportedMask, import_mask, values_in
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import LabelClass

SHAPE = (5, 6, 7)
CLASSES = (LabelClass(1, "Liver", "#ff9e64"), LabelClass(4, "Spleen", "#7aa2ff"))
AFFINE = np.array([[-1.5, 0, 0.2, 10], [0, -1.5, 0, 20], [0.1, 0, 3, -30], [0, 0, 0, 1.0]])


def mask(**at: int) -> np.ndarray:
    """Each number in one voxel of a slice of its own."""
    values = np.zeros(SHAPE, np.uint16)
    for index, number in enumerate(at.values()):
        values[index, 2, 3] = number
    return values


def nothing() -> Annotation:
    return Annotation(np.zeros(SHAPE, np.uint8))


def brought_in(mask: np.ndarray, annotation: Annotation, axis: int | None = None) -> ImportedMask:
    assigned = assign_ids("m.nii", values_in("m.nii", mask), LabelTable(), CLASSES)
    return import_mask(mask, annotation, assigned, axis or 0, "none" if axis is None else "labelled")


def test_known_numbers_are_those_classes_and_others_become_new_ones() -> None:
    brought = brought_in(mask(a=4, b=7, c=255, d=300), nothing())
    assert [(each.id, each.name) for each in brought.classes] == [
        (7, "Label 7"),
        (2, "Label 255"),
        (3, "Label 300"),
    ]
    assert brought.labels.tolist() == [4, 7, 2, 3] and brought.complete == ()


def test_strokes_win_over_the_mask() -> None:
    annotation = nothing()
    annotation.labels[0, 2, 3] = 255
    brought = brought_in(mask(a=4, b=4), annotation)
    assert np.unravel_index(brought.voxels, SHAPE) == ([1], [2], [3])


@pytest.mark.parametrize("axis, slices", [(0, [0, 1]), (1, [2]), (2, [3])])
def test_slices_that_show_something_are_complete_if_that_is_wanted(axis: int, slices: list[int]) -> None:
    brought = brought_in(mask(a=1, b=4), nothing(), axis)
    assert brought.complete == tuple((axis, index) for index in slices)


def test_empty_slices_beyond_both_ends_are_complete_if_that_is_wanted_and_gaps_are_not() -> None:
    labels = np.zeros((8, 3, 3), np.uint8)
    labels[[2, 4], 1, 1] = 5
    imported = import_mask(labels, Annotation(np.zeros_like(labels)), ClassIds({5: 1}), 0, "ends")
    assert [index for _, index in imported.complete] == [0, 1, 2, 4, 5, 6, 7]


def test_chosen_classes_take_the_place_of_those_that_were_proposed() -> None:
    """Of four labels, one goes into another class, one becomes a class of its own, one is left out."""
    classes = (LabelClass(1, "Structure", "#ff0000"), LabelClass(2, "Spleen", "#00ff00"))
    table = LabelTable({1: "Liver", 2: "Spleen", 3: "Kidney", 4: "Body"})
    proposed = assign_ids("mask", [1, 2, 3, 4], table, classes)
    assert proposed.ids == {1: 1, 2: 2, 3: 3, 4: 4} and len(proposed.classes) == 3
    chosen = with_choices("mask", proposed, {1: 2, 2: NEW_CLASS, 3: 3}, table, classes, used={1, 2, 5})
    assert chosen.ids == {1: 2, 2: 4, 3: 3}
    assert [(item.id, item.name) for item in chosen.classes] == [(3, "Kidney"), (4, "Spleen 2")]
    labels = np.arange(5, dtype=np.uint8).reshape(1, 1, 5)
    imported = import_mask(labels, Annotation(np.zeros_like(labels)), chosen, 0, "none")
    assert imported.voxels.tolist() == [1, 2, 3] and imported.labels.tolist() == [2, 4, 3]


def test_a_mask_of_nothing_is_refused() -> None:
    with pytest.raises(UserError) as error:
        brought_in(np.zeros(SHAPE, np.uint8), nothing())
    assert error.value.code == "empty-mask"


def test_more_labels_than_classes_are_refused() -> None:
    many = np.arange(1000, dtype=np.uint16).reshape(10, 10, 10)
    with pytest.raises(UserError, match="at most 254"):
        brought_in(many, Annotation(np.zeros((10, 10, 10), np.uint8)))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_file_in_any_axis_order_lies_where_the_scan_lies(
    tmp_path: Path, order: tuple[int, int, int]
) -> None:
    """The mask's file has other axes, two of them mirrored; its voxels come to the same places."""
    values = np.random.default_rng(0).integers(0, 3, (7, 6, 5)).astype(np.uint8)
    scan = Geometry.of(AFFINE, values.shape)
    turned, affine = values.transpose(order), AFFINE.copy()
    affine[:3, :3] = AFFINE[:3, :3][:, order]
    for axis in (0, 2):
        turned = np.flip(turned, axis)
        affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
        affine[:3, axis] *= -1
    nib.save(nib.Nifti1Image(turned, affine), tmp_path / "mask.nii.gz")
    volume = read_labels(tmp_path / "mask.nii.gz", scan)
    assert np.array_equal(volume.array, scan.to_canonical(values)) and volume.notes == ()
