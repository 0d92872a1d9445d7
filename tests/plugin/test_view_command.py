"""`medssl view PATHS` opens a window with what was given, and prints nothing of its libraries."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from medssl.core.project.project import Project

pytestmark = pytest.mark.viewer
WATCHER = Path(__file__).parent / "window_watcher"
PATHS = os.pathsep.join((str(WATCHER), *sys.path))


def test_the_window_shows_what_exists_and_the_command_names_what_does_not(tmp_path, scan_file):
    """nibabel has something to say about a negative spacing; the note about it is ours."""
    content = bytearray(gzip.decompress(scan_file.read_bytes()))
    content[80:84] = np.float32(-1.5).tobytes()  # pixdim[1]
    scan = tmp_path / "scan.nii"
    scan.write_bytes(content)
    missing = tmp_path / "nosuch.nii.gz"
    command = [sys.executable, "-m", "medssl", "view", str(scan), str(missing)]
    environment = {**os.environ, **in_an_empty_home(tmp_path / "home"), "PYTHONPATH": PATHS}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    # With an error of the window, the command would end without the second line.
    named = f"{missing} does not exist; check the path."
    assert done.stderr.splitlines() == [named, "Skipped 1; see the messages above."]
    note, shown = done.stdout.splitlines()
    assert note.startswith("WARNING: scan.nii: Its sform")
    assert json.loads(shown) == {
        "title": "napari-medssl",
        "visible": True,
        "scans": ["scan"],
        "layers": ["scan"],
    }
    assert done.returncode == 1
    assert list(Project.open(tmp_path / "medssl-project").scans) == ["scan"]


def in_an_empty_home(folder: Path) -> dict[str, str]:
    """Environment variables that make a new folder the home and the place of all settings."""
    folder.mkdir()
    names = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    return dict.fromkeys(names, str(folder))
