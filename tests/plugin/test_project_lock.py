"""Two windows on one project: the first may write, the second shows it and says who has it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import SoftFileLease
from medssl.core.errors import UserError
from medssl.core.project import window_lock
from medssl.core.project.project import Annotation, LabelClass, Project
from napari.components import ViewerModel
from user_simulation import open_and_wait

from napari_medssl.interactive import server
from napari_medssl.model.job_factory import pretrain_job
from napari_medssl.widgets import Dock

HOLD_AND_DIE = """
import os, sys
from pathlib import Path
from qtpy.QtWidgets import QApplication
application = QApplication([])
from napari_medssl.engine.project_lock import ProjectLock
from napari_medssl.model.session import Session
session = Session()
lock = ProjectLock(session)
session.open(Path(sys.argv[1]))
assert not session.read_only, session.read_only
print("held", flush=True)
sys.stdin.readline()
os._exit(1)
"""


@pytest.fixture
def project(small_project: Project) -> Project:
    small_project.save_annotation("scan", Annotation(np.ones((6, 9, 10), np.uint8), ((0, 2),)))
    return small_project


@pytest.fixture
def open_window(qtbot, said, project):
    """Opens one more window on the project."""
    opened = []

    def window() -> Dock:
        made = Dock(ViewerModel())
        qtbot.addWidget(made)
        made.show()
        open_and_wait(made, project.root)
        opened.append(made)
        return made

    yield window
    for made in opened:
        made._leave()


@pytest.fixture
def another_process(project):
    """A viewer in a process of its own that has the project open and dies without a word."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_DIE, str(project.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def files_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_second_window_says_who_has_the_project(another_process, open_window, said):
    second = open_window()
    ((severity, text),) = said
    assert severity == "warning" and f"process {another_process.pid} on " in text and "since " in text
    assert "close the other window" in text and text == second.session.read_only
    for step in second.steps:
        step.expand()
        assert second.feedback.read_only_line.text() == text and second.feedback.read_only_line.isVisible()
    assert not second.feedback.messages.shown, "which is said once"


def test_the_second_window_shows_everything_and_writes_nothing(another_process, open_window, project, said):
    before = files_of(project.root)
    second = open_window()
    layer = second.workspace.annotation_layer
    assert layer.data[2, 3, 3] == 1 and not layer.editable
    assert not second.scans.files.isEnabled()
    for start in (second.pretrain.start, second.finetune.start, second.features.compute):
        assert not start.isEnabled()
    second.annotate.new_annotation()
    second.annotate.toggle_complete()
    second.annotate.add_class()
    second.workspace.leave()
    with pytest.raises(UserError, match="open in another window"):
        second.jobs.start(pretrain_job(second.session, "pgl", "quick", 1))
    assert layer.mode != "paint" and second.session.annotation.complete == ((0, 2),)
    after = files_of(project.root)
    assert before.keys() == after.keys() and before == after


def test_what_a_read_only_window_cannot_do_is_grey_and_says_why(another_process, open_window):
    second = open_window()
    annotate, prediction, features = second.annotate, second.prediction, second.features
    grey = (
        second.scans.files, second.scans.dicom, annotate.classes, annotate.add, annotate.mask_import,
        annotate.tools.brush, annotate.tools.sure, annotate.tools.eraser, annotate.complete,
        annotate.next.button, second.train,
        second.pretrain.start, second.pretrain.minutes, second.finetune.start, second.finetune.weights,
        prediction.accept, prediction.segment, prediction.apply_button, prediction.export.every,
        features.compute, features.compute_all, features.landmarks.set_button,
        *([annotate.interactive.switch] if server.is_installed() else []),
    )  # fmt: skip
    for control in grey:
        assert not control.isEnabled() and control.toolTip() == second.session.read_only, control
    for step in second.steps:
        step.expand()
    assert not any(step.body.advanced.isVisible() for step in second.steps if hasattr(step.body, "advanced"))
    assert second.scans.choose.isEnabled() and prediction.export.one.isEnabled()


def test_a_window_that_died_leaves_nothing_in_the_way(another_process, open_window, said):
    another_process.communicate("die\n")
    window = open_window()
    assert not window.session.read_only and not said
    assert window.workspace.annotation_layer.editable


def test_when_the_first_window_closes_the_second_may_write(open_window, said, project):
    first, second = open_window(), open_window()
    assert not first.session.read_only and second.session.read_only
    first.workspace.annotation_layer.paint((5, 5, 5), 2)
    first._leave()
    second.project_lock.poll()
    assert not second.session.read_only and second.workspace.annotation_layer.editable
    assert second.pretrain.start.isEnabled() and not second.feedback.read_only_line.isVisible()
    assert second.workspace.annotation_layer.data[5, 5, 5] == 2, "what the first one painted has come along"


def test_a_holder_elsewhere_without_a_sign_is_gone(open_window, project, monkeypatch):
    monkeypatch.setattr(window_lock, "LEASE_SECONDS", 3.0)
    lease, lock = (
        project.root / window_lock.LEASE_FILE,
        SoftFileLease(project.root / window_lock.LEASE_FILE, lease_duration=3.0),
    )
    with lock:
        sign = lease.read_text()
    lease.write_text(sign.replace(platform.node(), "another-host"))
    window = open_window()
    assert window.session.read_only
    time.sleep(3.1)
    window.project_lock.poll()
    assert not window.session.read_only


def test_the_command_line_goes_on_beside_a_window(open_window, project, second_file):
    window = open_window()
    beside = Project.open(project.root)
    beside.add_scan(second_file)
    window.session.set_class(LabelClass(7, "seven", "#123456"))
    assert set(Project.open(project.root).scans) == {"scan", "other"}


def test_a_folder_that_cannot_be_written_is_shown(open_window, project, said, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.SoftFileLease.acquire", refuse)
    window = open_window()
    assert "cannot be written to" in window.session.read_only and "copy it to" in said[0][1]
    assert window.workspace.scan_layer is not None
