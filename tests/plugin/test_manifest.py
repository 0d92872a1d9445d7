"""What napari reads about us before it imports us."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from npe2 import PluginManifest
from npe2.types import PythonName

import napari_medssl

MANIFEST = Path(napari_medssl.__file__).parent / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(MANIFEST)


def test_npe2_finds_the_manifest_valid():
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(MANIFEST)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_python_name_imports(manifest):
    from npe2.manifest.utils import import_python_name

    for command in manifest.contributions.commands:
        assert callable(import_python_name(PythonName(command.python_name))), command.id


def test_it_is_found_where_it_is_installed(manifest):
    points = distribution("napari-medssl").entry_points.select(group="napari.manifest")
    (point,) = points
    module, _, name = point.value.partition(":")
    assert (Path(find_spec(module).origin).parent / name).samefile(MANIFEST)
    assert manifest.name == "napari-medssl"


def test_the_file_at_the_root_is_the_same_one():
    root = MANIFEST.parents[1] / "napari.yaml"
    assert root.read_text() == MANIFEST.read_text()


def test_readers_claim_no_file_that_only_ends_in_gz(manifest):
    patterns = [pattern for reader in manifest.contributions.readers for pattern in reader.filename_patterns]
    assert "*.gz" not in patterns and "*.nii.gz" in patterns


def test_the_dock_stands_in_the_layers_menus(manifest):
    for menu in ("napari/layers/segment", "napari/layers/annotate"):
        assert [item.command for item in manifest.contributions.menus[menu]] == ["napari-medssl.dock"]


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "scan.mha", "scan.dcm", "folder"])
def test_napari_s_question_for_a_reader_has_ours_chosen(qtbot, napari_app, tmp_path, name):
    from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog, prepare_remaining_readers
    from napari.plugins import _initialize_plugins

    _initialize_plugins()
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.touch()
    readers = prepare_remaining_readers([str(path)])
    assert len(readers) > 1
    dialog = QtReaderDialog(str(path), readers=readers)
    qtbot.addWidget(dialog)
    assert readers["napari-medssl"] == dialog._get_plugin_choice()
