"""The table of scans: what it says, and how one goes from scan to scan."""

from __future__ import annotations

import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.io.volume import read_scan, write_labels
from medssl.core.project import images
from medssl.core.project.modality import modality_name
from medssl.core.project.project import Annotation, Project
from napari.components import ViewerModel

from napari_medssl.model.scan_summaries import count_slices, picture, summarise_scans
from napari_medssl.widgets import Dock, scan_table
from napari_medssl.widgets.scan_table import DICE, MODALITY, NAME, PREDICTION, SLICES, THUMBNAIL

SHAPE = (6, 9, 10)


@pytest.fixture
def project(small_project: Project, second_file) -> Project:
    """Two scans, "scan" of SHAPE and "other"."""
    small_project.add_scan(second_file)
    return small_project


def cell(dock: Dock, row: int, column: int) -> str:
    return dock.scans.table.item(row, column).text()


def predict(project: Project, labels: np.ndarray) -> str:
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    project.save_prediction(run.id, "scan", labels)
    return run.id


def hold_reading(monkeypatch) -> tuple[threading.Event, list[threading.Thread]]:
    """Scans are read once the event is set; and the threads that read."""
    slow, threads = threading.Event(), []

    def read_slowly(path, volume):
        threads.append(threading.current_thread())
        slow.wait(20)
        return read_scan(path)

    monkeypatch.setattr(images, "read_scan", read_slowly)
    return slow, threads


def truth_file(project: Project, folder: Path, labels: np.ndarray) -> Path:
    write_labels(folder / "truth.nii.gz", labels, project.scans["scan"].geometry)
    return folder / "truth.nii.gz"


# --- what it says ------------------------------------------------------------------------------------


def test_a_row_says_name_size_and_spacing(dock):
    assert cell(dock, 0, NAME) == "scan\n10×9×6\n1.5×2×4 mm"
    assert cell(dock, 1, NAME).startswith("other\n")


def test_a_row_has_a_picture_and_counts_slices(dock, qtbot, project):
    project.save_annotation("scan", Annotation(np.zeros(SHAPE, np.uint8), ((0, 1), (0, 4))))
    dock.session.scans_changed.emit()
    qtbot.waitUntil(lambda: cell(dock, 0, SLICES) == "2", timeout=20_000)
    assert not dock.scans.table.item(0, THUMBNAIL).data(1).isNull()
    assert (project.root / "thumbnails" / "scan.npy").exists()


def test_strokes_outside_of_complete_slices_count_by_axial_slice():
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :, 3] = 1
    labels[2, 5, 5] = labels[4, 5, 5] = 255
    assert count_slices(Annotation(labels, ((2, 3),))) == 3
    assert count_slices(Annotation(labels)) == 6


def test_a_picture_is_seen_radiologically(tmp_path):
    values = np.zeros((8, 8, 4), np.float32)
    values[0, 0] = 1000  # left or right, front or back: by the affine, the patient's right and front
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "corner.nii.gz")
    project = Project.create(tmp_path / "p")
    scan = project.add_scan(tmp_path / "corner.nii.gz")
    canonical = read_scan(tmp_path / "corner.nii.gz").array[2]
    row, column = np.argwhere(canonical > 500)[0]
    seen = picture(project, scan)
    bright = np.argwhere(seen > 200).mean(0)
    assert (bright[0] < 32) == (row > 4) and (bright[1] < 32) == (column > 4)


def test_dice_of_the_newest_prediction_against_a_reference(project, tmp_path):
    truth = np.zeros(SHAPE, np.uint8)
    truth[:3], truth[3:] = 1, 2
    half = truth.copy()
    half[:, :, :5] = 0
    predict(project, np.zeros(SHAPE, np.uint8))
    run = predict(project, half)
    project.set_reference("scan", truth_file(project, tmp_path, truth))
    facts = dict(summarise_scans(project, {}))["scan"]
    assert facts.run == run and set(facts.dice) == {"one", "two"}
    assert facts.mean_dice == pytest.approx(2 / 3)


def test_the_dice_column_comes_with_a_reference_and_goes_with_it(dock, qtbot, project, tmp_path):
    table, truth = dock.scans.table, np.ones(SHAPE, np.uint8)
    assert table.isColumnHidden(DICE)
    predict(project, truth)
    table.compare(project.scans["scan"], truth_file(project, tmp_path, truth))
    qtbot.waitUntil(lambda: cell(dock, 0, DICE) == "1.00", timeout=20_000)
    assert not table.isColumnHidden(DICE) and cell(dock, 0, PREDICTION) == "✓"
    assert table.item(0, DICE).toolTip().splitlines() == ["one: 1.000", "two: absent in both"]
    menu = table.menu("scan")
    next(action for action in menu.actions() if "Stop comparing" in action.text()).trigger()
    assert table.isColumnHidden(DICE)


def test_a_reference_on_another_grid_is_refused_in_words(dock, qtbot, said, project, second_file):
    dock.scans.table.compare(project.scans["scan"], second_file)
    qtbot.waitUntil(lambda: bool(said), timeout=20_000)
    assert said[0][0] == "error" and "other.nii" in said[0][1]
    assert not dock.session.project.scans["scan"].reference


def test_a_scan_is_held_out_and_takes_part_again(dock, project):
    for words, held in (("Hold out", True), ("Include", False)):
        menu = dock.scans.table.menu("scan")
        next(action for action in menu.actions() if words in action.text()).trigger()
        assert Project.open(project.root).scans["scan"].held_out is held
        assert ("Held out" in cell(dock, 0, NAME)) is held


# --- from scan to scan -------------------------------------------------------------------------------


