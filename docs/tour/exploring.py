"""Step 6 on the sample project: similar voxels, landmarks, colours."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from user_window import CONTROL

from docs.tour.stage import Stage

SHIFT = Qt.KeyboardModifier.ShiftModifier


def similar_voxels(stage: Stage, voxel_zyx: tuple[int, int, int]) -> None:
    """Clicks, the table of matches, further examples."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    step = dock.features
    user.open_step(6)
    guide("*Step 6, Features*", "*Follow clicks*, then click a voxel.")
    guide("A click before the features are ready is answered when they are.")
    stage.wait(step.follow.isEnabled, "the features, or that they are being computed")
    print(f"    features: {step.summary()}")
    user.click(step.follow)
    user.go_to_slice(voxel_zyx[0])
    scan = dock.workspace.scan_layer
    user.click_voxel(scan, voxel_zyx)
    stage.wait(lambda: stage.layer_named("similarity") is not None, "the map", 240)
    guide("*All scans* computes the features of the scans that you have not opened.")
    user.click(step.compute_all)
    stage.job_ends()
    guide("The table lists the best match in every scan that has features; click a row to go there.")
    stage.wait(lambda: step.table.rowCount() == 2, "the matches")
    here = stage.scan
    user.click_row(step.table, next(row for row in range(2) if step.table.item(row, 0).text() != here))
    stage.wait(lambda: stage.scan != here, "the other scan")
    user.click_row(step.table, next(row for row in range(2) if step.table.item(row, 0).text() == here))
    stage.wait(lambda: stage.scan == here, "the first scan")
    user.go_to_slice(voxel_zyx[0])
    guide("Shift-click adds a second voxel that you mean, Ctrl-click one that you do not mean.")
    z, y, x = voxel_zyx
    user.click_voxel_with(dock.workspace.scan_layer, (z, y + 3, x), SHIFT)
    user.click_voxel_with(dock.workspace.scan_layer, (z, y, 100), CONTROL)
    stage.wait(lambda: len(step.similarity.points) == 3, "three voxels")
    kinds = [point.like for point in step.similarity.points]
    stage.check(kinds == [True, True, False], f"Two voxels are meant, one is not; there are {kinds}.")


def landmarks(stage: Stage, file: Path) -> None:
    """A voxel under a name, in all scans, as a table."""
    guide, user, box = stage.guide, stage.user, stage.dock.features.landmarks
    guide("*Set landmark* keeps the clicked voxel under a name and finds it in all other scans,")
    QTest.keyClicks(box.name, "dome")
    user.click(box.set_button)
    stage.wait(lambda: box.table.rowCount() == 1, "the landmark")
    stage.wait(lambda: box.landmark_editor.fraction == 1, "the other scans")
    guide("*Export…* writes all landmarks as CSV, in mm")
    user.choose_file(box.export_button, file)
    stage.wait(file.exists, "the table")
    stage.check(
        "dome" in file.read_text() and len(file.read_text().splitlines()) == 3, "Each scan has a row."
    )
    user.click(stage.dock.features.follow)


def colors(stage: Stage) -> None:
    """Features as colours, and those of other weights."""
    guide, user, step = stage.guide, stage.user, stage.dock.features
    user.open_step(6)
    guide("*Colours* shows the features themselves.")
    user.click(step.show_colors)
    stage.wait(lambda: step.colors.layer is not None and step.colors.layer.visible, "the colours")
    user.click(step.show_colors)
    guide("With your own weights, choose them under *Weights* and press *Compute features*.")
    user.choose(step.weights, step.weights.itemText(1))
    user.click(step.compute)
    stage.job_ends()
    stage.check(step.follow.isEnabled(), "Clicks are answered with these features.")
