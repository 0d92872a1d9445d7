"""Layers of other kinds, shapes, units and dimensions beside ours: everything goes on."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points, Shapes, Surface, Tracks, Vectors
from user_simulation import open_and_wait

from napari_medssl.widgets import Dock

MM = ("millimeter",) * 3
TRIANGLE = (np.eye(3), np.array([[0, 1, 2]]), np.ones(3))


@pytest.fixture
def dock(dock: Dock) -> Dock:
    dock.annotate.new_annotation()
    return dock


def units(viewer: ViewerModel) -> tuple[str, ...] | None:
    """The units that napari shows the last three axes in; None where it warns and drops them."""
    shared = viewer.layers.extent.units
    return None if shared is None else tuple(str(unit) for unit in shared[-3:])


def others() -> list[Layer]:
    return [
        Image(np.zeros((5, 6)), name="2D"),
        Image(np.zeros((6, 9, 10)), name="pixels"),
        Image(np.zeros((2, 6, 9, 10)), name="4D"),
        Image(np.zeros((2, 6, 9, 10)), name="time", units=("s", "mm", "mm", "mm")),
        Image(np.zeros((6, 9, 10)), name="micrometres", units=("um",) * 3, scale=(3000, 2000, 1000)),
        Image(np.zeros((6, 9, 10, 3), np.uint8), name="colours", rgb=True),
        Image([np.zeros((8, 8, 8)), np.zeros((4, 4, 4))], name="pyramid", multiscale=True),
        Labels(np.zeros((40, 50, 60), np.int64), name="labels"),
        Points(np.ones((2, 3)), name="points"),
        Shapes(np.array([[[1, 1, 1], [1, 5, 1], [1, 5, 5]]], float), shape_type="polygon", name="shapes"),
        Surface(TRIANGLE, name="surface"),
        Vectors(np.ones((1, 2, 3)), name="vectors"),
        Tracks(np.array([[0, 0, 1, 1, 1], [0, 1, 2, 2, 2]], float), name="tracks"),
    ]


@pytest.mark.parametrize("layer", others(), ids=lambda layer: layer.name)
def test_painting_goes_on_beside_any_layer_and_everything_is_in_mm(dock, said, layer):
    dock.viewer.add_layer(layer)
    assert units(dock.viewer) == MM
    for axis, index in ((0, 3), (1, 4), (2, 5)):
        dock.workspace.go_to(axis, index)
        assert dock.workspace.slice_on_screen() == (axis, index)
        dock.annotate.toggle_complete()
    assert dock.session.annotation.complete == ((0, 3), (1, 4), (2, 5))
    dock.session.select(dock.session.scan)
    dock.viewer.layers.remove(layer)
    assert not [text for severity, text in said if severity == "error"]


def test_a_smaller_unit_keeps_the_size_and_the_slices(dock):
    layer = Image(
        np.zeros((6, 9, 10)), units=("um",) * 3, scale=(3000, 2000, 1000), translate=(0, 500, 0), name="small"
    )
    dock.viewer.add_layer(layer)
    assert np.allclose(layer.data_to_world((1, 1, 1)), (3, 2.5, 1))
    assert dock.viewer.dims.range[0].stop < 100, "in mm, not in µm"


def test_what_is_assumed_is_one_sentence_that_stays(dock):
    dock.viewer.add_layer(Image(np.zeros((4, 4, 4)), name="plain"))
    dock.viewer.add_layer(Points(np.ones((1, 3)), name="points"))
    (sentence,) = dock.feedback.messages.shown
    assert "'plain' has no voxel size, so 1 × 1 × 1 mm is assumed" in sentence


def test_layers_that_are_there_before_a_scan_are_taken_along(qtbot, said, small_project):
    viewer = ViewerModel()
    for layer in others():
        if layer.name != "time":  # napari itself cannot show seconds beside the pixels of another layer
            viewer.add_layer(layer)
    made = Dock(viewer)
    qtbot.addWidget(made)
    open_and_wait(made, small_project.root)
    assert units(viewer) == MM and made.workspace.scan_layer is not None
    assert not [text for severity, text in said if severity == "error"]
    made._leave()
