"""Step 6 without a window: clicks, the best match of each scan, colours and landmarks."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.features.landmarks import read_landmarks
from medssl.core.features.similarity import open_features, write_features
from medssl.core.project.project import Project
from napari.components import ViewerModel
from user_simulation import open_and_wait

from napari_medssl import layers
from napari_medssl.explore.pca_colors import COLORS
from napari_medssl.explore.point_layers import LANDMARKS, MATCHES
from napari_medssl.widgets import Dock
from napari_medssl.widgets.features import NO_FEATURES
from napari_medssl.widgets.finetune import SHAPES_NAME

SHAPE, STEP = (10, 16, 18), (1, 2, 2)
SHIFT = 2
"""Cells by which the second scan is moved along all axes."""
PLACE = (5, 9, 11)
THERE = (3, 5, 7)
PATIENCE = 60_000


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two scans whose features say where in one body a cell lies; a third without features."""
    project = Project.create(tmp_path / "project")
    run = project.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(b"weights")
    random = np.random.default_rng(3)
    fourier_features, phases = random.normal(0, 0.35, (3, 24)), random.uniform(0, 6, 24)
    for number, name in enumerate("abc"):
        values = random.normal(size=SHAPE[::-1]).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 3, 1])), tmp_path / f"{name}.nii")
        scan = project.add_scan(tmp_path / f"{name}.nii").id
        cells = [np.arange(n // step) + number * SHIFT for n, step in zip(SHAPE, STEP, strict=True)]
        vectors = np.cos(np.stack(np.meshgrid(*cells, indexing="ij"), -1) @ fourier_features + phases)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        if name != "c":
            write_features(project, scan, run.id, vectors.astype(np.float16), STEP)
    return project


@pytest.fixture
def dock(qtbot, dock):
    dock.steps[5].expand()
    choose(dock, "PGL pre-training (run 1)")
    dock.features.follow.click()
    yield dock
    qtbot.waitUntil(lambda: not busy(dock), timeout=PATIENCE)


def choose(dock: Dock, weights: str) -> None:
    """What a hand does in the list of weights."""
    box = dock.features.weights
    box.setCurrentIndex(box.findText(weights))
    assert box.currentText() == weights
    box.activated.emit(box.currentIndex())


def busy(dock: Dock) -> bool:
    step = dock.features
    return any(each.background.busy for each in (step.similarity, step.landmark_editor, step.colors)) or bool(
        dock.workspace.scan_loader.pending
    )


def click(qtbot, dock: Dock, voxel: tuple[int, int, int], *keys: str) -> None:
    dock.features.similarity.click(voxel, keys)
    rest(qtbot, dock)


def rest(qtbot, dock: Dock) -> None:
    qtbot.waitUntil(lambda: not busy(dock), timeout=PATIENCE)
    qtbot.wait(250)


def go(qtbot, dock: Dock, scan: str) -> None:
    dock.workspace.scan_loader.open(scan)
    rest(qtbot, dock)


def rows(table) -> dict[str, str]:
    return {table.item(n, 0).text(): table.item(n, 1).text() for n in range(table.rowCount())}


def points(dock: Dock, role: str) -> list[tuple[int, ...]]:
    layer = layers.find(dock.viewer.layers, role)
    return [tuple(map(int, each)) for each in layer.data] if layer is not None and layer.visible else []


def test_a_click_finds_its_place_in_all_scans_that_have_features(qtbot, dock, said):
    click(qtbot, dock, PLACE)
    assert dock.features.similarity.matches["b"].voxel_zyx == THERE
    assert list(rows(dock.features.table)) == ["a", "b"] and dock.features.table.isVisible()
    assert float(rows(dock.features.table)["b"]) > 0.8
    assert layers.find(dock.viewer.layers, layers.SIMILARITY).data.max() == pytest.approx(1, abs=0.01)
    assert points(dock, MATCHES) == [PLACE] and not said


def test_scans_whose_features_are_computed_after_a_click_are_searched_too(qtbot, dock):
    click(qtbot, dock, PLACE)
    dock.session.begin("features")
    project, run = dock.session.project, dock.features.similarity.run
    write_features(project, "c", run, np.array(open_features(project, "b", run).array), STEP)
    dock.session.end("done", "")
    rest(qtbot, dock)
    assert list(rows(dock.features.table)) == ["a", "b", "c"]


def test_a_click_on_a_row_goes_to_the_match_in_that_scan(qtbot, dock):
    click(qtbot, dock, PLACE)
    dock.features.table.cellClicked.emit(1, 0)
    rest(qtbot, dock)
    assert dock.session.scan == "b" and dock.workspace.slice_on_screen() == (0, THERE[0])
    assert points(dock, MATCHES) == [THERE]
    layer = layers.find(dock.viewer.layers, layers.SIMILARITY)
    assert layer.visible and layer.data.shape == (10, 8, 9)


def test_shift_adds_a_place_and_control_one_that_is_not_meant(qtbot, dock):
    click(qtbot, dock, PLACE)
    alone = layers.find(dock.viewer.layers, layers.SIMILARITY).data.copy()
    click(qtbot, dock, (1, 1, 1), "Shift")
    both = layers.find(dock.viewer.layers, layers.SIMILARITY).data.copy()
    assert both[1, 0, 0] > alone[1, 0, 0]
    click(qtbot, dock, (4, 7, 9), "Control")
    less = layers.find(dock.viewer.layers, layers.SIMILARITY).data
    assert less[4, 3, 4] == pytest.approx(0, abs=0.02) and both[4, 3, 4] > 0.2
    assert len(points(dock, MATCHES)) == 3
    click(qtbot, dock, PLACE)
    assert points(dock, MATCHES) == [PLACE], "a plain click begins anew"


def test_a_place_that_is_not_meant_alone_is_one_sentence(qtbot, dock):
    from medssl.core.errors import UserError

    with pytest.raises(UserError, match="positive example"):
        dock.features.similarity.click(PLACE, ("Control",))


def test_a_scan_without_features_says_so_and_the_way_back_still_knows(qtbot, dock, said):
    click(qtbot, dock, PLACE)
    go(qtbot, dock, "c")
    assert "no features" in dock.features.status.text() and not points(dock, MATCHES)
    go(qtbot, dock, "a")
    assert points(dock, MATCHES) == [PLACE] and not said


def test_the_newest_click_wins(qtbot, dock):
    for voxel in ((1, 1, 1), (2, 3, 3), PLACE):
        dock.features.similarity.click(voxel)
    rest(qtbot, dock)
    assert points(dock, MATCHES) == [PLACE] and dock.features.similarity.matches["b"].voxel_zyx == THERE


def test_not_to_follow_clicks_leaves_nothing_on_the_screen(qtbot, dock):
    click(qtbot, dock, PLACE)
    dock.features.follow.click()
    assert not points(dock, MATCHES) and not dock.features.table.isVisible()
    assert not layers.find(dock.viewer.layers, layers.SIMILARITY).visible
    assert dock.features.similarity._on_mouse not in dock.viewer.mouse_drag_callbacks


def test_a_landmark_is_set_found_shown_and_kept(qtbot, dock, project, said):
    box = dock.features.landmarks
    click(qtbot, dock, PLACE)
    box.name.setText("carina")
    box.set_button.click()
    rest(qtbot, dock)
    assert rows(box.table) == {"carina": "set"} and points(dock, LANDMARKS) == [PLACE]
    go(qtbot, dock, "b")
    assert float(rows(box.table)["carina"]) > 0.8 and points(dock, LANDMARKS) == [THERE]
    kept = read_landmarks(Project.open(project.root))
    assert kept == dock.features.landmark_editor.landmarks and len(kept.matches) == 1 and not said


def test_a_landmark_can_be_corrected_removed_and_exported(qtbot, dock, tmp_path, said):
    box, marks = dock.features.landmarks, dock.features.landmark_editor
    click(qtbot, dock, PLACE)
    box.set_button.click()
    rest(qtbot, dock)
    marks.export(tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    go(qtbot, dock, "b")
    click(qtbot, dock, (2, 5, 7))
    box.name.setText("Landmark 1")
    box.set_button.click()
    rest(qtbot, dock)
    assert rows(box.table) == {"Landmark 1": "set"} and points(dock, LANDMARKS) == [(2, 5, 7)]
    box.table.selectRow(0)
    box.remove.click()
    rest(qtbot, dock)
    assert not rows(box.table) and not points(dock, LANDMARKS) and not said


def test_colours_follow_the_scan_and_take_turns_with_clicks(qtbot, dock, said):
    dock.features.show_colors.click()
    rest(qtbot, dock)
    assert not dock.features.follow.isChecked()
    layer = layers.find(dock.viewer.layers, COLORS)
    first = layer.data.copy()
    assert layer.visible and layer.rgb and first.shape == (10, 8, 9, 3)
    go(qtbot, dock, "b")
    assert layers.find(dock.viewer.layers, COLORS) is layer and layer.visible
    assert np.abs(layer.data[:-2, :-2, :-2].astype(int) - first[2:, 2:, 2:]).max() <= 1
    go(qtbot, dock, "c")
    assert not layer.visible
    go(qtbot, dock, "a")
    dock.features.follow.click()
    assert not dock.features.show_colors.isChecked() and not said


def test_one_button_computes_one_scan_and_the_other_all(dock, monkeypatch):
    jobs = []
    monkeypatch.setattr(dock.jobs, "start", jobs.append)
    dock.features.compute.click()
    choose(dock, SHAPES_NAME)
    dock.features.compute_all.click()
    assert [job.scans for job in jobs] == [("a",), ()]
    assert [job.weights for job in jobs] == ["0001-pretrain-pgl", "shapes"]


def test_the_weights_that_ship_are_the_first_and_those_one_has_chosen_stay(qtbot, dock, project, tmp_path):
    box = dock.features.weights
    assert [box.itemText(n) for n in range(box.count())] == [SHAPES_NAME, "PGL pre-training (run 1)"]
    newer = project.new_run("pretrain", {"job": "pretrain", "method": "mae"}, "mae")
    newer.checkpoint.write_bytes(b"weights")
    dock.session.reload_runs()
    assert [box.itemText(n) for n in range(box.count())][1:] == [
        "MAE pre-training (run 2)",
        "PGL pre-training (run 1)",
    ]
    assert box.currentText() == "PGL pre-training (run 1)"
    other = Project.create(tmp_path / "other")
    run = other.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(b"weights")
    other.add_scan(tmp_path / "a.nii")
    open_and_wait(dock, other.root)
    assert box.currentText() == SHAPES_NAME, "a run of the same name in another project was not chosen"


def test_nothing_has_to_be_trained_before_features_are_computed(qtbot, tmp_path, said):
    made = Dock(ViewerModel())
    qtbot.addWidget(made)
    assert made.features.weights.currentText() == SHAPES_NAME and not made.features.compute.isEnabled()
    values = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    Project.create(tmp_path / "project").add_scan(tmp_path / "a.nii")
    open_and_wait(made, tmp_path / "project")
    assert made.features.compute.isEnabled() and made.features.status.text() == NO_FEATURES and not said
