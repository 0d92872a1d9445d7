"""Which tool is in use, in the viewer's own words; keys, the size of the brush, the numbers of slices."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from headless import open_workspace
from medssl.core.labels.classes import add_structure
from medssl.core.palette import CLASS_COLORS
from medssl.core.project.project import Annotation, LabelClass
from napari.components import ViewerModel
from napari.utils.key_bindings import KeymapHandler
from skimage.color import deltaE_ciede2000, rgb2lab
from test_workspace import predict, write_scan

from napari_medssl.annotate import keys
from napari_medssl.class_colors import INTERPOLATED, PAINTED, PREDICTED, PREVIEWED, colormap, shade
from napari_medssl.model import preferences
from napari_medssl.widgets import Dock
from napari_medssl.widgets.annotate import NO_SLICE
from napari_medssl.workspace import Workspace


def write(path: Path, shape: tuple[int, int, int], affine: np.ndarray) -> Path:
    nibabel.save(
        nibabel.Nifti1Image(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), affine), path
    )
    return path


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """Two scans of one project, the second one in voxels of half the size, both annotated; two classes."""
    made = open_workspace(tmp_path / "project")
    add_structure(made.session.project)
    write(tmp_path / "fine.nii.gz", (12, 10, 8), np.diag([-0.75, -0.75, 4, 1.0]))
    for path in (write_scan(tmp_path / "a.nii.gz"), tmp_path / "fine.nii.gz"):
        scan = made.session.project.add_scan(path).id
        labels = np.zeros((8, 10, 12), np.uint8)
        labels[4, 5, 5] = 1
        made.session.project.save_annotation(scan, Annotation(labels, ()))
    made.session.select("a")
    yield made
    made.session.close()
    made.close()


@pytest.fixture
def dock(qtbot, tmp_path) -> Dock:
    """A dock with a scan, an annotation and the brush in hand."""
    made = Dock(ViewerModel())
    qtbot.addWidget(made)
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.annotate.new.click()
    yield made
    made._leave()


def press(viewer: ViewerModel, key: keys.Key) -> None:
    """A key, looked up as napari's window does."""
    handler = KeymapHandler()
    active = viewer.layers.selection.active
    handler.keymap_providers = [viewer] if active is None else [active, viewer]
    handler.press_key(key)


# --- the tool in use ---------------------------------------------------------------------------------


def lit(dock: Dock) -> list[str]:
    tools = dock.annotate.tools
    return [tool.text() for tool in (tools.brush, tools.sure, tools.eraser) if tool.isChecked()]


@pytest.mark.parametrize("mode", ["pan_zoom", "fill", "polygon", "pick"])
def test_a_mode_that_is_changed_in_napari_puts_the_tool_out(dock, mode):
    assert lit(dock) == ["Paint"]
    dock.workspace.annotation_layer.mode = mode
    assert lit(dock) == []
    dock.annotate.tools.brush.click()
    assert lit(dock) == ["Paint"] and dock.workspace.annotation_layer.mode == "paint"


def test_no_tool_is_lit_while_another_layer_is_active_and_a_button_comes_back(dock):
    layer = dock.workspace.annotation_layer
    dock.viewer.layers.selection.active = dock.workspace.scan_layer
    assert lit(dock) == []
    dock.annotate.tools.eraser.click()
    assert dock.viewer.layers.selection.active is layer and layer.mode == "erase" and lit(dock) == ["Erase"]


def test_a_hidden_annotation_has_no_tool(dock):
    dock.workspace.annotation_layer.visible = False
    assert lit(dock) == []


def leave_for_3d(dock: Dock) -> None:
    dock.viewer.dims.ndisplay = 3


def leave_the_scan(dock: Dock) -> None:
    dock.viewer.add_image(np.zeros((90, 10, 12)), scale=(4, 1.5, 1.5))
    dock.viewer.layers.selection.active = dock.workspace.annotation_layer
    dock.viewer.dims.set_point(0, 200)


@pytest.mark.parametrize("leave", [leave_for_3d, leave_the_scan])
def test_no_tool_is_lit_where_no_slice_of_the_scan_is_on_the_screen(dock, leave):
    tools, said = dock.annotate.tools, []
    dock.session.message.connect(lambda severity, text: said.append((severity, text)))
    assert lit(dock) == ["Paint"]
    leave(dock)
    for tool in (tools.brush, tools.sure, tools.eraser):
        assert not tool.isEnabled() and tool.toolTip() == NO_SLICE
    assert lit(dock) == []
    press(dock.viewer, "E")
    assert lit(dock) == [] and said[-1] == ("warning", NO_SLICE)
    dock.workspace.go_to(0, 4)
    assert lit(dock) == ["Erase"] and tools.brush.isEnabled()


