"""Step 5 on the sample project: look, correct, review, clean up, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from qtpy.QtCore import Qt
from user_window import CONTROL, type_path

from docs.tour.stage import Stage
from napari_medssl.predict.uncertainty_layer import UNCERTAINTY
from napari_medssl.widgets.scan_table import DICE
from napari_medssl.widgets.surfaces import SurfacesButton


def go_through(stage: Stage, index: int) -> None:
    """Hide, flip, accept a slice, probabilities."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    step, work = dock.prediction, dock.workspace
    user.open_step(5)
    guide(
        "## Check and correct *Step 5, Prediction*",
        "Go through the slices; H hides and shows the prediction.",
    )
    user.go_to_slice(index)
    for visible in (False, True):
        user.key(Qt.Key.Key_H)
        stage.check(work.prediction_layer.visible == visible, "H hides and shows the prediction.")
    guide(
        "*Flip to previous* (J) shows the prediction before this one and says what changed, in millilitres."
    )
    guide("H, J, U | hide the prediction, flip to the previous one, accept the slice")
    first = work.predictions.shown
    user.key(Qt.Key.Key_J)
    stage.wait(lambda: work.predictions.shown != first, "the previous prediction")
    stage.wait(lambda: "ml" in step.difference.text() or "nothing" in step.difference.text(), "what changed")
    user.click(step.flip)
    stage.wait(lambda: work.predictions.shown == first, "the newer prediction")
    guide("*Accept slice* (U) copies this slice of the prediction into the annotation and marks it complete.")
    user.key(Qt.Key.Key_U)
    stage.check((0, index) in stage.complete, "The slice is complete.")
    predicted = np.asarray(work.prediction_layer.data)[index]
    stage.check(np.array_equal(stage.labels[index], predicted), "It has the predicted labels.")
    stage.undo()
    stage.check((0, index) not in stage.complete, "Ctrl+Z takes it back.")
    guide(
        "*Show > Probability of …* shows how probable a class is; *Show > Uncertainty* shows the uncertainty:"
    )
    liver = dock.session.project.classes[0]
    for text, content in ((f"Probability of {liver.name}", liver.id), ("Uncertainty", UNCERTAINTY)):
        user.pick(step.display_box, text)
        stage.check(step.uncertainty.displayed == content, f"{text} is chosen.")
        stage.job_ends()
        stage.wait(lambda text=text: stage.layer_named(text.lower()) is not None, text)
    user.pick(step.display_box, "Classes")


def cleaning(stage: Stage) -> None:
    """Largest component, holes, small parts; a prediction of its own."""
    guide, user, step = stage.guide, stage.user, stage.dock.prediction
    guide("*Largest component*, *Fill holes* and *Min. size* clean a prediction up.")
    before = len(step.predictions.entries())
    user.click(step.largest)
    user.click(step.holes)
    user.set_minutes(step.min_volume, 1.0)
    guide("You see the result first; *Apply* keeps it as a prediction of its own.")
    stage.wait(lambda: "Cleaned up, not saved yet" in step.difference.text(), "the result")
    stage.wait(step.apply_button.isEnabled, "Apply")
    user.click(step.apply_button)
    stage.wait(lambda: len(step.predictions.entries()) == before + 1, "the prediction of its own")


