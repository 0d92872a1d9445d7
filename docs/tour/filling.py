"""Step 2 on the sample project: ways to paint less."""

from __future__ import annotations

import numpy as np
from napari_start import open_as_napari_does, press_enter
from prompt_server import prompt_server
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QPushButton
from user_simulation import LEFT
from user_window import CONTROL, type_into, type_path

from docs.tour.files import Files
from docs.tour.stage import Stage
from napari_medssl.interactive import server
from napari_medssl.interactive.proposals import Tool
from napari_medssl.widgets.fill_menu import SliceRangeDialog
from napari_medssl.widgets.mask_preview import MaskPreview


def interpolated(stage: Stage) -> None:
    """Labels between complete slices."""
    guide, user, annotate = stage.guide, stage.user, stage.dock.annotate
    first, last = (index for axis, index in stage.complete[1:3] if axis == 0)
    middle = (first + last) // 2
    user.go_to_slice(middle)
    guide("*Interpolate* carries the outlines from one complete slice to the next")
    user.click(annotate.interpolate_button)
    outlines = annotate.interpolation
    stage.wait(lambda: outlines.available and not outlines.busy, "the interpolation")
    guide("Interpolated labels are drawn as outlines.", "pale outlines are interpolated;")
    stage.check(outlines.layer is not None and outlines.layer.contour > 0, "They are outlines.")
    stage.check("interpolated" in stage.dock.legend.text(), "The legend says so.")
    guide("K on such a slice accepts them.")
    user.key(Qt.Key.Key_K)
    stage.check((0, middle) in stage.complete and stage.labels[middle].any(), "K accepts them.")
    stage.undo()
    stage.check(not stage.labels[middle].any(), "Ctrl+Z takes that back.")
    guide("they vanish where you paint. *Remove interpolation* deletes them all.")
    user.click(annotate.remove_button)
    stage.check(not outlines.available, "They are deleted.")
    stage.undo()
    stage.check(outlines.available, "Ctrl+Z brings them back.")
    user.click(annotate.remove_button)
    guide("*Fill > Interpolate shapes only* does not look at grey values.")
    user.press_menu(annotate.fill, "Interpolate shapes only")
    stage.wait(lambda: outlines.available and not outlines.busy, "the interpolation")
    user.click(annotate.remove_button)


def fills(stage: Stage, index: int) -> None:
    """The menu *Fill*, on a slice without labels."""
    guide, user, annotate = stage.guide, stage.user, stage.dock.annotate
    layer, before = stage.dock.workspace.annotation_layer, stage.complete
    user.go_to_slice(index)
    guide("*Fill > Grow from seeds in this slice*: paint a little of each class", "(Q) around them;")
    user.pick_class(0)
    stage.paint_dot((index, 50, 40), 6)
    user.key(Qt.Key.Key_Q)
    stage.paint_dot((index, 5, 40), 30)
    painted = np.count_nonzero(stage.labels[index])
    user.press_menu(annotate.fill, "Grow from seeds")
    stage.wait_for_message("from its seeds")
    stage.check(np.count_nonzero(stage.labels[index]) > painted, "The class has grown.")
    for _ in range(3):
        stage.undo()
    guide("*Fill > Limit the brush to grey values*: only voxels in the range are painted;")
    guide("*From click* takes the range from the first click of each stroke.")
    user.press_menu(annotate.fill, "Limit the brush")
    row = annotate.fill.range_row
    stage.check(row.isVisible() and row.from_click.isChecked(), "The range is shown, and follows clicks.")
    user.pick_class(0)
    stage.paint_dot((index, 50, 40), 6)
    scan = np.asarray(stage.dock.workspace.scan_layer.data)[index][stage.labels[index] == 1]
    low, high = annotate.fill.range_brush.range
    stage.check(
        len(scan) and low <= scan.min() and scan.max() <= high, "Only voxels in the range are painted."
    )
    stage.undo()
    user.press_menu(annotate.fill, "Limit the brush")
    guide("*Fill > Complete empty slices…* completes the slices beyond an end of the structure in one step.")
    user.go_to_slice(len(stage.labels) - 3)

    def agree(dialog) -> None:
        assert isinstance(dialog, SliceRangeDialog)
        QTest.keyClick(dialog, Qt.Key.Key_Return)

    with user.answering(agree):
        user.press_menu(annotate.fill, "Complete empty slices")
    stage.check(len(stage.complete) == len(before) + 3, "The last three slices are complete.")
    stage.undo()
    guide("*Fill > From points or shapes layer*: what is drawn in napari's own layers becomes")
    user.go_to_slice(index)
    button = next(b for b in user.window.findChildren(QPushButton) if "points layer" in b.toolTip().lower())
    user.click(button)
    points = stage.viewer.layers.selection.active
    user.key(Qt.Key.Key_P)  # napari's key for adding points
    user.click_voxel(layer, (index, 50, 50))
    stage.check(len(points.data) == 1, "A point is drawn.")
    user.press_menu(annotate.fill, "From points", points.name)
    stage.wait_for_message("Labelled")
    stage.check((stage.labels[index] == 1).any(), "The point has become labels.")
    stage.undo()