@pytest.mark.parametrize("leave", [leave_for_3d, leave_the_scan])
def test_a_tool_in_hand_comes_along_from_a_view_without_a_slice(dock, tmp_path, leave):
    leave(dock)
    dock.session.select(dock.session.project.add_scan(write_scan(tmp_path / "b.nii.gz", 1)).id)
    dock.annotate.new_annotation()
    dock.workspace.paint(255)
    leave(dock)
    dock.session.select("a")
    assert lit(dock) == ["Sure background"]


def test_napari_s_own_tools_light_ours(dock):
    layer = dock.workspace.annotation_layer
    layer.selected_label = 255
    assert lit(dock) == ["Sure background"]
    layer.mode = "erase"
    assert lit(dock) == ["Erase"]
    layer.mode, layer.selected_label = "paint", 0  # which erases
    assert lit(dock) == ["Erase"]


def test_the_table_shows_the_class_in_the_brush(dock):
    dock.session.set_class(LabelClass(2, "Other", "#4fb3bf"))
    dock.workspace.annotation_layer.selected_label = 2
    assert dock.annotate.classes.current() == 2
    dock.annotate.classes.selectRow(0)  # by the arrow keys, as by a click
    assert dock.workspace.annotation_layer.selected_label == 1


def test_a_label_without_a_class_cannot_be_painted(workspace):
    layer = workspace.annotation_layer
    layer.selected_label = 2
    layer.selected_label = 7
    assert layer.selected_label == 2 and "Label 7 has no class" in workspace.said[-1]


@pytest.mark.parametrize("label, mode", [(2, "paint"), (255, "paint"), (0, "erase")])
def test_the_tool_stays_in_hand_in_the_next_scan(workspace, label, mode):
    workspace.paint(label)
    workspace.session.select("fine")
    assert workspace.tools.label == label and workspace.annotation_layer.mode == mode


def test_no_tool_is_taken_in_the_next_scan_without_one_in_hand(workspace):
    workspace.session.select("fine")
    assert workspace.tools.label is None and workspace.annotation_layer.mode == "pan_zoom"


# --- keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, label", [("P", 1), ("E", 0), ("Q", 255)])
def test_a_key_takes_its_tool_whichever_layer_is_active(dock, key, label):
    workspace = dock.workspace
    workspace.predictions.show(predict(workspace))
    masks = dock.viewer.add_labels(np.zeros((8, 10, 12), np.uint8))
    for active in (workspace.scan_layer, workspace.prediction_layer, masks, None):
        dock.viewer.layers.selection.active = active
        press(dock.viewer, key)
        assert workspace.tools.label == label and masks.mode == "pan_zoom"
        workspace.annotation_layer.mode = "pan_zoom"


def test_p_paints_the_class_again_after_sure_background(dock):
    press(dock.viewer, "Q")
    press(dock.viewer, "P")
    assert dock.workspace.tools.label == 1


def test_labels_of_the_user_keep_their_keys_without_an_annotation(qtbot):
    viewer = ViewerModel()
    dock = Dock(viewer)
    qtbot.addWidget(dock)
    masks = viewer.add_labels(np.zeros((8, 10, 12), np.uint8))
    press(viewer, "P")
    assert masks.mode == "paint"
    dock._leave()


def test_a_closed_dock_gives_the_keys_back(dock):
    masks = dock.viewer.add_labels(np.zeros((8, 10, 12), np.uint8))
    assert masks.keymap and dock.viewer.keymap
    dock._leave()
    assert not masks.keymap and not dock.viewer.keymap


def test_undo_works_whichever_layer_is_active(dock):
    workspace = dock.workspace
    workspace.predictions.show(predict(workspace))
    for active in (workspace.scan_layer, workspace.prediction_layer, workspace.annotation_layer):
        workspace.toggle_complete()
        dock.viewer.layers.selection.active = active
        press(dock.viewer, keys.UNDO)
        assert workspace.session.annotation.complete == ()


# --- the size of the brush ---------------------------------------------------------------------------


def test_the_brush_has_the_same_size_in_mm_in_every_scan_and_session(workspace):
    workspace.annotation_layer.brush_size = 4  # of 1.5 mm
    workspace.session.select("fine")
    assert workspace.annotation_layer.brush_size == 8 and workspace.brush_size.mm == 6
    workspace.leave()
    again = open_workspace(workspace.session.project.root)
    assert again.brush_size.mm == 6
    again.close()


