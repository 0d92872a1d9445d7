"""The menu of ways to paint less: what it offers, and what it does by mouse and keyboard."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from test_workspace import write_scan

from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.interpolation import Interpolation
from napari_medssl.model.session import Session
from napari_medssl.widgets.fill_menu import FillMenu, SliceRangeDialog
from napari_medssl.workspace import Workspace


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """Eight axial slices; 3 is painted."""
    made = Workspace(ViewerModel(), Session())
    made.said = []
    made.session.message.connect(lambda severity, text: made.said.append((severity, text)))
    edits = Edits(made)
    made.fill = FillMenu(made, edits, Interpolation(made, edits), lambda: 1)
    qtbot.addWidget(made.fill)
    qtbot.addWidget(made.fill.range_row)
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id)
    made.new_annotation()
    made.go_to(0, 3)
    made.annotation_layer.paint((3, 5, 5), 1)
    yield made
    made.close()


def entries(workspace: Workspace) -> dict:
    """The entries by their text, as when the menu opens."""
    workspace.fill.menu().aboutToShow.emit()
    return {action.text(): action for action in workspace.fill.menu().actions() if action.text()}


def test_empty_slices_are_completed_from_the_slice_on_the_screen_to_the_end(workspace):
    workspace.go_to(0, 5)

    def agree() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, SliceRangeDialog) and dialog.range() == (5, 7)
        dialog.last.setValue(6)
        dialog.accept()

    QTimer.singleShot(100, agree)
    entries(workspace)["Complete empty slices…"].trigger()
    assert workspace.session.annotation.complete == ((0, 5), (0, 6))


def test_an_entry_that_does_not_apply_says_so_in_a_sentence(workspace):
    entries(workspace)["Complete empty slices…"].trigger()
    entries(workspace)["Grow from seeds in this slice"].trigger()
    assert [severity for severity, _ in workspace.said] == ["error", "error"]
    assert "first slice beyond the structure" in workspace.said[0][1] and "background" in workspace.said[1][1]


def test_shapes_alone_are_offered_between_complete_slices(workspace):
    assert not entries(workspace)["Interpolate shapes only"].isEnabled()
    workspace.session.annotation.set_complete({(0, 1), (0, 5)})
    assert entries(workspace)["Interpolate shapes only"].isEnabled()


def test_layers_of_points_and_shapes_are_listed_and_taken(workspace):
    submenu = "From points or shapes layer"
    assert not entries(workspace)[submenu].isEnabled()
    workspace.viewer.add_points([(4, 7.5, 3)], name="clicks", scale=(4, 1, 1), units=("mm",) * 3)
    (clicks,) = entries(workspace)[submenu].menu().actions()
    assert clicks.text() == "clicks"
    clicks.trigger()
    assert workspace.annotation_layer.data[4, 5, 2] == 1


def test_the_range_is_shown_while_the_brush_is_limited_and_can_be_typed_or_dragged(workspace):
    brush, range_row = workspace.fill.range_brush, workspace.fill.range_row
    assert range_row.isHidden()
    entries(workspace)["Limit the brush to grey values"].trigger()
    assert brush.on and not range_row.isHidden()
    assert np.allclose(range_row.slider.value(), workspace.scan_layer.contrast_limits, atol=0.1)
    range_row.slider.setValue((-0.5, 1.25))
    assert np.allclose(brush.range, (-0.5, 1.25)) and range_row.ends[1].value() == 1.25
    range_row.ends[0].setValue(0.75)
    range_row.ends[0].editingFinished.emit()
    assert np.allclose(brush.range, (0.75, 1.25)) and np.allclose(range_row.slider.value(), (0.75, 1.25))
    entries(workspace)["Limit the brush to grey values"].trigger()
    assert not brush.on and range_row.isHidden()
