"""The table of classes: volumes that follow strokes; no class goes with its strokes unasked."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.core.json_files import write_json
from medssl.core.labels.classes import add_structure
from medssl.core.project.project import Annotation
from napari.components import ViewerModel
from qtpy.QtWidgets import QInputDialog, QMessageBox
from test_workspace import predict, write_scan

from napari_medssl.annotate.volumes import ClassVolumes
from napari_medssl.model.session import Session
from napari_medssl.widgets import class_table
from napari_medssl.widgets.class_removal import NOT_ANNOTATED, ClassRemoval
from napari_medssl.widgets.class_table import PAINTED, PREDICTED, ClassTable
from napari_medssl.widgets.slice_bar import SliceBar
from napari_medssl.workspace import Workspace

ML = 4 * 1.5 * 1.5 / 1000


@pytest.fixture
def workspace(qtbot, tmp_path) -> Workspace:
    """Ten voxels of class 1 in the complete axial slice 4, one of class 2 in slice 6."""
    made = Workspace(ViewerModel(), Session())
    made.said = []
    made.session.message.connect(lambda severity, text: made.said.append(text))
    made.volumes = ClassVolumes(made)
    made.table = ClassTable(made.session, made.volumes)
    qtbot.addWidget(made.table)
    made.removal = ClassRemoval(made, made.table)
    made.session.open(tmp_path / "project")
    add_structure(made.session.project)
    made.session.classes_changed.emit()
    scan = made.session.project.add_scan(write_scan(tmp_path / "a.nii.gz")).id
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[4, 5, :10], labels[6, 1, 1] = 1, 2
    made.session.project.save_annotation(scan, Annotation(labels, ((0, 4), (0, 6))))
    made.session.select(scan)
    qtbot.waitUntil(lambda: made.volumes.painted_ml(1) > 0, timeout=20000)
    yield made
    made.session.close()
    made.close()


def test_volumes_follow_strokes_without_a_new_count(workspace, monkeypatch):
    assert (
        workspace.volumes.painted_ml(1) == pytest.approx(10 * ML)
        and workspace.table.item(0, 3).text() == "0.09 ml"
    )
    monkeypatch.setattr(workspace.volumes, "count_painted", lambda: pytest.fail("a full count"))
    workspace.annotation_layer.brush_size = 1
    workspace.go_to(0, 4)
    workspace.annotation_layer.paint((4, 5, 3), 2)
    assert workspace.volumes.painted_ml(1) == pytest.approx(9 * ML) and workspace.volumes.painted_ml(
        2
    ) == pytest.approx(2 * ML)


def test_painted_and_predicted_volumes_stand_side_by_side(workspace, qtbot):
    assert workspace.table.isColumnHidden(PREDICTED)
    workspace.predictions.show(predict(workspace, 2))
    qtbot.waitUntil(lambda: workspace.volumes.predicted_ml(2) > 900 * ML, timeout=20000)
    assert not workspace.table.isColumnHidden(PREDICTED)
    assert [workspace.table.item(1, column).text() for column in (PAINTED, PREDICTED)] == [
        "< 0.01 ml",
        "8.6 ml",
    ]
    workspace.predictions.toggle()  # hidden, not gone
    assert workspace.volumes.painted_ml(1) == pytest.approx(10 * ML) and not workspace.table.isColumnHidden(
        PREDICTED
    )


@pytest.mark.parametrize(
    "ml, text", [(0, ""), (0.004, "< 0.01 ml"), (0.09, "0.09 ml"), (9.96, "10 ml"), (99.6, "100 ml")]
)
def test_volumes_are_written_without_powers_of_ten(ml, text):
    assert class_table.volume(ml) == text


@pytest.mark.parametrize("choice, into", [("Structure 2 (2)", 2), (NOT_ANNOTATED, 0)])
def test_strokes_of_a_deleted_class_become_what_was_chosen(workspace, qtbot, monkeypatch, choice, into):
    asked = []

    def choose(parent, title, text, choices, *more):
        asked.append((text, choices))
        return choice, True

    monkeypatch.setattr(QInputDialog, "getItem", choose)
    workspace.removal.remove(1)
    qtbot.waitUntil(lambda: len(workspace.session.project.classes) == 1, timeout=20000)
    assert "painted in a (axial slice 4)" in asked[0][0] and asked[0][1] == ["Structure 2 (2)", NOT_ANNOTATED]
    assert (
        np.all(workspace.annotation_layer.data[4, 5, :10] == into)
        and workspace.annotation_layer.data[6, 1, 1] == 2
    )
    left = ((0, 4), (0, 6)) if into else ((0, 6),)
    assert workspace.session.annotation.complete == left, "an emptied slice must not become background"


def test_nothing_changes_where_the_question_is_cancelled(workspace, qtbot, monkeypatch):
    asked = []

    def cancel(*of):
        asked.append(of)
        return "", False

    monkeypatch.setattr(QInputDialog, "getItem", cancel)
    workspace.removal.remove(1)
    qtbot.waitUntil(lambda: bool(asked), timeout=20000)
    assert len(workspace.session.project.classes) == 2 and (workspace.annotation_layer.data == 1).sum() == 10


def test_a_class_that_is_painted_nowhere_goes_after_a_question(workspace, qtbot, monkeypatch):
    new = add_structure(workspace.session.project)
    workspace.session.classes_changed.emit()
    asked = []

    def agree(parent, title, text, *more):
        asked.append(text)
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", agree)
    workspace.removal.remove(new.id)
    qtbot.waitUntil(lambda: len(workspace.session.project.classes) == 2, timeout=20000)
    assert "Structure 3 is painted nowhere" in asked[0] and f"id {new.id}" in asked[0]


def test_the_menu_renames_and_removes(workspace):
    rename, remove = workspace.table.actions()
    assert (rename.text(), remove.text()) == ("Rename class", "Remove class…")
    removing = []
    workspace.table.removing.connect(removing.append)
    workspace.table.selectRow(1)
    remove.trigger()
    assert removing == [2]


def test_a_renamed_class_keeps_its_id_and_its_strokes(workspace):
    workspace.table.item(0, 1).setText("liver")
    first = workspace.session.project.classes[0]
    assert (first.id, first.name) == (1, "liver")
    assert "keep its id 1" in workspace.said[-1] and (workspace.annotation_layer.data == 1).sum() == 10
    workspace.table.item(0, 1).setText("Structure 2")
    assert workspace.table.item(0, 1).text() == "liver" and "already has a class" in workspace.said[-1]


def test_a_new_class_does_not_take_over_predictions_of_a_removed_one(workspace):
    new = add_structure(workspace.session.project)
    workspace.session.classes_changed.emit()
    run = workspace.session.project.new_run("finetune", {"job": "finetune"}, "quick")
    write_json(run.folder / "card.json", {"classes": [{"id": new.id, "name": new.name}]})
    workspace.session.project.set_classes(
        [item for item in workspace.session.project.classes if item.id != new.id]
    )
    assert add_structure(workspace.session.project).id == new.id + 1


def test_the_last_class_stays(workspace):
    workspace.session.project.set_classes(workspace.session.project.classes[:1])
    workspace.removal.remove(1)
    assert "rename" in workspace.said[-1]


def test_a_strip_goes_to_the_nearest_mark(qtbot):
    strip = SliceBar()
    qtbot.addWidget(strip)
    strip.resize(100, 14)
    strip.show_slices(50, 3, [10, 40], "axial")
    assert strip.nearest(30) == 10 and strip.nearest(70) == 40
    strip.show_slices(50, 3, [], "axial")
    assert strip.nearest(30) is None
