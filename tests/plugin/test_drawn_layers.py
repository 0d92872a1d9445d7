"""What is drawn in napari's Points and Shapes layers becomes labels of a class, in one step of undo."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.core.errors import UserError
from napari.components import ViewerModel
from napari.layers import Points, Shapes
from test_workspace import write_scan

from napari_medssl.annotate.drawn_layers import DrawnLayers
from napari_medssl.annotate.edits import Edits
from napari_medssl.explore.point_layers import MATCHES, PointMarker, show_points
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

PLACED = {"scale": (4, 1.5, 1.5), "units": ("mm",) * 3}
"""On the voxel grid of the scan, which has 8 x 10 x 12 voxels (z, y, x)."""


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    made = Workspace(ViewerModel(), Session())
    made.drawn = DrawnLayers(made, Edits(made))
    made.said = []
    made.session.message.connect(lambda severity, text: made.said.append(text))
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    made.annotation_layer.brush_size = 1
    made.go_to(0, 4)
    yield made
    made.close()


def test_points_become_discs_on_slices_of_the_shown_orientation(workspace):
    workspace.annotation_layer.brush_size = 2  # a radius of 1.5 pixels
    workspace.drawn.take(Points([(2, 5, 5), (6, 1, 1)], **PLACED), 1)
    labels = workspace.annotation_layer.data
    assert set(np.nonzero(labels)[0]) == {2, 6} and labels[2].sum() == 9 and labels[6, 1, 1] == 1
    workspace.go_to(2, 3)
    workspace.drawn.take(Points([(2, 5, 8)], **PLACED), 1)
    assert labels[:, :, 8].any() and labels[1, 5, 8] == 0  # 4 mm away, beyond the brush


def test_polygons_and_ellipses_are_filled_and_lines_are_drawn(workspace):
    shapes = Shapes(ndim=3, **PLACED)
    shapes.add_polygons([[(1, 0.6, 0.6), (1, 0.6, 3.4), (1, 3.4, 3.4), (1, 3.4, 0.6)]])
    shapes.add_ellipses([[(2, 1, 1), (2, 1, 7), (2, 7, 7), (2, 7, 1)]])
    shapes.add_paths([[(3, 1, 1), (3, 1, 6), (3, 6, 6)]])
    shapes.add_lines([[(0, 9, 4), (6, 9, 4)]])
    workspace.drawn.take(shapes, 1)
    labels = workspace.annotation_layer.data
    assert labels[1, :8].sum() == 9 and labels[1, 1:4, 1:4].all()
    assert labels[2, 4, 4] and labels[2, 4, 1] and not labels[2, 1, 1]
    assert labels[3, 1, 1:7].all() and labels[3, 1:7, 6].all() and labels[3, :8].sum() == 11
    assert labels[:7, 9, 4].all() and not labels[7, 9, 4]


def test_a_layer_is_one_step_of_undo_and_strokes_win(workspace):
    workspace.annotation_layer.paint((4, 5, 5), 255)
    workspace.drawn.take(Points([(4, 5, 5), (4, 5, 7), (1, 2, 2)], **PLACED), 1)
    labels = workspace.annotation_layer.data
    assert labels[4, 5, 5] == 255 and labels[4, 5, 7] == labels[1, 2, 2] == 1
    assert "2 voxels" in workspace.said[-1]
    workspace.annotation_layer.undo()
    assert not (labels == 1).any() and labels[4, 5, 5] == 255


def test_other_units_of_length_are_converted(workspace):
    workspace.drawn.take(Points([(1.6, 0.75, 0.3)], units=("cm",) * 3), 1)
    assert np.argwhere(workspace.annotation_layer.data).tolist() == [[4, 5, 2]]


def test_pixels_are_taken_as_mm_as_they_are_drawn_and_that_is_said(workspace):
    workspace.drawn.take(Points([(16, 7.5, 3)], name="clicks"), 1)
    assert np.argwhere(workspace.annotation_layer.data).tolist() == [[4, 5, 2]]
    assert "assumed" in workspace.said[-1]


@pytest.mark.parametrize(
    "layer, code",
    [
        (Points([(1, 2)]), "not-3d"),
        (Points([(1, 2, 3)], units=("s",) * 3), "other-units"),
        (Points(ndim=3, **PLACED), "empty-layer"),
        (Points([(40, 2, 2)], **PLACED), "beside-scan"),
        (Shapes([[(0, 0, 0), (2, 3, 3)]], shape_type="line", **PLACED), "crosses-slices"),
    ],
)
def test_what_fits_no_slice_is_refused_in_a_sentence(workspace, layer, code):
    with pytest.raises(UserError) as refusal:
        workspace.drawn.take(layer, 1)
    assert refusal.value.code == code and str(refusal.value).endswith(".")
    assert not workspace.annotation_layer.data.any()


def test_only_layers_of_the_user_are_offered(workspace):
    show_points(workspace, MATCHES, [PointMarker((1, 2, 3), "match")])
    own = workspace.viewer.add_points([(1, 2, 3)])
    assert workspace.drawn.available() == [own]
