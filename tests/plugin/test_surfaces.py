"""Surfaces in the viewer: what they show, and the way back to the slices."""

from __future__ import annotations

import numpy as np
import pytest
from reading_room import ct, open_desk, write
from user_simulation import wait_until

from napari_medssl.reading.surfaces import Surfaces


@pytest.fixture
def desk(qtbot, tmp_path):
    """A viewer without a window: a coronal slice of a CT with a painted box on the screen."""
    made = open_desk(tmp_path / "project")
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


def compute(desk, action) -> None:
    action()
    wait_until(lambda: not desk.surfaces.busy, 30, "the surfaces")


def test_surfaces_have_volumes_and_give_way_to_the_slice_that_was_on_the_screen(desk):
    compute(desk, desk.surfaces.show)
    (layer,) = desk.surfaces.layers
    ml = 7 * 8 * 10 * desk.session.need_scan().geometry.voxel_ml
    assert layer.name == f"Structure, {ml:.2g} ml"
    assert desk.viewer.dims.ndisplay == 3
    assert not desk.scan_layer.visible
    low, high = layer._extent_data
    np.testing.assert_allclose(low, (4.5, 5.5, 6.5), atol=0.2)
    np.testing.assert_allclose(high, (11.5, 13.5, 16.5), atol=0.2)
    desk.viewer.dims.ndisplay = 2
    assert not desk.surfaces.layers
    assert desk.scan_layer.visible
    assert desk.annotation_layer.visible
    assert desk.slice_on_screen() == (1, 8)


def test_another_scan_shows_no_surfaces_of_the_last_one(desk, tmp_path):
    compute(desk, desk.surfaces.show)
    other = desk.session.project.add_scan(write(tmp_path / "b.nii", ct() * 0.9), modality="ct")
    desk.session.select(other.id)
    assert not desk.surfaces.layers
    assert desk.scan_layer.visible
    assert desk.viewer.dims.ndisplay == 2


def test_stl_files_are_saved_and_nothing_to_save_is_said(desk, tmp_path):
    folder = tmp_path / "stl"
    compute(desk, lambda: desk.surfaces.save(folder))
    assert [path.name for path in folder.glob("*.stl")] == ["ct_1_Structure.stl"]
    assert desk.said == [f"Saved 1 surface to {folder}, in mm, in LPS coordinates."]
    desk.annotation_layer.data[:] = 0
    desk.session.annotation.invalidate()
    compute(desk, desk.surfaces.show)
    assert desk.said[-1] == "Nothing is segmented in ct; annotate (step 2) or predict it first."
    assert desk.viewer.dims.ndisplay == 2
