"""medssl view: what cannot be shown is one sentence, and Qt stays out of this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from medssl.core.project.project import Project

BINDINGS = ("PyQt5", "PyQt6", "PySide2", "PySide6")


def view(*paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medssl", "view", *map(str, paths)]
    environ = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    done = view(tmp_path / "scan.nii.gz")
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path / 'scan.nii.gz'} does not exist; check the path.\n"


def test_two_projects(tmp_path: Path) -> None:
    roots = [Project.create(tmp_path / name).root for name in ("a", "b")]
    done = view(*roots)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert str(roots[0]) in done.stderr and str(roots[1]) in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a display, or none is needed")
def test_no_display() -> None:
    done = view(DISPLAY=":4321", WAYLAND_DISPLAY="", QT_QPA_PLATFORM="xcb")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("No window can be opened here (") and "display" in done.stderr


def test_no_qt_binding(tmp_path: Path) -> None:
    for name in BINDINGS:
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    paths = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = view(PYTHONPATH=paths)
    assert done.returncode == 1
    assert done.stderr == "napari has no Qt to draw a window with; install a binding: pip install PyQt6.\n"
