"""Strokes in a slice grow into a proposal for it, which one step of undo takes back."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from napari.components import ViewerModel

from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.seeds import grow_from_seeds
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace


@pytest.fixture(params=[0, 1, 2])
def workspace(request, qtbot, tmp_path) -> Workspace:
    """A bright cube of 10 voxels; slice 12 across an axis is on the screen."""
    made = Workspace(ViewerModel(), Session())
    made.axis = request.param
    values = np.zeros((24, 24, 24), np.float32)
    values[7:17, 7:17, 7:17] = 100
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(tmp_path / "a.nii.gz").id)
    made.new_annotation()
    made.go_to(made.axis, 12)
    yield made
    made.close()


def plane(workspace: Workspace) -> np.ndarray:
    return workspace.annotation_layer.data.take(12, workspace.axis)


def paint(workspace: Workspace, row: int, column: int, label: int) -> None:
    workspace.annotation_layer.brush_size = 2
    voxel = [row, column]
    voxel.insert(workspace.axis, 12)
    workspace.annotation_layer.paint(voxel, label)


def test_a_class_grows_to_its_edge_in_one_step_of_undo(workspace):
    paint(workspace, 12, 12, 1)
    paint(workspace, 3, 3, 255)
    before = plane(workspace).copy()
    grow_from_seeds(workspace, Edits(workspace))
    assert (plane(workspace)[7:17, 7:17] == 1).all() and (plane(workspace) == 1).sum() == 100
    assert (workspace.annotation_layer.data == 1).sum() == 100, "no other slice has changed"
    assert np.array_equal(plane(workspace) == 255, before == 255)
    workspace.annotation_layer.undo()
    assert np.array_equal(plane(workspace), before)


def test_seeds_without_background_are_refused(workspace):
    paint(workspace, 12, 12, 1)
    before = plane(workspace).copy()
    with pytest.raises(UserError, match="sure background"):
        grow_from_seeds(workspace, Edits(workspace))
    assert np.array_equal(plane(workspace), before)
