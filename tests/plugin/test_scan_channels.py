"""Channels of a scan in the viewer: the table's menu adds them, and each has a layer below its scan."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.project.project import Project
from napari.components import ViewerModel
from qtpy.QtWidgets import QFileDialog, QInputDialog

from napari_medssl import layers
from napari_medssl.widgets import Dock
from napari_medssl.widgets.scan_channels import name_from
from napari_medssl.widgets.scan_table import MODALITY, NAME


def write(path: Path, seed: int, shape: tuple[int, ...] = (10, 9, 6), spacing: float = 2.0) -> Path:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([spacing, spacing, spacing, 1])), path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.create(tmp_path / "project")
    for name in ("p1", "p2"):
        made.add_scan(write(tmp_path / f"{name}_t1.nii", int(name[1])), name=name)
    made.add_channel("p2", write(tmp_path / "p2_flair.nii", 5), "flair")
    return made


def channels_shown(dock) -> list[str]:
    """Names of the scan's layer and of those of its further channels, from the bottom."""
    roles = (layers.CHANNEL, layers.SCAN)
    stack = dock.workspace.viewer.layers
    return [layer.name for layer in stack if layers.entry_of(layer).get("role") in roles]


def texts(dock, scan: str) -> list[str]:
    return [action.text() for action in dock.scans.table.menu(scan).actions()]


def test_a_file_becomes_a_channel_and_a_hidden_layer_above_the_scan(
    dock, qtbot, project, tmp_path, monkeypatch, said
) -> None:
    path = write(tmp_path / "p1_T2.nii", 9, (20, 18, 12), 1.0)
    asked = []
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *given: (str(path), ""))
    monkeypatch.setattr(
        QInputDialog, "getItem", lambda parent, title, label, names: asked.append(names) or ("T2", True)
    )
    dock.scans.table.channels.ask(project.scans["p1"])
    qtbot.waitUntil(lambda: channels_shown(dock) == ["p1", "p1 t2"], timeout=20_000)
    assert asked == [["flair", "t2"]]  # that of the other scan first
    layer = dock.workspace.viewer.layers["p1 t2"]
    assert layer.data.shape == dock.workspace.scan_layer.data.shape and not layer.visible
    (note,) = dock.feedback.messages.shown
    assert note.startswith("t2 of p1: ") and "resampled" in note and ("warning", note) in said
    assert dock.scans.table.item(0, NAME).text().endswith("\nMR, t2")
    assert Project.open(project.root).scans["p1"].channel_names == ("", "t2")


def test_channels_go_with_their_scan_and_when_they_are_removed(dock, qtbot, project) -> None:
    assert channels_shown(dock) == ["p1"] and "Add channel…" in texts(dock, "p1")
    dock.scans.table.step(1)
    qtbot.waitUntil(lambda: channels_shown(dock) == ["p2", "p2 flair"], timeout=20_000)
    assert "Remove channel flair" in texts(dock, "p2")
    dock.scans.table.step(-1)
    qtbot.waitUntil(lambda: channels_shown(dock) == ["p1"], timeout=20_000)
    dock.scans.table.step(1)
    qtbot.waitUntil(lambda: channels_shown(dock) == ["p2", "p2 flair"], timeout=20_000)
    dock.scans.table.channels.remove(project.scans["p2"], "flair")
    qtbot.waitUntil(lambda: channels_shown(dock) == ["p2"], timeout=20_000)


def test_each_channel_has_a_menu_of_its_own_modality(dock, qtbot, project) -> None:
    before = project.image("p2", "flair").copy()
    menus = {action.text(): action.menu() for action in dock.scans.table.menu("p2").actions()}
    chosen = next(each for each in menus["Modality of flair"].actions() if each.text() == "CT")
    assert not chosen.isChecked() and "Modality" in menus
    chosen.trigger()
    qtbot.waitUntil(lambda: dock.session.project.scan("p2").channels[0].modality == "ct", timeout=20_000)
    scan = Project.open(project.root).scans["p2"]
    assert (scan.modality, scan.channels[0].modality_source) == ("mr", "user")
    assert not np.array_equal(Project.open(project.root).image("p2", "flair"), before)
    item = dock.scans.table.item(list(project.scans).index("p2"), MODALITY)
    qtbot.waitUntil(lambda: "flair: CT (as set)" in item.toolTip(), timeout=20_000)


