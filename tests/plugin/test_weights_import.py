"""Weights of another project come in through the menu of the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from medssl.nn.models import checkpoint
from qtpy.QtGui import QAction

from napari_medssl.widgets.weights_import import TITLE


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a network that knows "Tumour"."""
    card = {
        "kind": "finetune",
        "job": {"job": "finetune", "project": "elsewhere"},
        "plan": {},
        "classes": [{"id": 1, "name": "Tumour"}],
        "run": "0004-finetune-from-shapes",
        "step": 7,
    }
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(checkpoint.as_bytes({"modules.average.head.weight": torch.zeros(3)}, card))
    return path


def entry(dock) -> QAction:
    menu = dock.scans.choose.menu()
    menu.aboutToShow.emit()
    return next(action for action in menu.actions() if TITLE in action.text())


def test_weights_become_a_run_and_their_class_one_of_the_project(qtbot, dock, weights, said):
    known = [item.name for item in dock.session.project.classes]
    dock.scans.weights_import.add(weights)
    qtbot.waitUntil(lambda: bool(dock.session.runs("finetune")), timeout=10_000)
    assert dock.session.runs("finetune")[0].id.endswith("-finetune-imported")
    assert [item.name for item in dock.session.project.classes] == [*known, "Tumour"]
    assert dock.annotate.classes.rowCount() == len(known) + 1
    assert dock.session.resumable("finetune") is None
    assert any("segment with it in step 5" in text for _, text in said)


def test_a_file_without_weights_is_said_and_makes_no_run(qtbot, dock, tmp_path, said):
    (tmp_path / "scan.safetensors").write_bytes(b"no weights")
    dock.scans.weights_import.add(tmp_path / "scan.safetensors")
    qtbot.waitUntil(lambda: any(severity == "error" for severity, _ in said), timeout=10_000)
    assert "scan.safetensors is not a medssl checkpoint" in said[-1][1]
    assert not dock.session.all_runs


def test_the_entry_is_grey_while_a_job_runs(dock):
    assert entry(dock).isEnabled()
    dock.session.begin("finetune")
    assert not entry(dock).isEnabled() and "running" in entry(dock).toolTip()
