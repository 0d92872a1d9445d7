"""Step 2 on the sample project: classes, tools, complete slices, undo."""

from __future__ import annotations

import numpy as np
from medssl.core.project.annotation import SURE_BACKGROUND
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QLineEdit
from user_window import press, type_into

from docs.tour.stage import Stage
from napari_medssl.widgets.class_table import MENU, NAME, PAINTED


def classes(stage: Stage) -> None:
    """Classes are added, named, renamed and removed."""
    guide, user, annotate = stage.guide, stage.user, stage.dock.annotate
    table = annotate.classes
    user.open_step(2)
    guide("*Step 2, Annotate*", "*Add class* adds a class and waits for its name;")
    before = table.rowCount()
    user.click(annotate.add)
    stage.wait(lambda: _editor(table) is not None, "the editor of the name")
    type_into(_editor(table), "Lesion")
    QTest.qWait(50)
    stage.check(table.item(before, NAME).text() == "Lesion", "The new class has the name.")
    guide("⋮ in its row renames or removes it, and says where it is painted.")
    user.choose_in(lambda: user.click(table.cellWidget(before, MENU)), "Rename class")
    stage.wait(lambda: _editor(table) is not None, "the editor of the name")
    type_into(_editor(table), "Cyst")
    stage.wait_for_message("is called Cyst now")
    with user.answering(press("Yes", "painted nowhere")):
        user.choose_in(lambda: user.click(table.cellWidget(before, MENU)), "Remove class")
    stage.wait(lambda: table.rowCount() == before, "the removal")
    where: list[str] = []

    def read(dialog) -> None:
        where.append(dialog.labelText())
        QTest.keyClick(dialog, Qt.Key.Key_Escape)

    with user.answering(read):
        user.choose_in(lambda: user.click(table.cellWidget(0, MENU)), "Remove class")
    stage.check("slices" in where[0], f"It is said where a class is painted: {where[0]}")
    guide("The table shows the painted and the predicted volume of each class.")
    stage.check("ml" in table.item(0, PAINTED).text(), "The painted volume is in the table.")


def _editor(table) -> QLineEdit | None:
    return next((each for each in table.findChildren(QLineEdit) if each.isVisible()), None)


def tools(stage: Stage, index: int) -> None:
    """The brush, the eraser and sure background, on a slice without labels."""
    guide, user, annotate = stage.guide, stage.user, stage.dock.annotate
    row = annotate.tools
    user.go_to_slice(index)
    user.pick_class(0)
    guide("Take the brush (P) and paint the structure on one slice.", "P, E, Q | paint, erase, paint sure")
    user.key(Qt.Key.Key_P)
    guide("A tool is lit while it paints, and grey where no slice is on the screen, as in 3D;")
    stage.check(row.brush.isChecked() and not row.eraser.isChecked(), "The brush is lit.")
    user.key_with(Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    tooltip = stage.disabled_tooltip(row.brush)
    stage.check("No slice" in tooltip and not row.brush.isChecked(), "In 3D it is grey.")
    user.key_with(Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    stage.check(row.brush.isChecked(), "In 2D it is lit again.")
    guide("its size is in mm and stays for all scans.")
    user.set_minutes(row.diameter, 9.6)
    stage.check(abs(stage.dock.workspace.brush_size.mm - 9.6) < 0.01, "The size of the brush is in mm.")
    stage.paint_dot((index, 50, 50), 8)
    stage.check((stage.labels[index] == 1).any(), "The brush paints.")
    guide("each stroke is written to disk when you release the mouse button.")
    session = stage.dock.session
    stage.wait(
        lambda: (session.project.annotation(session.scan).labels[index] == 1).any(), "the stroke on the disk"
    )
    guide("E erases.")
    user.key(Qt.Key.Key_E)
    stage.check(row.eraser.isChecked(), "The eraser is lit.")
    stage.paint_dot((index, 50, 50), 8)
    stage.check(not stage.labels[index].any(), "The eraser erases.")
    guide("On other slices only painted voxels count, and *Sure background* (Q) paints background.")
    user.key(Qt.Key.Key_Q)
    stage.check(row.sure.isChecked(), "Sure background is lit.")
    stage.paint_dot((index, 50, 50), 8)
    stage.check((stage.labels[index] == SURE_BACKGROUND).any(), "Q paints sure background.")
    for _ in range(3):
        stage.undo()
    stage.check(not stage.labels[index].any(), "Ctrl+Z takes strokes back.")


def complete_slices(stage: Stage, index: int) -> None:
    """K, undo of it, other orientations, the legend and the numbers of slices."""
    guide, user, annotate = stage.guide, stage.user, stage.dock.annotate
    guide("Press K: **the slice is complete.**", "K | mark the slice complete, or take that back")
    before = stage.complete
    user.key(Qt.Key.Key_K)
    stage.check((0, index) in stage.complete, "K marks the slice complete.")
    user.key(Qt.Key.Key_K)
    stage.check(stage.complete == before, "K takes it back.")
    guide("Ctrl+Z | undo strokes, completed slices, fills, interpolations, accepted slices and proposals,")
    user.key(Qt.Key.Key_K)
    stage.undo()
    stage.check(stage.complete == before, "Ctrl+Z takes a completed slice back.")
    guide("Slices can be painted in axial, coronal and sagittal orientation.")
    for _ in range(3):
        user.key_with(Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)  # napari's key for other axes
        here = stage.dock.workspace.slice_on_screen()
        user.key(Qt.Key.Key_K)
        stage.check(here in stage.complete, f"Slice {here[1]} across axis {here[0]} can be completed.")
        stage.undo()
    stage.check(stage.dock.workspace.slice_on_screen() == (0, index), "The axial slice is back.")
    guide("a legend on the picture names the classes.", "Slices are numbered from 0, as at the slider.")
    name = stage.dock.session.project.classes[0].name
    stage.check(
        stage.dock.legend.isVisible() and name in stage.dock.legend.text(), "The legend has the names."
    )
    stage.check(
        f"axial slice {index}" in annotate.complete.text(), "The button has the number of the slider."
    )


def next_slice(stage: Stage) -> None:
    """The slice that should be painted next."""
    guide, user, panel = stage.guide, stage.user, stage.dock.annotate.next
    guide("*Next slice* goes to the slice, among all scans, from which the network should")
    user.open_step(2)
    user.click(panel.button)
    stage.job_ends()
    stage.wait(lambda: panel.reason and panel.reason in panel.status.text(), "the reason")
    stage.check(stage.dock.workspace.slice_on_screen() not in stage.complete, "It is a slice to be painted.")


def instant_preview(stage: Stage, index: int) -> None:
    """Outlines while somebody paints."""
    guide, user, box = stage.guide, stage.user, stage.dock.preview
    guide(
        "*Instant preview* (W) draws outlines of what your strokes so far suggest for this slice.",
        "W | instant preview",
    )
    user.go_to_slice(index)
    user.key(Qt.Key.Key_W)
    stage.check(box.box.isChecked(), "W switches the preview on.")
    layer = box.preview
    stage.wait(lambda: layer.layer is not None and len(layer.layer.data), "the outlines", 120)
    guide("Nothing of it is saved.")
    stage.check(not np.asarray(stage.labels[index]).any(), "No outline is in the annotation.")
    user.click(box.box)
    stage.check(layer.layer is None, "The check box switches it off.")
