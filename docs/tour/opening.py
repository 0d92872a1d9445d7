"""The first minutes: napari's own question, the window, and step 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import napari
import numpy as np
from napari_start import open_as_napari_does, open_dock_by_menu, press_enter
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from user_simulation import LEFT
from user_window import press, type_path, type_text

from docs.tour.files import Files
from docs.tour.guide_text import Guide
from docs.tour.stage import Stage
from napari_medssl.widgets.scan_table import MODALITY, NAME


def opened_by_napari(guide: Guide, files: Files, size: tuple[int, int]) -> None:
    """`napari scan.nii.gz`, the menu of plugins, layers that become scans."""
    viewer = napari.Viewer()
    guide("napari asks for a reader: *medssl* is chosen, press Enter")
    first, second = sorted(files.first.iterdir())
    assert open_as_napari_does(viewer, first, press_enter) == 1
    guide("then choose *Plugins > Train on few slices* and *Use open layers*.")
    open_dock_by_menu(viewer)
    stage = Stage(viewer, guide, size)
    scans, user = stage.dock.scans, stage.user
    open_as_napari_does(viewer, second, press_enter)
    guide(
        "*Use open layers* takes the images that napari shows already; of several, check those to add.",
        "The layers themselves are taken over or removed.",
    )
    choice = scans.open_layers.choice
    stage.check(choice.isVisible() and choice.count() == 2, "Of several layers, those to add can be checked.")
    box = choice.visualItemRect(choice.item(1)).center()
    QTest.mouseClick(choice.viewport(), LEFT, pos=QPoint(14, box.y()))
    stage.check(scans.use_open_layers.text() == "Use 1 open layer", "One of two layers is checked.")
    user.click(scans.use_open_layers)
    guide("Before a project is made, its folder is shown: `medssl-project` beside the first scan")
    stage.check(scans.new_project.place == files.first / "medssl-project", "The folder is beside the scan.")
    user.click(scans.new_project.agree)
    stage.wait(lambda: stage.dock.steps[1].isExpanded(), "taking the layer over")
    stage.check(stage.scan == "person_0" and len(stage.scans()) == 1, "The checked layer is a scan now.")
    user.open_step(1)
    user.click(scans.use_open_layers)
    stage.wait(lambda: len(stage.scans()) == 2 and not scans.adder.busy, "the second layer")
    QTest.qWait(500)
    images = [layer for layer in viewer.layers if isinstance(layer, napari.layers.Image)]
    stage.check(len(images) == 1, "Layers that became scans are taken over or removed.")
    stage.close()


def sample_project(stage: Stage) -> None:
    """An empty dock: recent projects, the sample project."""
    guide, dock, user = stage.guide, stage.dock, stage.user
    scans = dock.scans
    guide("Without a path it lists the recent projects.")
    stage.wait(lambda: scans.welcome.projects.isVisible(), "the recent projects")
    stage.check(scans.welcome.projects.item(0).text() == "first/medssl-project", "The last project is first.")
    guide("The dock has six steps, of which one is open at a time.")
    stage.check(len(dock.steps) == 6, "There are six steps.")
    for number in (2, 1):
        user.open_step(number)
        opened = [step for step in dock.steps if step.isExpanded()]
        stage.check(opened == [dock.steps[number - 1]], "One step is open at a time.")
    guide("Hold the pointer over what is grey: it says why.")
    user.open_step(4)
    stage.check("No scan is open" in stage.disabled_tooltip(dock.finetune.start), "What is grey says why.")
    user.open_step(1)
    guide("*Step 1, Scans*", "*Sample project* makes two synthetic CTs with five painted slices")
    user.click(scans.welcome.sample)
    stage.wait(lambda: dock.session.project is not None and stage.scan, "the sample project", 120)
    stage.check(len(stage.scans()) == 2, "The sample project has two scans.")
    stage.check(len(stage.complete) == 5, "Five slices of the sample are painted.")


def projects(stage: Stage, files: Files) -> None:
    """Where a project is made, and how others are opened."""
    guide, user, scans = stage.guide, stage.user, stage.dock.scans
    guide("*Project…* opens another one, lists the last ten, and says what this one takes on the disk.")
    with user.answering(type_path(files.ct)):
        user.press_menu(scans.choose, "Open or create")
    stage.wait(lambda: scans.new_project.place is not None, "the question for a place")
    guide("*Elsewhere…* changes it.")
    elsewhere = files.ct.parent / "elsewhere"
    elsewhere.mkdir()
    with user.answering(type_path(elsewhere)):
        user.click(scans.new_project.elsewhere)
    stage.check(scans.new_project.place == elsewhere, f"The place is {scans.new_project.place}.")
    user.click(scans.new_project.agree)
    project = stage.dock.session.project
    stage.check(project is not None and project.root == elsewhere, "The project is made there.")
    texts = user.menu_texts(lambda: user.click(scans.choose), until="takes")
    stage.check(any("medssl-sample" in text for text in texts), "The menu lists the last projects.")


def files_and_folders(stage: Stage, files: Files) -> None:
    """What can be opened, and what is said about it."""
    guide, user, scans = stage.guide, stage.user, stage.dock.scans
    guide("*Open files…* takes NIfTI, NRRD, MHA, MGZ and DICOM.")
    for path in files.formats:
        add(stage, path)
    guide("What is tolerated in a file (NaN outside the body, an odd header) is said once")
    add(stage, files.odd)
    stage.wait_for_message("NaN")
    tip = scans.table.item(len(stage.scans()) - 1, NAME).toolTip()
    stage.check("NaN" in tip, "What was tolerated stays in the tooltip of the row.")
    guide(
        "a file without a voxel size is refused.", "What failed stays at the foot of the dock until you try"
    )
    user.choose_file(scans.files, files.bare)
    stage.wait_for_message("voxel size")
    messages = stage.dock.feedback.messages
    QTest.qWait(5000)
    stage.check("voxel size" in messages.text(), "What failed stays.")
    guide("*Open folder…* takes a DICOM series, or a folder with many scans.")
    add(stage, files.dicom, scans.dicom)
    stage.check("voxel size" not in messages.text(), "The next attempt takes the message away.")
    for path in sorted(files.ct.iterdir()):
        add(stage, path)
    others = len(files.formats) + len([files.odd, files.dicom])
    stage.check(len(stage.scans()) == others + 2, "All of them are in the table.")


def add(stage: Stage, path: Path, button=None) -> None:
    """Open a file or a folder, and wait until it is in the table."""
    before = len(stage.scans())
    stage.user.open_step(1)
    stage.user.choose_file(button or stage.dock.scans.files, path)
    stage.wait(lambda: len(stage.scans()) > before, path.name)
    stage.wait(lambda: not stage.dock.scans.adder.busy, path.name)


def rows(stage: Stage, files: Files) -> None:
    """Right clicks and keys in the table of scans."""
    guide, user, table = stage.guide, stage.user, stage.dock.scans.table
    names = stage.scans()
    guide(
        "The column *Mod.* shows as which modality a scan is taken",
        "Right-click a row, *Modality*,",
    )
    for modality in ("MR", "CT"):
        user.right_click_row(table, 0, "Modality", modality)
        stage.wait(
            lambda modality=modality: table.item(0, MODALITY).text() == modality, f"modality {modality}"
        )
    guide(
        "Click a row to show that scan.",
        "Page Up and Page Down go through the scans.",
        "Page Up, Page Down | previous scan, next scan",
    )
    stage.open_scan(names[1])
    user.key(Qt.Key.Key_PageDown)
    stage.wait(lambda: stage.scan == names[2], "the next scan")
    user.key(Qt.Key.Key_PageUp)
    stage.wait(lambda: stage.scan == names[1], "the previous scan")
    guide("Right-click a row: *Rename scan…* changes the name by which it is shown and exported.")
    with user.answering(type_text("Renamed")):
        user.right_click_row(table, 1, "Rename scan")
    stage.check("Renamed" in stage.scans(), "The scan has its new name.")
    guide("*Remove scan…* takes it out of the project; its annotation stays in the folder `removed/`")
    stage.open_scan("person_1")
    user.open_step(2)
    user.click(stage.dock.annotate.new)
    stage.paint_dot((12, 28, 28))
    painted = stage.labels.copy()
    user.open_step(1)
    with user.answering(press("Yes", "Its annotation stays")):
        user.right_click_row(table, stage.scans().index("person_1"), "Remove scan")
    stage.wait_for_message("Removed person_1")
    stage.check("person_1" not in stage.scans(), "The scan is out of the project.")
    guide("and comes back when you add the scan again.")
    add(stage, files.ct / "person_1.nii.gz")
    stage.open_scan("person_1")
    stage.wait(lambda: stage.dock.workspace.annotation_layer is not None, "the annotation")
    stage.check(painted.any() and np.array_equal(stage.labels, painted), "The annotation has come back.")
    guide("*Hold out from training* to keep a scan for testing.")
    user.open_step(1)
    row = stage.scans().index("person_1")
    user.right_click_row(table, row, "Hold out from training")
    stage.check("Held out" in table.item(row, NAME).text(), "The row says that it is held out.")
    user.right_click_row(table, row, "Include in training again")


def channels_by_key(stage: Stage) -> None:
    """T1, T2, and both."""
    guide, user, work = stage.guide, stage.user, stage.dock.workspace
    stage.wait(lambda: len(work.channels.parts) == 2, "the second channel")
    guide(
        "*Channel* (G) shows the sequences of a scan one after the other, then all together:",
        "| G | next sequence of the scan, then all together |",
    )
    button, shown = stage.dock.view_bar.channels_button, []
    for _ in range(3):
        user.key(Qt.Key.Key_G)
        QTest.qWait(100)
        shown.append(button.text().partition(": ")[2])
    first, second = shown[2], shown[0]
    stage.check(shown[1] == f"{first} + {second}" and second == "t2", f"The button says {shown}.")
    user.click(button)
    stage.check(button.text() == "Channel: t2", "The button does what the key does.")
    guide("Window, fills, limited brush and proposals take the grey values of the first that is visible.")
    limits = [list(layer.contrast_limits) for _, layer in work.channels.parts]
    user.drag_with(user.canvas, Qt.MouseButton.MiddleButton, QPoint(200, 200), QPoint(260, 160))
    changed = [list(layer.contrast_limits) for _, layer in work.channels.parts]
    stage.check(changed[0] == limits[0] and changed[1] != limits[1], "The window is that of T2.")
    stage.check(work.front_layer is work.channels.parts[1][1], "Tools take T2's grey values.")
    user.key(Qt.Key.Key_G)
    user.key(Qt.Key.Key_G)


def sequences(stage: Stage, files: Files) -> None:
    """Several sequences of a patient, and 4D files."""
    guide, user, scans = stage.guide, stage.user, stage.dock.scans
    guide("are channels of one scan: right-click a row, *Add channel…*;")
    first, second = files.patient
    add(stage, first)
    row = stage.scans().index("p1_t1")

    with user.answering(type_path(second), lambda dialog: QTest.keyClick(dialog, Qt.Key.Key_Return)):
        user.right_click_row(scans.table, row, "Add channel")
    stage.wait_for_message("has the channels")
    stage.open_scan("p1_t1")
    channels_by_key(stage)
    guide("or `medssl init PROJECT FOLDER --channels t1,t2` for `p1_t1.nii.gz` and `p1_t2.nii.gz`.")
    project = first.parent.parent / "by command"
    command = [sys.executable, "-m", "medssl", "init", str(project), str(first.parent), "--channels", "t1,t2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    stage.check(done.returncode == 0 and "t1" in done.stdout, f"The command says {done.stderr}{done.stdout}.")
    guide("nnU-Net's folders of images (`imagesTr/p1_0000.nii.gz`, `p1_0001.nii.gz`) need no option.")
    add(stage, files.images, scans.dicom)
    stage.check("a" in stage.scans() and "b" in stage.scans(), f"Two files are one scan: {stage.scans()}")
    text = scans.table.item(stage.scans().index("a"), NAME).text()
    stage.check("0000" in text and "0001" in text, f"It has two channels: {text}")
    guide("For a 4D file you are asked which volumes.")
    before = len(stage.scans())
    with user.answering(type_path(files.volumes), type_text("0,1")):
        user.click(scans.files)
    stage.wait(lambda: len(stage.scans()) == before + 1 and not scans.adder.busy, "the volumes")
