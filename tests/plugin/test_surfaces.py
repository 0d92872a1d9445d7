"""Surfaces in the viewer: what they show, and the way back to the slices."""

from __future__ import annotations

import numpy as np
import pytest
from headless import open_workspace
from reading_room import ct, write
from user_simulation import wait_until

from napari_medssl.reading.surfaces import Surfaces


@pytest.fixture
def workspace(qtbot, tmp_path):
    """A viewer without a window: a coronal slice of a CT with a painted box on the screen."""
    made = open_workspace(tmp_path / "project")
    scan = made.session.project.add_scan(write(tmp_path / "ct.nii", ct()), modality="ct")
    made.session.select(scan.id)
    made.new_annotation()
    made.annotation_layer.data[5:12, 6:14, 7:17] = 1
    made.session.annotation.invalidate()
    made.go_to(1, 8)
    made.surfaces = Surfaces(made)
    yield made
    made.surfaces.close()
    made.close()


def compute(workspace, action) -> None:
    action()
    wait_until(lambda: not workspace.surfaces.busy, 30, "the surfaces")


def test_surfaces_have_volumes_and_give_way_to_the_slice_that_was_on_the_screen(workspace):
    compute(workspace, workspace.surfaces.show)
    (layer,) = workspace.surfaces.layers
    ml = 7 * 8 * 10 * workspace.session.need_scan().geometry.voxel_ml
    assert layer.name == f"Structure, {ml:.2g} ml"
    assert workspace.viewer.dims.ndisplay == 3
    assert not workspace.scan_layer.visible
    low, high = layer._extent_data
    np.testing.assert_allclose(low, (4.5, 5.5, 6.5), atol=0.2)
    np.testing.assert_allclose(high, (11.5, 13.5, 16.5), atol=0.2)
    workspace.viewer.dims.ndisplay = 2
    assert not workspace.surfaces.layers
    assert workspace.scan_layer.visible
    assert workspace.annotation_layer.visible
    assert workspace.slice_on_screen() == (1, 8)


def test_another_scan_shows_no_surfaces_of_the_last_one(workspace, tmp_path):
    compute(workspace, workspace.surfaces.show)
    other = workspace.session.project.add_scan(write(tmp_path / "b.nii", ct() * 0.9), modality="ct")
    workspace.session.select(other.id)
    assert not workspace.surfaces.layers
    assert workspace.scan_layer.visible
    assert workspace.viewer.dims.ndisplay == 2


def test_stl_files_are_saved_and_nothing_to_save_is_said(workspace, tmp_path):
    folder = tmp_path / "stl"
    compute(workspace, lambda: workspace.surfaces.save(folder))
    assert [path.name for path in folder.glob("*.stl")] == ["ct_1_Structure.stl"]
    assert workspace.said == [f"Saved 1 surface to {folder}, in mm, in LPS coordinates."]
    workspace.annotation_layer.data[:] = 0
    workspace.session.annotation.invalidate()
    compute(workspace, workspace.surfaces.show)
    assert workspace.said[-1] == "Nothing is segmented in ct; annotate (step 2) or predict it first."
    assert workspace.viewer.dims.ndisplay == 2
