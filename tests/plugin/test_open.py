"""The first minutes: where a project is made, which layers become scans, what was open last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.project.project import Project
from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_medssl.io import reader, samples
from napari_medssl.model import project_place, recent_projects
from napari_medssl.widgets import Dock

SIZES = {"a": 12, "b": 20, "c": 7}
"""{name of a scan: its number of slices}."""


def write_scan(path: Path) -> Path:
    shape = (8, 10, SIZES[path.name[0]])
    values = np.random.default_rng(shape[2]).normal(size=shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)
    return path


@pytest.fixture
def home(monkeypatch, tmp_path) -> Path:
    """A home folder, empty."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr(Path, "home", lambda: folder)
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with two scans."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b"):
        write_scan(folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def make(qtbot, said, home):
    """Makes an empty dock, in a viewer that may have layers."""

    def empty_dock(viewer: ViewerModel | None = None) -> Dock:
        made = Dock(viewer or ViewerModel())
        qtbot.addWidget(made)
        made.show()
        return made

    return empty_dock


@pytest.fixture
def opened(qtbot):
    """Waits until paths are in the project, once the user has agreed to its place."""

    def open_all(dock: Dock, *paths: Path) -> Dock:
        dock.open(*paths)
        if dock.session.project is None:
            qtbot.waitUntil(lambda: dock.scans.new_project.place is not None, timeout=10_000)
            dock.scans.new_project.agree.click()
        wait(qtbot, dock)
        return dock

    return open_all


def wait(qtbot, dock: Dock) -> None:
    qtbot.waitUntil(lambda: dock.session.scan is not None and not dock.scans.adder.busy, timeout=20_000)


def open_in_napari(viewer: ViewerModel, path: Path) -> Layer:
    """A layer, as our reader makes it."""
    data, arguments, _ = reader.read_one(path)
    return viewer.add_image(data, **arguments)


# --- where a project is made -------------------------------------------------------------------------


def test_the_place_of_a_project_is_shown_before_it_is_made(make, qtbot, data):
    dock = make()
    dock.open(data / "a.nii.gz", data / "b.nii.gz")
    qtbot.waitUntil(lambda: dock.scans.new_project.place is not None, timeout=10_000)
    asked = dock.scans.new_project
    assert asked.place == data / "medssl-project" and asked.isVisibleTo(dock.scans)
    assert not asked.place.exists() and dock.session.project is None
    asked.agree.click()
    wait(qtbot, dock)
    assert Project.open(data / "medssl-project").scans.keys() == {"a", "b"} and not asked.isVisibleTo(dock)


def test_a_project_is_made_elsewhere_or_not_at_all(make, qtbot, data, tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("of somebody else")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *of: str(tmp_path / "study"))
    dock = make()
    dock.open(data)
    qtbot.waitUntil(lambda: dock.scans.new_project.place is not None, timeout=10_000)
    dock.scans.new_project.cancel.click()
    assert dock.scans.new_project.place is None and dock.session.project is None
    dock.open(data)
    qtbot.waitUntil(lambda: dock.scans.new_project.place is not None, timeout=10_000)
    dock.scans.new_project.elsewhere.click()
    dock.scans.new_project.agree.click()
    wait(qtbot, dock)
    assert dock.session.project.root == tmp_path / "study" / "medssl-project"
    assert sorted(path.name for path in data.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_beside_scans_that_may_only_be_read_no_project_is_proposed(home, data, monkeypatch):
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != data and may(path, mode))  # root may write
    assert project_place.place_beside(data / "a.nii.gz") == home / "medssl-data"


def test_a_project_beside_the_scans_is_opened_without_a_question(make, opened, qtbot, data):
    opened(make(), data / "a.nii.gz")._leave()
    again = make()
    again.open(data)
    wait(qtbot, again)
    assert again.session.project.scans.keys() == {"a", "b"}


def test_a_project_and_scans_to_add_to_it(make, opened, tmp_path, data):
    project = Project.create(tmp_path / "project")
    assert opened(make(), project.root, data / "b.nii.gz").session.project.root == project.root
    assert Project.open(project.root).scans.keys() == {"b"}


def test_two_projects_are_refused_in_one_sentence(make, said, tmp_path):
    for name in ("first", "second"):
        Project.create(tmp_path / name)
    make().open(tmp_path / "first", tmp_path / "second")
    assert [text for severity, text in said if severity == "error"] == [
        "Only one project can be open in a window; give one."
    ]


# --- layers that are open ----------------------------------------------------------------------------


def use(dock: Dock, qtbot) -> None:
    """Press the button, and agree to the place of the project."""
    dock.scans.use_open_layers.click()
    if dock.session.project is None:
        dock.scans.new_project.agree.click()
    wait(qtbot, dock)


def test_adopted_layers_leave_nothing_hidden_that_stretches_the_slider(make, qtbot, data):
    viewer = ViewerModel()
    for name in ("b", "a"):
        open_in_napari(viewer, data / f"{name}.nii.gz")
    dock = make(viewer)
    use(dock, qtbot)
    assert dock.session.project.scans.keys() == {"a", "b"}
    for scan in ("a", "b", "a"):
        dock.session.select(scan)
        images = [layer for layer in viewer.layers if layer.visible and layer is dock.workspace.scan_layer]
        assert len(images) == 1 and viewer.dims.nsteps[0] == SIZES[scan]


def test_of_several_layers_some_are_chosen(make, qtbot, data):
    viewer = ViewerModel()
    a, b = (open_in_napari(viewer, data / f"{name}.nii.gz") for name in ("a", "b"))
    dock = make(viewer)
    choice = dock.scans.open_layers.choice
    assert choice.isVisibleTo(dock) and dock.scans.use_open_layers.text() == "Use 2 open layers"
    choice.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert dock.scans.use_open_layers.text() == "Use 1 open layer"
    use(dock, qtbot)
    assert dock.session.project.scans.keys() == {"b"}
    assert dock.workspace.scan_layer is b and a in viewer.layers


def test_unusable_layers_say_why_and_do_not_stop_the_others(make, qtbot, said, data):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((20, 20, 3), np.uint8), rgb=True, name="photo")
    viewer.add_image(np.zeros((2, 3, 4, 5)), name="series")
    viewer.add_labels(np.zeros((3, 4, 5), np.uint8), name="mask")
    viewer.add_image(np.ones((6, 7, 8)), name="constant")
    open_in_napari(viewer, data / "a.nii.gz")
    dock = make(viewer)
    choice = dock.scans.open_layers.choice
    rows = [choice.item(row).text() for row in range(choice.count())]
    assert rows == [
        "photo: RGB, not a single channel",
        "series: 4 dimensions, not 3",
        "mask: labels; step 2 imports masks",
        "constant",
        "a",
    ]
    use(dock, qtbot)
    assert dock.session.project.scans.keys() == {"a"}
    assert [name for name in ("photo", "series", "mask", "constant") if name not in viewer.layers] == []
    (error,) = [text for severity, text in said if severity == "error"]
    assert "constant" in error