def test_what_does_not_fit_is_one_sentence(dock, qtbot, project, tmp_path, said) -> None:
    dock.scans.table.channels.add(project.scans["p1"], tmp_path / "p1_t1.nii", "t2")
    qtbot.waitUntil(lambda: ("error", True) in [(kind, "already" in text) for kind, text in said])
    assert project.scans["p1"].channels == ()


def test_a_sequence_of_another_place_is_refused_until_the_next_attempt(
    dock, qtbot, project, tmp_path, said
) -> None:
    far = np.diag([2.0, 2, 2, 1])
    far[:3, 3] = 500
    values = np.random.default_rng(7).normal(size=(10, 9, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, far), tmp_path / "far.nii")
    channels, messages = dock.scans.table.channels, dock.feedback.messages
    channels.add(project.scans["p1"], tmp_path / "far.nii", "t2")
    qtbot.waitUntil(lambda: bool(messages.shown), timeout=20_000)
    (sentence,) = messages.shown
    assert "far.nii" in sentence and said == [("error", sentence)]
    assert project.scans["p1"].channels == () and channels_shown(dock) == ["p1"]
    dock.steps[1].expand()
    dock.steps[0].expand()
    assert messages.shown == [sentence] and messages.isVisible()
    channels.add(project.scans["p1"], write(tmp_path / "near.nii", 8), "t2")
    qtbot.waitUntil(lambda: channels_shown(dock) == ["p1", "p1 t2"], timeout=20_000)
    assert not messages.shown


def test_a_folder_of_nnunet_s_files_gives_scans_with_channels(qtbot, said, tmp_path) -> None:
    (tmp_path / "imagesTr").mkdir()
    for number in range(4):
        write(tmp_path / "imagesTr" / f"case{number // 2}_000{number % 2}.nii.gz", number)
    dock = Dock(ViewerModel())
    qtbot.addWidget(dock)
    dock.scans.add([tmp_path / "imagesTr"])
    qtbot.waitUntil(lambda: channels_shown(dock) == ["case0", "case0 0001"], timeout=30_000)
    qtbot.waitUntil(lambda: not dock.scans.adder.busy, timeout=30_000)
    assert list(dock.session.project.scans) == ["case0", "case1"]
    dock._leave()


def test_of_a_4d_file_volumes_are_chosen(qtbot, said, tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        QInputDialog, "getText", lambda *given, text: asked.append(given[2]) or ("1, 0", True)
    )
    dock = Dock(ViewerModel())
    qtbot.addWidget(dock)
    dock.scans.add([write(tmp_path / "four.nii.gz", 0, (10, 9, 6, 3))])
    qtbot.waitUntil(lambda: channels_shown(dock) == ["four", "four 0000"], timeout=30_000)
    assert len(asked) == 1 and asked[0].startswith("four.nii.gz: which volumes")
    assert dock.session.project.scans["four"].volume == 1
    assert not dock.feedback.messages.shown and not said
    dock._leave()


def test_a_4d_file_of_which_no_volume_is_chosen_says_why_it_is_not_there(
    dock, qtbot, said, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(QInputDialog, "getText", lambda *given, text: ("", False))
    dock.scans.add([write(tmp_path / "four.nii.gz", 0, (10, 9, 6, 3))])
    qtbot.waitUntil(lambda: not dock.scans.adder.busy and bool(said), timeout=30_000)
    (sentence,) = dock.feedback.messages.shown
    assert "four.nii.gz is not one 3D volume" in sentence and said == [("error", sentence)]


@pytest.mark.parametrize(
    "file, first, name",
    [
        ("p1_T2.nii.gz", "p1_T1.nii.gz", "t2"),
        ("sub-01_FLAIR.nii", "sub-01_T1w.nii", "flair"),
        ("a.nii", "b.nii", "a"),
    ],
)
def test_names_come_from_what_tells_the_files_apart(file: str, first: str, name: str) -> None:
    assert name_from(Path(file), Path(first)) == name
