"""Ranges of slices with nothing to paint become complete in one step of undo."""

from __future__ import annotations

import pytest
from headless import open_workspace
from medssl.core.errors import UserError
from test_workspace import write_scan

from napari_medssl.annotate.empty_slices import EmptySlices
from napari_medssl.workspace import Workspace


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """Eight axial slices; a class is painted in 3 and 4, sure background in 6."""
    made = open_workspace(tmp_path / "project")
    made.empty = EmptySlices(made)
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    for index, label in ((3, 1), (4, 1), (6, 255)):
        made.go_to(0, index)
        made.annotation_layer.paint((index, 5, 5), label)
    yield made
    made.close()


@pytest.mark.parametrize("index, expected", [(1, (0, 0, 1)), (2, (0, 0, 2)), (5, (0, 5, 7)), (6, (0, 6, 7))])
def test_what_lies_beyond_the_structure_is_proposed(workspace, index, expected):
    workspace.go_to(0, index)
    assert workspace.empty.proposed() == expected


def test_nothing_is_proposed_on_a_painted_slice(workspace):
    workspace.go_to(0, 3)
    with pytest.raises(UserError, match="Axial slice 3"):
        workspace.empty.proposed()


def test_a_range_becomes_complete_and_undo_takes_it_back(workspace):
    workspace.empty.complete(0, 5, 7)
    assert workspace.session.annotation.complete == ((0, 5), (0, 6), (0, 7))
    workspace.annotation_layer.undo()
    assert workspace.session.annotation.complete == ()
    assert workspace.annotation_layer.data[6, 5, 5] == 255
    workspace.annotation_layer.redo()
    assert workspace.session.annotation.complete == ((0, 5), (0, 6), (0, 7))


def test_slices_that_were_complete_before_stay_so_after_undo(workspace):
    workspace.session.annotation.mark(0, 6, True)
    workspace.empty.complete(0, 5, 7)
    workspace.annotation_layer.undo()
    assert workspace.session.annotation.complete == ((0, 6),)


def test_a_range_with_a_painted_slice_is_refused(workspace):
    with pytest.raises(UserError, match="Axial slice 4 is painted"):
        workspace.empty.complete(0, 4, 7)
    assert workspace.session.annotation.complete == ()
