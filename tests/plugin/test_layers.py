"""Layers: where they lie, what they carry, what comes back from them."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.volume import read_scan
from medssl.core.project.project import LabelClass
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_medssl import layer_units, layers, navigation
from napari_medssl.io import open_layers

SHAPE = (6, 8, 10)
LPS = Geometry.of(np.diag([-2.0, -3.0, 5.0, 1.0]), SHAPE[::-1])
CLASSES = (LabelClass(id=1, name="A", color="#ff0000"), LabelClass(id=2, name="B", color="#00ff00"))


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def test_a_scan_layer_is_in_mm_and_never_rotated(array):
    data, kwargs, kind = layers.scan_data(array, LPS, "scan")
    layer = Image(data, **kwargs)
    assert kind == "image" and tuple(layer.scale) == (5, 3, 2)
    assert tuple(map(str, layer.units)) == ("millimeter",) * 3 and tuple(layer.axis_labels) == ("z", "y", "x")
    assert np.array_equal(layer.rotate, np.eye(3))


def test_a_layer_gives_its_geometry_back(array):
    data, kwargs, _ = layers.scan_data(array, LPS, "scan")
    assert layers.canonical(data, kwargs)[1] == LPS


def test_data_of_another_shape_is_refused(array):
    _, kwargs, _ = layers.scan_data(array, LPS, "scan")
    with pytest.raises(UserError, match=r"'scan' has 10 × 8 × 3"):
        layers.canonical(array[:3], kwargs)


def test_a_flat_layer_is_refused():
    with pytest.raises(UserError, match="2 dimensions"):
        layers.canonical(np.zeros((4, 4)), {"name": "flat"})


def test_a_plain_layer_has_the_patients_left_on_its_right(array):
    flipped, geometry = layers.canonical(array, {"scale": (5, 3, 2)})
    assert np.array_equal(flipped, array[:, ::-1, ::-1])
    assert geometry.spacing_mm == (5, 3, 2)


@pytest.mark.parametrize("place", [
    {"scale": (5, 3, 2), "rotate": [20.0, -10.0, 30.0], "translate": (7, -4, 11)},
    {"scale": (5, 3, 2), "affine": np.array([[0, 0, 1, 3], [1, 0, 0, 4], [0, 1, 0, 5], [0, 0, 0, 1.0]])},
    {"scale": (2, 2, 2), "shear": [0.1, -0.2, 0.05], "translate": (1, 2, 3)},
])  # fmt: skip
def test_a_layer_that_is_turned_lies_as_it_is_shown(array, place, tmp_path):
    """Its file says of each voxel what the layer says, in the file's axes."""
    layer = Image(array, name="turned", **place)
    written = nibabel.load(open_layers.save(layer, tmp_path).path)
    for voxel in [(0, 0, 0), (2, 5, 1), (1, 7, 9)]:
        z, y, x = layer.data_to_world(voxel)
        assert written.affine @ (*voxel[::-1], 1) == pytest.approx((-x, -y, z, 1))
        assert written.dataobj[voxel[::-1]] == array[voxel]


@pytest.mark.parametrize(
    "units, spacing",
    [("um", (0.005, 0.003, 0.002)), (("mm", "cm", "m"), (5, 30, 2000)), (("mm",) * 3, (5, 3, 2))],
)
def test_the_units_of_a_layer_are_heeded(array, units, spacing, tmp_path):
    layer = Image(array, scale=(5, 3, 2), units=units, name="scan")
    assert read_scan(open_layers.save(layer, tmp_path).path).geometry.spacing_mm == pytest.approx(spacing)
    assert not layer_units.assumption(layer_units.attributes_of(layer))


@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"scale": (5, 3, 2)}, "no unit of length, so 2 × 3 × 5 mm"),
        ({"scale": (5, 3, 2), "units": ("mm", "mm", "pixel")}, "no unit of length, so 2 × 3 × 5 mm"),
        ({}, "no voxel size, so 1 × 1 × 1 mm"),
    ],
)
def test_what_is_assumed_about_a_layer_is_said(array, kwargs, said):
    assert said in layer_units.assumption(layer_units.attributes_of(Image(array, name="scan", **kwargs)))


def test_a_layer_with_an_undefined_scale_is_refused(array):
    with pytest.raises(UserError, match="Layer 'scan' has no valid voxel size"):
        layers.canonical(array, {"name": "scan", "scale": (5, 3, np.nan)})