def test_a_layer_of_another_reader_is_replaced_and_can_be_painted_on(make, qtbot, said, data):
    viewer = ViewerModel()
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    viewer.add_image(array, name="denoised", scale=(3, 1, 1), units="mm")
    dock = make(viewer)
    use(dock, qtbot)
    layer, annotation = dock.workspace.scan_layer, dock.workspace.annotation_layer
    assert list(viewer.layers) == [layer, annotation] and dock.steps[1].isExpanded()
    assert np.array_equal(layer.data, array[:, ::-1, ::-1])
    assert not [text for severity, text in said if severity == "error"]


# --- recent projects ---------------------------------------------------------------------------------


def test_recent_projects_are_offered_newest_first_and_what_is_gone_is_grey(make, qtbot, tmp_path):
    for number in range(12):
        recent_projects.remember(Project.create(tmp_path / f"{number}").root)
    (tmp_path / "11" / "project.json").unlink()
    dock = make()
    rows = dock.scans.welcome.projects
    qtbot.waitUntil(lambda: rows.count() == 10, timeout=10_000)
    assert rows.isVisibleTo(dock) and rows.item(0).text().endswith("/11")
    assert [bool(rows.item(row).flags()) for row in range(10)] == [False] + [True] * 9
    rows.itemClicked.emit(rows.item(3))
    assert dock.session.project.root == tmp_path / "8" and not dock.scans.welcome.isVisibleTo(dock)
    qtbot.waitUntil(lambda: dock.scans.recent.projects[0].folder == tmp_path / "8", timeout=10_000)
    menu = dock.scans.choose.menu()
    menu.aboutToShow.emit()
    entries = [action for action in menu.actions() if not action.isSeparator()]
    assert [action.isEnabled() for action in entries] == [True, True, False] + [True] * 9 + [False]
    entries[3].trigger()
    assert dock.session.project.root == tmp_path / "10"


def test_a_recent_project_that_has_just_gone_is_not_made_anew(make, said, tmp_path):
    make().scans.open_recent(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    assert said == [("error", f"{tmp_path / 'gone'} is no longer there; open the project where it is now.")]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"a": ['])
def test_a_damaged_list_of_projects_is_an_empty_one(content, tmp_path):
    recent_projects.FILE.parent.mkdir()
    recent_projects.FILE.write_bytes(content)
    assert recent_projects.read() == []
    assert recent_projects.remember(tmp_path) == [tmp_path]
    assert json.loads(recent_projects.FILE.read_text()) == [str(tmp_path)]


def test_a_home_that_cannot_be_written_keeps_no_project_from_opening(make, tmp_path):
    recent_projects.FILE.parent.write_bytes(b"a file in the place of the folder")
    dock = make()
    dock.open(Project.create(tmp_path / "project").root)
    assert dock.session.project is not None


# --- the sample project ------------------------------------------------------------------------------


def test_one_click_makes_a_project_with_painted_slices(make, qtbot, said, home):
    dock = make()
    assert str(home / "medssl-sample") in dock.scans.welcome.sample.toolTip()
    dock.scans.welcome.sample.click()
    qtbot.waitUntil(lambda: dock.session.scan is not None, timeout=60_000)
    project, session = dock.session.project, dock.session
    assert project.root == home / "medssl-sample" and len(project.scans) == 2
    assert session.scan in session.annotated and len(session.annotation.complete) == samples.N_PAINTED
    painted = {int(value) for value in np.unique(session.annotation.labels)} - {0}
    assert painted == {item.id for item in project.classes} and dock.train.isEnabled()
    assert dock.scans.sample_note.isVisibleTo(dock.scans)
    before = (project.root / "project.json").stat().st_mtime_ns
    samples.make_sample_project(project.root)
    assert (project.root / "project.json").stat().st_mtime_ns == before
    assert not [text for severity, text in said if severity == "error"]