def surfaces(stage: Stage, folder: Path) -> None:
    """3D and STL."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    button = dock.prediction.findChild(SurfacesButton)
    guide("*Surfaces* shows each class in 3D with its volume (Ctrl+Y goes back to slices),")
    user.press_menu(button, "Show in 3D")
    stage.wait(lambda: len(dock.reading.surfaces.layers) >= 4 and button.isEnabled(), "the surfaces", 120)
    stage.check(all("ml" in layer.name for layer in dock.reading.surfaces.layers), "They have volumes.")
    user.key_with(Qt.Key.Key_Y, CONTROL)
    stage.check(not dock.reading.surfaces.layers and stage.viewer.dims.ndisplay == 2, "Ctrl+Y goes back.")
    guide("or saves STL files in mm, in LPS coordinates.")
    folder.mkdir()
    with user.answering(type_path(folder)):
        user.press_menu(button, "Save as STL")
    stage.wait_for_message("in LPS coordinates")
    stage.check(len(list(folder.glob("*.stl"))) >= 4, "The files are there.")


def another_scan(stage: Stage) -> None:
    """The network of the first scan segments the second one."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    first, second = stage.scans()
    guide("*Segment this scan* applies the newest fine-tuning to another scan of the project,")
    stage.open_scan(second)
    user.open_step(5)
    user.click(dock.prediction.segment)
    stage.job_ends()
    stage.wait(lambda: dock.workspace.prediction_layer is not None, "the prediction")
    guide("Right-click a row and choose *Compare with reference labels…* to see the Dice")
    table = dock.scans.table
    stage.wait(lambda: table.item(1, DICE).text() not in ("", "?"), "the Dice in the table")
    labels = next(scan.reference for scan in dock.session.project.scans.values() if scan.reference)
    user.open_step(1)
    user.right_click_row(table, 1, "Stop comparing")
    stage.wait(lambda: table.isColumnHidden(DICE), "the table without Dice")
    with user.answering(type_path(labels)):
        user.right_click_row(table, 1, "Compare with")
    stage.wait(lambda: table.item(1, DICE).text() not in ("", "?"), "the Dice in the table again")
    stage.open_scan(first)


def review(stage: Stage) -> None:
    """All scans are segmented, and reviewed by keys."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    queue = dock.prediction.review
    user.open_step(5)
    guide("*Segment all scans* to every scan that lacks a prediction.")
    user.click(queue.segment_all)
    stage.job_ends()
    guide(
        "N shows the next one; Shift+U accepts it and goes on.",
        "N, Shift+U | next scan to review, accept this scan",
    )
    stage.wait(lambda: queue.table.isVisible() and queue.table.rowCount() == 2, "the queue")
    here = stage.scan
    user.key(Qt.Key.Key_N)
    stage.wait(lambda: stage.scan != here, "the next scan")
    user.key_with(Qt.Key.Key_U, Qt.KeyboardModifier.ShiftModifier)
    stage.wait(lambda: queue.state.text().startswith("1 of 2 accepted"), "the acceptance")
    stage.wait(lambda: stage.scan == here, "the next scan")
    guide("a right click makes the prediction an annotation, to learn from.")
    row = next(row for row in range(2) if queue.table.item(row, 0).text() == here)
    before = len(stage.complete)
    user.right_click_row(queue.table, row, "Accept as annotation")
    stage.wait_for_message("All slices are complete now")
    stage.check(len(stage.complete) > before, "All slices are complete.")
    stage.undo()
    stage.check(len(stage.complete) == before, "Ctrl+Z takes it back.")


def exports(stage: Stage, folder: Path) -> None:
    """One scan, all scans, annotations alone."""
    guide, user, dock = stage.guide, stage.user, stage.dock
    export = dock.prediction.export
    folder.mkdir()
    guide("## Export *Step 5, Prediction* *Export…* writes the scan on the screen, *Export all* every")
    for name in ("one.nii.gz", "one.nrrd", "one.mha"):
        user.choose_file(export.one, folder / name)
        stage.wait_for_message(f"Saved {name}")
    guide("Beside each file lies a record (JSON) of what made it")
    stage.check(len(list(folder.glob("one*.json"))) >= 1, "The record is there.")
    guide(
        "*Export all* adds a table of volumes (`volumes.csv`).",
        "*Export all* replaces nothing but earlier exports",
        "Tick *With surfaces (.stl)* in its menu for the surface of each class, too.",
    )
    user.press_menu(export.every, "With surfaces")
    every = folder / "all"
    every.mkdir()
    for _ in range(2):
        with user.answering(type_path(every)):
            user.press_menu(export.every, "NIfTI")
        stage.wait(lambda: dock.session.job.kind == "export", "the export")
        stage.job_ends()
    stage.check((every / "volumes.csv").exists() and len(list(every.glob("*.nii.gz"))) == 2, "All are there.")
    stage.check(len(list(every.glob("*.stl"))) >= 2, "Each scan has surfaces.")
    user.press_menu(export.every, "With surfaces")
    guide("*Annotations only* exports without predictions.")
    user.click(export.annotations_only)
    user.choose_file(export.one, folder / "painted.nii.gz")
    stage.wait_for_message("Saved painted.nii.gz")
    user.click(export.annotations_only)
