"""Import mask: from a file or a layer that lies on the scan; one Ctrl+Z takes it out."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from napari.components import ViewerModel
from test_workspace import AFFINE, SHAPE, write_scan

from napari_medssl.annotate.edits import Edits
from napari_medssl.io import reader
from napari_medssl.model.session import Session
from napari_medssl.widgets.mask_import import MaskImportButton
from napari_medssl.workspace import Workspace


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """A scan on the screen, with a stroke of sure background."""
    made = Workspace(ViewerModel(), Session())
    made.said = []
    made.session.message.connect(lambda severity, text: made.said.append(text))
    made.mask_import = MaskImportButton(made, Edits(made))
    qtbot.addWidget(made.mask_import)
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    made.go_to(0, 4)
    made.annotation_layer.brush_size = 1
    made.annotation_layer.paint((4, 5, 6), 255)
    yield made
    made.close()


def write_mask(folder, affine=AFFINE):
    values = np.zeros(SHAPE, np.uint8)
    values[2:9, 3:7, 3:6] = 1
    values[5, 4, 4] = 9
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / "mask.nii.gz")
    return folder / "mask.nii.gz", np.count_nonzero(values)


def asked(workspace, qtbot, source):
    """The question about a mask."""
    workspace.mask_import.ask_about(source)
    qtbot.waitUntil(lambda: workspace.mask_import.preview is not None, timeout=20000)
    return workspace.mask_import.preview


def bring_in(workspace, qtbot, source, complete="none"):
    preview = asked(workspace, qtbot, source)
    preview.complete.setCurrentIndex(preview.complete.findData(complete))
    preview.accept()
    qtbot.waitUntil(lambda: any("Imported" in text for text in workspace.said), timeout=20000)


def test_a_mask_from_a_file_is_in_the_annotation_until_ctrl_z_which_takes_its_class_along(
    workspace, qtbot, tmp_path
):
    path, voxels = write_mask(tmp_path)
    before = workspace.session.project.classes
    bring_in(workspace, qtbot, path, "labelled")
    layer = workspace.annotation_layer
    assert np.count_nonzero(layer.data) in (voxels, voxels + 1) and layer.data[4, 5, 6] == 255
    assert [item.id for item in workspace.session.project.classes] == [1, 9]
    assert workspace.session.annotation.complete == ((0, 3), (0, 4), (0, 5))
    layer.undo()
    assert np.count_nonzero(layer.data) == 1 and workspace.session.annotation.complete == ()
    assert workspace.session.project.classes == before
    layer.redo()
    assert [item.id for item in workspace.session.project.classes] == [1, 9]


def test_nothing_is_changed_before_the_question_is_answered(workspace, qtbot, tmp_path):
    (tmp_path / "mask.tsv").write_text("index\tname\n1\tliver\n9\ttumor\n")
    before = workspace.session.project.classes
    preview = asked(workspace, qtbot, write_mask(tmp_path)[0])
    assert [preview.table.item(row, 0).text() for row in (0, 1)] == ["liver (1)", "tumor (9)"]
    assert preview.boxes[1].currentText() == "liver, now Structure"
    assert preview.boxes[9].currentText() == "New class tumor"
    preview.reject()
    assert (
        workspace.session.project.classes == before and np.count_nonzero(workspace.annotation_layer.data) == 1
    )


def test_a_label_becomes_a_class_of_its_own_or_stays_out(workspace, qtbot, tmp_path):
    path, voxels = write_mask(tmp_path)
    preview = asked(workspace, qtbot, path)
    preview.boxes[1].setCurrentIndex(preview.boxes[1].findText("New class"))
    preview.boxes[9].setCurrentIndex(preview.boxes[9].findText("Leave out"))
    preview.complete.setCurrentIndex(preview.complete.findData("ends"))
    preview.accept()
    qtbot.waitUntil(lambda: bool(workspace.said), timeout=20000)
    data = workspace.annotation_layer.data
    assert np.count_nonzero(data == 2) == voxels - 1 and not (data == 9).any()
    assert [(item.id, item.name) for item in workspace.session.project.classes] == [
        (1, "Structure"),
        (2, "Label 1"),
    ]
    assert len(workspace.session.annotation.complete) == data.shape[0]


def test_a_class_that_was_painted_with_since_stays_when_the_import_is_undone(workspace, qtbot, tmp_path):
    bring_in(workspace, qtbot, write_mask(tmp_path)[0])
    layer = workspace.annotation_layer
    layer.undo()
    layer.redo()
    workspace.session.annotation.labels[0, 0, 0] = 9  # which this undo knows nothing of
    layer.undo()
    assert [item.id for item in workspace.session.project.classes] == [1, 9]


def test_a_folder_of_masks_is_one_mask(workspace, qtbot, tmp_path):
    values = np.zeros(SHAPE, np.uint8)
    (tmp_path / "masks").mkdir()
    for index, name in enumerate(("liver", "spleen")):
        values[:] = 0
        values[2 + index, 3:7, 3:6] = 1
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "masks" / f"{name}.nii.gz")
    bring_in(workspace, qtbot, tmp_path / "masks")
    assert [item.name for item in workspace.session.project.classes] == ["liver", "spleen"]


def test_overlaps_of_masks_are_named_before_the_import_and_after_it(workspace, qtbot, tmp_path):
    (tmp_path / "masks").mkdir()
    for index, name in enumerate(("liver", "spleen")):
        values = np.zeros(SHAPE, np.uint8)
        values[2 + index : 5 + index, 3:7, 3:6] = 1
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "masks" / f"{name}.nii.gz")
    preview, messages = asked(workspace, qtbot, tmp_path / "masks"), workspace.session.messages
    note = preview.notes.text()
    assert "24 voxels" in note and preview.notes.isVisible() and not messages.shown
    preview.accept()
    qtbot.waitUntil(lambda: len(messages.shown) == 1, timeout=20_000)
    assert messages.shown[0].text == f"masks: {note}" and messages.shown[0].severity == "warning"
    workspace.undo.undo()
    assert not messages.shown


def test_without_a_word_nothing_is_complete(workspace, qtbot, tmp_path):
    preview = asked(workspace, qtbot, write_mask(tmp_path)[0])
    preview.accept()
    qtbot.waitUntil(lambda: bool(workspace.said), timeout=20000)
    assert (
        workspace.session.annotation.complete == () and np.count_nonzero(workspace.annotation_layer.data) > 1
    )


def test_a_mask_of_another_place_is_refused_in_words(workspace, qtbot, tmp_path):
    affine = AFFINE.copy()
    affine[2, 3] = 12
    workspace.mask_import.ask_about(write_mask(tmp_path, affine)[0])
    qtbot.waitUntil(lambda: bool(workspace.said), timeout=20000)
    assert "12.0 mm" in workspace.said[0] and workspace.mask_import.preview is None


def test_a_layer_that_lies_on_the_scan_is_taken_as_it_is_seen(workspace, qtbot):
    values = np.zeros(SHAPE[::-1], np.int32)
    values[2, 1, 1:4] = 1
    bring_in(workspace, qtbot, workspace.viewer.add_labels(values, scale=workspace.scan_layer.scale))
    assert np.array_equal(workspace.annotation_layer.data == 1, values == 1)


def test_a_layer_beside_the_scan_is_refused(workspace):
    scale = workspace.scan_layer.scale
    layer = workspace.viewer.add_labels(np.ones(SHAPE[::-1], np.int32), scale=scale, translate=(0, 9, 0))
    with pytest.raises(UserError, match="import its file instead"):
        workspace.mask_import.ask_about(layer)


def test_a_layer_of_a_file_brings_the_names_of_its_labels(workspace, qtbot, tmp_path):
    """The first class, which nobody has named yet, takes the name of the label with its number."""
    path, _ = write_mask(tmp_path)
    (tmp_path / "mask.tsv").write_text("index\tname\n1\tliver\n9\ttumor\n")
    ((data, kwargs, _),) = reader.read(str(path))
    bring_in(workspace, qtbot, workspace.viewer.add_labels(data, **kwargs))
    assert any("New classes: liver, tumor" in text for text in workspace.said)
    assert [(item.id, item.name) for item in workspace.session.project.classes] == [
        (1, "liver"),
        (9, "tumor"),
    ]
