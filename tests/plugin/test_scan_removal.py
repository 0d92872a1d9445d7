"""Scans are renamed and removed, and runs deleted, by a right click; what is lost is asked about first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.project.disk_usage import disk_usage, size_text
from medssl.core.project.kept import FOLDER
from medssl.core.project.modality import UNSURE
from medssl.core.project.project import Annotation, Project
from medssl.core.project.removal import remove_scan
from medssl.core.project.review import Reviewable, accept
from qtpy.QtWidgets import QInputDialog, QMenu, QMessageBox

from napari_medssl.predict.predictions import PredictionKey, _read
from napari_medssl.widgets import Dock
from napari_medssl.widgets.scan_table import NAME

SHAPE = (6, 9, 10)


@pytest.fixture
def project(small_project: Project, second_file: Path) -> Project:
    """Scans "scan", painted, and "other"; two fine-tunings have predicted "scan"."""
    small_project.add_scan(second_file)
    small_project.save_annotation("scan", Annotation(np.ones(SHAPE, np.uint8), ((0, 2),)))
    for value in (1, 2):
        run = small_project.new_run("finetune", {"job": "finetune"}, "x")
        run.checkpoint.write_bytes(b"weights")
        small_project.save_prediction(run.id, "scan", np.full(SHAPE, value, np.uint8))
    return small_project


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Questions, to all of which the answer is yes."""
    questions: list[str] = []

    def agree(parent, title, text):
        questions.append(text)
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", agree)
    return questions


def names(dock: Dock) -> list[str]:
    table = dock.scans.table
    return [table.item(row, NAME).text().splitlines()[0] for row in range(table.rowCount())]


def choose(menu: QMenu, start: str) -> None:
    next(action for action in menu.actions() if action.text().startswith(start)).trigger()


def test_a_removed_scan_leaves_the_screen_and_its_strokes_come_back(dock, qtbot, said, asked, project):
    dock.workspace.annotation_layer.paint((3, 4, 5), 2)
    choose(dock.scans.table.menu("scan"), "Remove scan")
    qtbot.waitUntil(lambda: names(dock) == ["other"], timeout=20_000)
    assert "annotation stays" in asked[0] and "2 predictions" in asked[0] and "not touched" in asked[0]
    assert dock.session.scan == "other" and dock.workspace.scan_layer.name == "other"
    assert said[-1][0] == "info" and str(project.root / FOLDER / "scan") in said[-1][1]
    dock.scans.add([Path(project.scans["scan"].source)])
    qtbot.waitUntil(lambda: dock.session.scan == "scan", timeout=20_000)
    assert dock.workspace.annotation_layer.data[3, 4, 5] == 2


def test_a_scan_that_is_not_on_the_screen_goes_and_the_view_stays(dock, qtbot, asked):
    choose(dock.scans.table.menu("other"), "Remove scan")
    qtbot.waitUntil(lambda: names(dock) == ["scan"], timeout=20_000)
    assert dock.session.scan == "scan" and "annotation" not in asked[0].split("\n\n", 1)[1]
    dock.workspace.annotation_layer.paint((1, 1, 1), 2)
    dock.workspace.autosave.flush()
    assert dock.session.project.annotation("scan").labels[1, 1, 1] == 2


def test_the_last_scan_can_be_removed_too(dock, qtbot, asked):
    for scan in ("other", "scan"):
        choose(dock.scans.table.menu(scan), "Remove scan")
        qtbot.waitUntil(lambda scan=scan: scan not in names(dock), timeout=20_000)
        qtbot.waitUntil(lambda: not dock.scans.table.removal._worker.busy, timeout=20_000)
    assert dock.session.scan is None and dock.workspace.scan_layer is None
    assert dock.workspace.annotation_layer is None


def test_a_scan_is_not_removed_while_a_job_runs(dock, said, asked, project):
    dock.session.begin("finetune")
    menu = dock.scans.table.menu("scan")
    remove = next(action for action in menu.actions() if action.text().startswith("Remove scan"))
    assert (
        not remove.isEnabled()
        and remove.toolTip() == "Fine-tuning is running; stop it, or wait until it ends."
    )
    dock.scans.table.removal.ask(project.scans["scan"])
    assert said[-1] == ("error", "A job is running and may use this scan; stop it first.") and not asked


def test_a_renamed_scan_is_shown_by_its_name_everywhere(dock, qtbot, monkeypatch, project):
    monkeypatch.setattr(QInputDialog, "getText", lambda *about: ("  Patient 7 ", True))
    choose(dock.scans.table.menu("scan"), "Rename scan")
    assert names(dock) == ["Patient 7", "other"] and dock.workspace.scan_layer.name == "Patient 7"
    assert "scan" in dock.scans.table.item(0, NAME).toolTip().splitlines(), "the id of its files"
    dock.workspace.annotation_layer.paint((3, 4, 5), 2)
    dock.scans.table.step(1)
    qtbot.waitUntil(lambda: dock.session.scan == "other", timeout=20_000)
    dock.scans.table.step(-1)
    qtbot.waitUntil(lambda: dock.session.scan == "scan", timeout=20_000)
    assert dock.workspace.scan_layer.name == "Patient 7"
    assert dock.workspace.annotation_layer.data[3, 4, 5] == 2