def proposals(stage: Stage, index: int) -> None:
    """A server's proposals; a small one of its protocol runs beside the window."""
    guide, user = stage.guide, stage.user
    stage.check(server.is_installed(), "The tour needs the extra: pip install 'napari-medssl[interactive]'.")
    panel = stage.dock.annotate.interactive
    guide("*nnInteractive…*, after `pip install", "scribbles; Ctrl excludes.", "is sent to that server.")
    user.go_to_slice(index)
    layer = stage.dock.workspace.annotation_layer
    with prompt_server() as state:
        user.click(panel.switch)
        stage.check("is sent to this server" in panel.state.text(), "It is said that the scan is sent.")
        type_into(panel.address, state.address)
        buttons = {button.text(): button for button in panel.tools.buttons()}
        user.click(buttons[Tool.POINT.value])
        user.click_voxel(layer, (index, 50, 40))
        stage.wait(panel.accept.isEnabled, "the proposal")
        user.click(buttons[Tool.SCRIBBLE.value])
        user.drag_with(user.canvas, LEFT, *(user.point_of(layer, (index, 5, x)) for x in (40, 60)), CONTROL)
        stage.wait(lambda: len(state.prompts) == 2 and panel.accept.isEnabled(), "the second prompt")
        stage.check(not state.prompts[1][1], "Ctrl excludes.")
        guide("*Accept* copies the proposal; what you painted stays.")
        user.click(panel.accept)
        stage.check((stage.labels == 1).any(axis=(1, 2)).sum() > 10, "The proposal is painted in 3D.")
        stage.undo()
        user.click(panel.switch)


def masks(stage: Stage, files: Files) -> None:
    """Masks of other programs."""
    guide, user, button = stage.guide, stage.user, stage.dock.annotate.mask_import
    guide("*Import mask* takes labels from a file, a folder (TotalSegmentator, DICOM-SEG, RTSTRUCT)")
    guide("and shows first which label becomes which class.")
    stage.open_scan("person_0")
    user.open_step(2)
    user.click(stage.dock.annotate.new)
    asked: list[int] = []

    def agree(dialog) -> None:
        assert isinstance(dialog, MaskPreview)
        asked.append(dialog.table.rowCount())
        QTest.keyClick(dialog, Qt.Key.Key_Return)

    before = np.count_nonzero(stage.labels)
    for entry, path, labels in (("From a file", files.labels, 5), ("From a folder", files.masks, 2)):
        with user.answering(type_path(path), agree):
            user.press_menu(button, entry)
        stage.wait_for_message("Imported")
        stage.check(asked[-1] == labels, "Each label has a row in the question.")
        stage.check(np.count_nonzero(stage.labels) > before, "The labels are in the annotation.")
        stage.undo()
        stage.check(np.count_nonzero(stage.labels) == before, "Ctrl+Z takes them out again.")
    guide("or an open labels layer, with their names and colours,")
    open_as_napari_does(stage.viewer, files.labels, press_enter)
    with user.answering(agree):
        user.press_menu(button, "From the layer labels")
    stage.wait_for_message("Imported")
    stage.undo()