def test_the_brush_keeps_its_mm_where_the_voxels_on_the_screen_are_coarser(qtbot, tmp_path):
    path = write(tmp_path / "a.nii", (12, 10, 8), np.diag([3, 3, 1, 1.0]))
    workspace = open_workspace(tmp_path / "project")
    workspace.session.select(workspace.session.project.add_scan(path).id)
    workspace.new_annotation()
    workspace.brush_size.set_mm(9)
    assert workspace.annotation_layer.brush_size == 3
    workspace.go_to(1, 5)  # coronal: voxels of 1 mm
    assert workspace.annotation_layer.brush_size == 9
    workspace.close()


def test_a_brush_has_at_least_one_voxel_and_the_choice_stays(workspace):
    workspace.brush_size.set_mm(0.5)
    assert workspace.annotation_layer.brush_size == 1 and workspace.brush_size.mm == 1.5
    workspace.session.select("fine")
    assert preferences.number("brush_mm") == 0.5


def test_the_dock_shows_the_brush_in_mm_and_takes_mm(dock):
    box = dock.annotate.tools.diameter
    dock.workspace.annotation_layer.brush_size = 5
    assert box.value() == 7.5
    box.setValue(6.0)
    assert dock.workspace.annotation_layer.brush_size == 4


@pytest.mark.parametrize(
    "damaged", ["", "[1]", '{"brush_mm": "many"}', '{"brush_mm": -3}', '{"brush_mm": 1e999}']
)
def test_a_damaged_preference_is_no_preference(damaged):
    preferences.FILE.parent.mkdir()
    preferences.FILE.write_text(damaged)
    assert preferences.number("brush_mm") == 0
    preferences.set_number("brush_mm", 4.5)
    assert preferences.number("brush_mm") == 4.5


# --- the numbers of slices ---------------------------------------------------------------------------


def slider(workspace: Workspace, axis: int = 0) -> tuple[int, int]:
    """Number at napari's slider, and number of its steps."""
    return workspace.viewer.dims.current_step[axis], workspace.viewer.dims.nsteps[axis]


@pytest.mark.parametrize("finer", [0.5, 1.7])
def test_napari_s_slider_has_the_number_of_the_slice_beside_another_scan(workspace, finer):
    workspace.viewer.add_image(
        np.zeros((90, 10, 12)), scale=(finer, 1.5, 1.5), translate=(-20, 0, 0), visible=False
    )
    workspace.go_to(0, 5)
    assert workspace.slice_on_screen() == (0, 5) and slider(workspace) == (5, 8)


def test_a_visible_layer_of_the_user_that_reaches_farther_can_be_looked_at(workspace):
    other = workspace.viewer.add_image(np.zeros((90, 10, 12)), scale=(4, 1.5, 1.5))
    assert slider(workspace)[1] == 90
    other.visible = False
    assert slider(workspace)[1] == 8
    other.visible = True
    assert slider(workspace)[1] == 90


@pytest.mark.parametrize("spacing, slices", [(0.107, 155), (0.121, 64)])
def test_the_last_slice_can_be_reached_with_every_spacing(qtbot, tmp_path, spacing, slices):
    path = write(tmp_path / "a.nii", (4, 4, slices), np.diag([1, 1, spacing, 1]))
    workspace = open_workspace(tmp_path / "project")
    workspace.session.select(workspace.session.project.add_scan(path).id)
    workspace.go_to(0, slices - 1)
    assert workspace.slice_on_screen() == (0, slices - 1) and slider(workspace) == (slices - 1, slices)
    workspace.close()


# --- colours -----------------------------------------------------------------------------------------


def test_what_is_painted_has_a_colour_of_its_own():
    """At least 10 in CIEDE2000 from every other shade of every class: told apart side by side."""
    shades = {towards: [shade(color, towards) for color in CLASS_COLORS]
              for towards in (PAINTED, PREDICTED, INTERPOLATED, PREVIEWED)}  # fmt: skip
    lab = {towards: rgb2lab([_rgb(color) for color in colors]) for towards, colors in shades.items()}
    for towards, number in itertools.product((PREDICTED, INTERPOLATED, PREVIEWED), range(len(CLASS_COLORS))):
        assert deltaE_ciede2000(lab[PAINTED][number], lab[towards][number]) > 10


def _rgb(color: str) -> list[float]:
    return [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def test_layers_of_predictions_and_interpolated_labels_have_their_shades(workspace):
    workspace.predictions.show(predict(workspace))
    first = workspace.session.project.classes[0].color
    colors = {
        layer.name: layer.colormap.map(np.array([1]))[0][:3]
        for layer in (workspace.annotation_layer, workspace.prediction_layer)
    }
    assert np.allclose(colors["annotation"], _rgb(first), atol=0.01)
    assert np.allclose(colors["prediction"], _rgb(shade(first, PREDICTED)), atol=0.01)
    assert colormap(workspace.session.project.classes, INTERPOLATED).map(np.array([255]))[0][3] == 0