def test_what_is_said_of_a_renamed_scan_says_its_name(dock, qtbot, said, project, tmp_path):
    """Layers, tooltips and sentences; those of the engine are in tests/engine/test_scan_titles.py."""
    image = nibabel.load(project.scan("scan").source)
    path = tmp_path / "t2.nii"
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * 2 + 7, image.affine), path)
    table, workspace = dock.scans.table, dock.workspace
    table.channels.add(project.scan("scan"), path, "t2")
    qtbot.waitUntil(lambda: len(workspace.channels.parts) == 2, timeout=20_000)
    table.removal.rename(project.scan("scan"), "Patient 7")
    assert [layer.name for _, layer in workspace.channels.parts] == ["Patient 7", "Patient 7 t2"]
    table.channels.remove(dock.session.project.scan("scan"), "t2")
    qtbot.waitUntil(lambda: len(workspace.channels.parts) == 1, timeout=20_000)
    table.channels.add(dock.session.project.scan("scan"), path, "t2")
    qtbot.waitUntil(lambda: len(workspace.channels.parts) == 2, timeout=20_000)
    assert workspace.channels.parts[1][1].name == "Patient 7 t2"
    said.clear()
    for name in ("t2", "t3"):  # a name that is taken, and an image that is there already
        table.channels.add(dock.session.project.scan("scan"), Path(project.scan("scan").source), name)
        qtbot.waitUntil(lambda: bool(said) and "Patient 7" in said[-1][1], timeout=20_000)
        said.clear()
    uncertain = replace(dock.session.project.scan("scan"), modality_source=UNSURE)
    dock.session.project._change_scan("scan", lambda _: uncertain)
    dock.scans.adder._show_remarks()
    assert said[-1][1].startswith("Patient 7 may be CT or MR")
    assert dock.prediction.review._tip(Reviewable("scan", {}, False)) == "Patient 7"
    run = project.runs()[0].id
    with pytest.raises(UserError, match="Patient 7 has no prediction"):
        _read(dock.session.project, "scan", PredictionKey("gone"))
    with pytest.raises(UserError, match="Patient 7 has no current prediction"):
        (project.prediction_file(run, "scan")).unlink()
        accept(dock.session.project, run, "scan")


def test_a_name_that_is_taken_is_refused_in_one_sentence(dock, said, monkeypatch):
    monkeypatch.setattr(QInputDialog, "getText", lambda *about: ("Other", True))
    choose(dock.scans.table.menu("scan"), "Rename scan")
    assert said[-1][0] == "error" and "already has a scan 'Other'" in said[-1][1]
    assert names(dock) == ["scan", "other"]


def test_a_scan_that_vanished_elsewhere_is_said_and_leaves_the_table(dock, said, project):
    """As in a read-only window, whose project another window changes."""
    remove_scan(Project.open(project.root), "other")
    dock.scans.table.selectRow(1)
    dock.session.project.refresh()
    dock.scans.table.step(1)
    dock.session.scans_changed.emit()
    assert names(dock) == ["scan"] and "defect" not in str(said) and "Internal" not in str(said)


def test_a_deleted_run_leaves_the_lists_and_the_screen(dock, qtbot, said, asked, project):
    newest, before = (run.id for run in reversed(project.runs()))
    assert dock.workspace.predictions.shown_run == newest
    choose(dock.prediction.run_menu.menu(), f"Delete {newest}")
    qtbot.waitUntil(lambda: [run.id for run in dock.session.all_runs] == [before], timeout=20_000)
    assert newest in asked[0] and "1 prediction " in asked[0] and "annotations stay" in asked[0]
    assert dock.workspace.predictions.shown_run == before
    assert (dock.workspace.prediction_layer.data == 1).all()
    box = dock.finetune.weights
    assert newest not in [box.itemData(number) for number in range(box.count())]
    assert not (project.root / "runs" / newest).exists()


def test_only_runs_of_the_project_have_a_menu(dock):
    assert dock.finetune.weights.currentData() == "shapes" and dock.finetune.run_menu.menu() is None


def test_the_project_menu_says_what_the_project_weighs(dock, qtbot, project):
    project.rename_scan("scan", "Patient 7")
    dock.session.project.refresh()
    menu = dock.scans.choose.menu()
    menu.aboutToShow.emit()
    line = menu.actions()[-1]
    assert line.text() == "Measuring its size on the disk…" and not line.isEnabled()
    qtbot.waitUntil(lambda: line.text() == f"project takes {weight(project)} on the disk", timeout=20_000)
    assert [each.partition(":")[0] for each in line.toolTip().splitlines()[:2]] == ["Patient 7", "other"]
    menu.aboutToShow.emit()
    menu.aboutToShow.emit()  # the line is deleted before it is filled in
    qtbot.waitUntil(lambda: "takes" in menu.actions()[-1].text(), timeout=20_000)


def weight(project: Project) -> str:
    return size_text(disk_usage(project).total)