def test_the_modality_is_shown_and_can_be_changed(dock, qtbot, project):
    table = dock.scans.table
    before = project.image("scan").copy()
    assert cell(dock, 0, MODALITY) == project.scans["scan"].modality.upper()
    submenu = next(action.menu() for action in table.menu("scan").actions() if action.text() == "Modality")
    wanted = "CT" if project.scans["scan"].modality == "mr" else "MR"
    next(action for action in submenu.actions() if action.text() == wanted).trigger()
    qtbot.waitUntil(lambda: cell(dock, 0, MODALITY) == wanted, timeout=20_000)
    assert table.item(0, MODALITY).toolTip().startswith(f"{wanted} (as set)")
    changed = Project.open(project.root)
    assert changed.scans["scan"].image_fingerprint != project.scans["scan"].image_fingerprint
    assert not np.array_equal(changed.image("scan"), before)


def test_uncertain_scans_can_be_decided_about_together(dock, qtbot, project):
    for scan in list(project.scans.values()):
        project.change_modality(scan.id, scan.modality, "unsure")
    dock.session.project.hold_out("scan", False)  # reads what has changed
    dock.session.scans_changed.emit()
    assert cell(dock, 0, MODALITY).endswith("?")
    submenu = next(a.menu() for a in dock.scans.table.menu("scan").actions() if a.text() == "Modality")
    next(action for action in submenu.actions() if "all 2 uncertain" in action.text()).trigger()
    qtbot.waitUntil(lambda: {cell(dock, row, MODALITY) for row in (0, 1)} == {"CT"}, timeout=20_000)


def test_keys_go_from_scan_to_scan_and_stop_at_the_ends(dock, qtbot):
    table = dock.scans.table
    for by, expected in ((-1, "scan"), (1, "other"), (1, "other"), (-1, "scan")):
        table.step(by)
        qtbot.waitUntil(lambda: dock.workspace.scan_loader.pending is None, timeout=20_000)
        assert dock.session.scan == expected
        assert table.currentRow() == ["scan", "other"].index(expected)


def test_while_a_scan_is_read_the_one_before_can_be_painted_on(dock, qtbot, project, monkeypatch):
    slow, threads = hold_reading(monkeypatch)
    dock.workspace.new_annotation()
    dock.scans.table.selectRow(1)
    assert cell(dock, 1, NAME).endswith("Opening…") and dock.session.scan == "scan"
    dock.workspace.annotation_layer.paint((3, 4, 5), 2)
    slow.set()
    qtbot.waitUntil(lambda: dock.session.scan == "other", timeout=20_000)
    assert threads[0] is not threading.main_thread()
    assert project.annotation("scan").labels[3, 4, 5] == 2
    assert "Opening" not in cell(dock, 1, NAME)


def test_opening_a_project_leaves_the_window_free(qtbot, said, project, monkeypatch):
    slow, threads = hold_reading(monkeypatch)
    dock = Dock(ViewerModel())
    qtbot.addWidget(dock)
    dock.open(project.root)
    assert dock.scans.table.rowCount() == 2 and dock.workspace.scan_layer is None
    slow.set()
    qtbot.waitUntil(lambda: dock.workspace.scan_layer is not None, timeout=20_000)
    assert dock.session.scan == "scan" and threading.main_thread() not in threads
    dock._leave()


def test_the_last_click_wins(dock, qtbot, monkeypatch):
    slow = threading.Event()
    monkeypatch.setattr(images, "read_scan", lambda path, volume: (slow.wait(20), read_scan(path))[1])
    dock.scans.table.selectRow(1)
    dock.scans.table.selectRow(0)
    slow.set()
    qtbot.wait(300)
    assert dock.session.scan == "scan" and dock.workspace.scan_loader.pending is None


def test_the_way_back_is_not_read_again(dock, qtbot, monkeypatch):
    dock.session.select("other")
    monkeypatch.setattr(images, "read_scan", lambda path, volume: 1 / 0)
    dock.scans.table.selectRow(0)
    assert dock.session.scan == "scan" and len(dock.viewer.layers) == 1


# --- a scan that is not where it was -----------------------------------------------------------------


def test_a_moved_scan_is_shown_from_the_project_in_one_sentence(dock, qtbot, said, second_file):
    second_file.unlink()
    dock.scans.table.selectRow(1)
    qtbot.waitUntil(lambda: dock.session.scan == "other", timeout=20_000)
    ((severity, text),) = said
    assert severity == "warning" and "other.nii was not found" in text and "project's copy" in text
    assert dock.workspace.scan_layer.data.shape == (7, 6, 5)


def test_a_scan_that_has_become_another_one_is_not_shown(dock, qtbot, said, second_file):
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)), second_file)
    dock.scans.table.selectRow(1)
    qtbot.waitUntil(lambda: dock.session.scan == "other", timeout=20_000)
    assert "has changed since it was added" in said[0][1]
    assert dock.workspace.scan_layer.data.shape == (7, 6, 5)


def test_what_has_not_changed_is_not_drawn_again(dock, tmp_path, monkeypatch):
    """So that a table of 500 scans stays quick."""
    drawn: list[str] = []
    monkeypatch.setattr(
        scan_table, "modality_name", lambda scan: (drawn.append(scan.id), modality_name(scan))[1]
    )
    first = dock.scans.table.item(0, NAME)
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "third.nii")
    dock.session.project.add_scan(tmp_path / "third.nii")
    dock.session.scans_changed.emit()
    assert dock.scans.table.rowCount() == 3 and dock.scans.table.item(0, NAME) is first
    dock.session.select("other")
    assert drawn == ["third"]
    dock.session.project.hold_out("other", True)
    dock.session.scans_changed.emit()
    assert drawn == ["third", "other"] and cell(dock, 1, NAME).endswith("Held out")
