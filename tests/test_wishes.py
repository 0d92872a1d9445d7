"""docs/wishes.md names tests that exist; some of these stand here."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\d+) \|.*\|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?")
QT = {"pyqt5", "pyqt6", "pyside2", "pyside6"}
OPENCV = {"opencv-python", "opencv-python-headless", "opencv-contrib-python"}


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "wishes.md").read_text(encoding="utf-8")


# --- the page ----------------------------------------------------------------------------------------


def test_all_are_there_once_and_in_order(page: str) -> None:
    assert [int(number) for number in ROW.findall(page)] == list(range(1, 56))


def test_every_row_has_a_thread_an_answer_and_a_test_or_a_word_on_it(page: str) -> None:
    for row in ROW.finditer(page):
        _, asked, here, held = (cell.strip() for cell in row[0].strip("|").split("|"))
        assert re.search(r"\(\[.+\]\(https://github\.com/\S+/\d+\)\)$", asked), asked
        assert here.endswith("."), here
        assert "::test_" in held or held.startswith("no test"), held


def test_every_test_that_is_named_exists(page: str) -> None:
    named = NAMED.findall(page)
    assert len(named) > 40
    missing = [f"{path}::{name}" for path, name in named if name not in ("", *_tests_of(path))]
    assert not missing


def _tests_of(path: str) -> set[str]:
    """The test functions of a file, which is not imported."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"}


# --- dependencies (27, 29, 35) -----------------------------------------------------------------------


def dependencies() -> dict[str, str]:
    """Name and bounds of what an installation without extras brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = (re.match(r"([\w.-]+)(.*)", each) for each in project["dependencies"])
    return {each[1].lower(): each[2] for each in found if each}


def test_no_qt_and_no_opencv_come_with_the_plugin() -> None:
    assert not (QT | OPENCV) & set(dependencies())
    imported = imports_of("napari_medssl") | imports_of("training/medssl")
    assert not {"cv2", "PyQt5", "PyQt6", "PySide2", "PySide6"} & {name.split(".")[0] for name in imported}


def test_torch_2_9_is_not_installed() -> None:
    assert "!=2.9.*" in dependencies()["torch"]


def test_versions_are_open_upwards() -> None:
    bounds = dependencies()
    assert all(bound.startswith(">=") for bound in bounds.values())
    assert [name for name, bound in bounds.items() if "<" in bound or "==" in bound or "~" in bound] == [
        "monai"
    ]


# --- imports (30, 36) --------------------------------------------------------------------------------


@functools.cache
def imports_of(folder: str) -> frozenset[str]:
    """Full names of all that the modules of a folder import, wherever in them."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names |= {f"{node.module}.{each.name}" for each in node.names}
    return frozenset(names)


def test_nothing_uses_multiprocessing() -> None:
    imported = imports_of("napari_medssl") | imports_of("training/medssl")
    assert "napari.layers.Image" in imported
    assert not [name for name in imported if "multiprocessing" in name or "ProcessPool" in name]


def test_no_private_module_of_napari_is_imported() -> None:
    names = (name.split(".") for name in imports_of("napari_medssl"))
    assert not [name for name in names if name[0] == "napari" and any(part[0] == "_" for part in name)]


# --- threads (32) ------------------------------------------------------------------------------------

IN_TWO_THREADS = """
import threading
from types import SimpleNamespace
from qtpy.QtCore import QCoreApplication, QThreadPool, QTimer
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.messages import Messages

application = QCoreApplication([])
where = {}

def steps():
    where["computed"] = threading.get_ident()
    yield 1
    yield 2

def show(result):
    where[f"shown {result}"] = threading.get_ident()

def end():
    where["ended"] = threading.get_ident()
    application.quit()

worker = LatestOnlyWorker(SimpleNamespace(closed=False, messages=Messages()))
worker.submit(steps, show, end)
QTimer.singleShot(200_000, application.quit)
application.exec()
QThreadPool.globalInstance().waitForDone()  # or the thread outlives what it tells its end to
own = threading.get_ident()
print({name: thread == own for name, thread in where.items()})
"""


def test_what_a_thread_computes_is_shown_in_the_viewers_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_TWO_THREADS],
        capture_output=True, text=True, timeout=240, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = {"computed": False, "shown 1": True, "shown 2": True, "ended": True}
    assert ast.literal_eval(done.stdout.strip()) == expected
