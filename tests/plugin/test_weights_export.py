"""A network leaves the viewer through the menu of step 5, with the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from medssl.core.jobs import FinetuneJob, Plan, to_json
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog

from napari_medssl.widgets.weights_export import NO_NETWORK

PATIENCE = 120_000
PLAN = Plan(2, 0, (0.0, 1.0, 1.0), (3, 16, 16), 1, (4, 8, 8), ((1, 1), (2, 2), (2, 2)))


@pytest.fixture
def network(project) -> str:
    """Id of a fine-tuning with a small network."""
    run = project.new_run("finetune", to_json(FinetuneJob("project")), "from-random")
    classes = [{"id": item.id, "name": item.name} for item in project.classes]
    state = build(PLAN, len(classes) + 1, 0).state_dict()
    card = {"kind": "finetune", "plan": to_json(PLAN), "classes": classes, "run": run.id, "step": 1}
    checkpoint.save(run.checkpoint, checkpoint.pack("modules.network", state), card)
    return run.id


def entry(dock, words: str) -> QAction:
    menu = dock.prediction.export.menu
    menu.aboutToShow.emit()
    return next(action for action in menu.actions() if words in action.text())


def choose(monkeypatch, path: Path) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))


@pytest.mark.parametrize(("words", "name"), [("ONNX", "network.onnx"), ("bundle", "bundle")])
def test_the_network_is_written_by_the_engine(
    network, qtbot, dock, said, monkeypatch, tmp_path, words, name
) -> None:
    choose(monkeypatch, tmp_path / name.removesuffix(".onnx"))
    entry(dock, words).trigger()
    assert dock.session.job.running and not entry(dock, words).isEnabled()
    qtbot.waitUntil(lambda: not dock.session.job.running, timeout=PATIENCE)
    assert (tmp_path / name).exists() and not said
    text = dock.prediction.status.text()
    assert "Export of the network finished." in text and f"has the network of {network}" in text


def test_a_name_that_is_taken_is_said_and_starts_no_job(network, dock, said, monkeypatch, tmp_path) -> None:
    (tmp_path / "taken.onnx").touch()
    choose(monkeypatch, tmp_path / "taken.onnx")
    entry(dock, "ONNX").trigger()
    ((severity, text),) = said
    assert severity == "error" and "taken.onnx exists" in text
    assert not dock.session.job.running


def test_without_a_network_the_entries_are_grey(dock) -> None:
    assert not entry(dock, "bundle").isEnabled() and entry(dock, "ONNX").toolTip() == NO_NETWORK