def test_a_layer_without_a_file_becomes_one_that_reads_the_same(array, tmp_path):
    data, kwargs, _ = layers.scan_data(array, LPS, "made here")
    volume = read_scan(open_layers.save(Image(data, **kwargs), tmp_path).path)
    assert np.array_equal(volume.array, array) and volume.geometry == LPS


@pytest.mark.parametrize(
    "layer, reason",
    [
        (Image(np.zeros((5, 5, 3), np.uint8), rgb=True), "RGB"),
        (Image([np.zeros((4, 8, 8)), np.zeros((2, 4, 4))], multiscale=True), "multi-scale"),
        (Image(np.zeros((5, 5))), "2 dimensions"),
        (Image(np.zeros((2, 4, 5, 5))), "4 dimensions"),
        (Image(np.zeros((0, 5, 5)), contrast_limits=(0, 1)), "empty"),
        (Labels(np.zeros(SHAPE, np.uint8)), "labels"),
    ],
)
def test_what_cannot_be_a_scan_has_a_reason(layer, reason):
    assert reason in open_layers.why_unusable(layer)


def test_a_saved_layer_never_replaces_the_file_of_another(tmp_path):
    first, second = (open_layers.save(Image(np.full(SHAPE, v), name="Image"), tmp_path).path for v in (1, 2))
    assert nibabel.load(first).dataobj[0, 0, 0] == 1 and nibabel.load(second).dataobj[0, 0, 0] == 2


def test_the_annotation_layer_has_room_for_sure_background():
    layer = layers.annotation_layer(np.zeros(SHAPE, np.uint8), LPS, "s", CLASSES)
    layer.selected_label = 255
    assert layer.data.dtype == np.uint8 and layer.n_edit_dimensions == 2


def test_classes_have_their_colours_and_what_is_not_annotated_none():
    colors = layers.colormap(CLASSES)
    assert np.allclose(colors.map(np.array([1]))[0], (1, 0, 0, 1))
    assert colors.map(np.array([0]))[0][3] == 0 and colors.map(np.array([77]))[0][3] == 0


def test_the_prediction_can_be_neither_painted_on_nor_deleted():
    viewer = ViewerModel()
    layer = viewer.add_layer(layers.prediction_layer(np.zeros(SHAPE, np.uint8), LPS, "s", CLASSES))
    viewer.layers.selection.active = layer
    viewer.layers.remove_selected()
    assert not layer.editable and layer in viewer.layers


def test_similarity_cells_lie_over_the_voxels_they_describe():
    layer = layers.similarity_layer(np.zeros((3, 4, 5), np.float32), LPS, (2, 2, 2), "s")
    assert np.allclose(layer.data_to_world((0, 0, 0)), (2.5, 1.5, 1.0))
    scan = Image(np.zeros(SHAPE), **layers.placement(LPS))
    assert np.allclose(_edges(layer), _edges(scan))


def _edges(layer: Image) -> np.ndarray:
    """Outer edges (not voxel centres) in mm."""
    low, high = layer.extent.world
    return np.array([low - layer.scale / 2, high + layer.scale / 2])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_found_again_in_every_orientation(axis, array):
    viewer = ViewerModel()
    data, kwargs, _ = layers.scan_data(array, LPS, "scan")
    layer = viewer.add_image(data, **kwargs)
    navigation.show_slice(viewer.dims, layer, axis, 4)
    assert navigation.current_slice(viewer.dims, layer) == (axis, 4)
    assert viewer.dims.not_displayed == (axis,)


def test_a_slice_is_found_beside_a_finer_layer_that_reaches_further(array):
    viewer = ViewerModel()
    data, kwargs, _ = layers.scan_data(array, LPS, "scan")
    layer = viewer.add_image(data, **kwargs)
    viewer.add_image(np.zeros((40, 40, 40)), scale=(2, 2, 2), translate=(-20, -20, -20), units=("mm",) * 3)
    navigation.show_slice(viewer.dims, layer, 0, 3)
    assert navigation.current_slice(viewer.dims, layer) == (0, 3)


def test_there_is_no_slice_in_3d(array):
    viewer = ViewerModel()
    data, kwargs, _ = layers.scan_data(array, LPS, "scan")
    layer = viewer.add_image(data, **kwargs)
    viewer.dims.ndisplay = 3
    with pytest.raises(UserError, match="2D"):
        navigation.current_slice(viewer.dims, layer)


def test_voxels_under_the_pointer(array):
    layer = Image(array, **layers.placement(LPS))
    assert navigation.voxel_at(layer, (10.2, 3.1, 17.9)) == (2, 1, 9)
    assert navigation.voxel_at(layer, (10.2, 3.1, 60)) is None
